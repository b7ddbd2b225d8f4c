"""From a name to a module and a tokenizer, with a hash that adapters and critics are tied to."""

import contextlib
import hashlib
import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.format import CHAT, COMPACT, Format
from models.sources import MANIFEST, resolve


class Base(NamedTuple):
    """Base weights as loaded; never modified."""

    name: str
    model: Any  # a Hugging Face causal LM in eval mode
    tokenizer: Any
    sha256: str  # hash of the tensors, see `fingerprint`
    pad: int


def best_dtype(device: torch.device) -> torch.dtype:
    """Bf16 where the processor multiplies it natively, else fp32 (emulated bf16 is 6x slower)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported()) if supported else False


def load_base(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    download: bool = True,
) -> Base:
    """Load the base `name` refers to (see `models.sources.resolve`), without gradients.

    Raises:
        WeightsError, ValueError: as `resolve`.
        ValueError: the folder is not a causal language model, or no such device here.
    """
    device = _usable(device)
    where = resolve(name, download=download)
    model, tokenizer = load_pretrained(where, dtype=dtype or best_dtype(device))
    model.requires_grad_(False)
    manifest = _manifest(where)
    pad = manifest.get("pad", tokenizer.pad_token_id)
    if pad is None or pad == tokenizer.eos_token_id:
        pad = _free_token(tokenizer)
    sha = fingerprint(Path(where)) if isinstance(where, Path) else _hash_module(model)
    return Base(name, model.to(device).eval(), tokenizer, sha, int(pad))


def _usable(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # unknown, or not of this machine
        fault = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used: {fault}") from error


def base_format(base: Base, kind: str | None = None) -> Format:
    """The format of a student on `base`: chat where there is a template, unless said otherwise."""
    if kind is None:
        kind = CHAT if getattr(base.tokenizer, "chat_template", None) else COMPACT
    return Format(kind, base.tokenizer, int(base.tokenizer.eos_token_id), base.pad)


def load_pretrained(where: Path | str, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a folder, GGUF file or hub id with transformers; quantisation traces are dropped.

    Raises:
        ValueError: not a model, truncated, or weights that are pickled.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kwargs: dict[str, Any] = {}
    target: Path | str = where
    if isinstance(where, Path) and where.suffix == ".gguf":
        target, kwargs = where.parent, {"gguf_file": where.name}
    elif isinstance(where, Path) and not (where / "config.json").exists():
        raise ValueError(f"{where} has no config.json: not a Hugging Face model folder")
    safe = {} if kwargs else {"use_safetensors": True}  # pickles run code when they are read
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(target, dtype=dtype, **kwargs, **safe)
            tokenizer = AutoTokenizer.from_pretrained(target, **kwargs)
    except (SafetensorError, struct.error) as error:  # struct: a GGUF file's header
        raise ValueError(f"{where} is truncated or not what it is called: {error}") from error
    except OSError as error:
        raise ValueError(f"{where} cannot be loaded: {str(error).splitlines()[0]}") from error
    if kwargs:  # dequantised: without this, saving calls the GGUF quantizer
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None  # type: ignore[assignment]
    return model, tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of the loader: our own lines say what happens."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def fingerprint(where: Path) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors in a folder, in name order.

    File layout, shards and metadata do not count. A GGUF file is hashed as it is.
    """
    if where.is_file():
        return hashlib.sha256(where.read_bytes()).hexdigest()
    from safetensors import safe_open

    files = sorted(where.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{where} has no safetensors file: pickled weights are not loaded")
    place: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            place.update(dict.fromkeys(tensors.keys(), file))
    digest = hashlib.sha256()
    for name in sorted(place):
        with safe_open(place[name], framework="pt") as tensors:
            _update(digest, name, tensors.get_tensor(name))
    return digest.hexdigest()


def _hash_module(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        _update(digest, name, tensor)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _manifest(where: Path | str) -> dict[str, Any]:
    file = Path(where) / MANIFEST if isinstance(where, Path) and where.is_dir() else None
    if file is None or not file.exists():
        return {}
    return dict(json.loads(file.read_text()))


def _free_token(tokenizer: Any) -> int:
    """A token that texts do not contain, to fill rows: unknown, begin, or any other special."""
    for token in (tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids):
        if token is not None and token != tokenizer.eos_token_id:
            return int(token)
    return 0 if tokenizer.eos_token_id != 0 else 1
