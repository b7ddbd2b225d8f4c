"""LoRA adapters on one base: load and check, switch, merge into scratch copies, save."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.load import Base, quiet_transformers
from models.sources import MANIFEST

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def adapter_manifest(folder: Path) -> dict[str, Any]:
    """What an adapter folder says of itself: base name, base hash, format."""
    file = folder / MANIFEST
    return dict(json.loads(file.read_text())) if file.exists() else {}


def read_adapter(folder: Path, base: Base) -> tuple[Any, dict[str, Tensor]]:
    """Return the PEFT config and tensors (fp32) of an adapter, after checking what it is for.

    Raises:
        ValueError: no safetensors, truncated, or made for another base (with both hashes).
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / ADAPTER_FILE
    if not file.exists():
        raise ValueError(f"{folder} has no {ADAPTER_FILE}: only safetensors adapters are loaded")
    made_for = adapter_manifest(folder).get("base_sha256")
    if made_for is not None and made_for != base.sha256:
        raise ValueError(
            f"adapter {folder} was made for a base with hash {made_for[:12]}, "
            f"{base.name!r} has {base.sha256[:12]}"
        )
    try:
        tensors = {name: t.float() for name, t in load_file(file).items()}
    except SafetensorError as error:
        raise ValueError(f"adapter {file} is truncated or not safetensors: {error}") from error
    config = LoraConfig.from_pretrained(str(folder))
    return config, tensors


def add_adapter(model: Any, name: str, config: Any, tensors: dict[str, Tensor] | None) -> Any:
    """Put an adapter on the base (wrapped on the first call) and return the PEFT model.

    Raises:
        ValueError: the tensors do not fit the base.
    """
    from peft import PeftModel, get_peft_model

    config = copy.deepcopy(config)
    config.lora_dropout = 0.0  # dropout would move the ratio away from 1 on the first minibatch
    config.inference_mode = False
    config.base_model_name_or_path = None  # PEFT warns of every place a base was loaded from
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
    else:
        with quiet_transformers():
            model = get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=True)
    if tensors is not None:
        set_adapter_values(model, name, tensors)
    return model.eval()


def set_adapter_values(model: Any, name: str, tensors: dict[str, Tensor]) -> None:
    """Overwrite the values of an adapter.

    Raises:
        ValueError: the tensors are not those of this adapter.
    """
    from peft import set_peft_model_state_dict

    try:
        loaded: Any = set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
    except RuntimeError as error:
        raise ValueError(f"adapter {name!r} does not fit this base: {error}") from error
    lost = [k for k in loaded.missing_keys if f".{name}." in k]
    if loaded.unexpected_keys or lost:
        raise ValueError(
            f"adapter {name!r} does not fit this base: {len(lost)} tensors missing, "
            f"{len(loaded.unexpected_keys)} unexpected"
        )


def adapter_parameters(model: Any, name: str, *, last_layers: int | None = None) -> dict[str, Any]:
    """The adapter's parameters by name; only those of the last layers where asked.

    Raises:
        ValueError: `last_layers` is not in 1..number of layers.
    """
    found = {n: p for n, p in model.named_parameters() if f".{name}." in n}
    if last_layers is None:
        return found
    layers = int(model.config.num_hidden_layers)
    if not 1 <= last_layers <= layers:
        raise ValueError(f"train_layers is {last_layers}, the model has layers 1..{layers}")
    kept = {f".layers.{i}." for i in range(layers - last_layers, layers)}
    return {n: p for n, p in found.items() if any(layer in n for layer in kept)}


@contextlib.contextmanager
def only_trains(model: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Within, exactly these parameters require gradients; PEFT's switching turns others on.

    Raises:
        RuntimeError: something else would train (two adapters switched inside one another).
    """
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        p.requires_grad_(n in parameters)
    try:
        yield
        after = {n for n, p in model.named_parameters() if p.requires_grad}
        if after != set(parameters):
            raise RuntimeError(f"{len(after ^ set(parameters))} parameters changed what trains")
    finally:
        for n, p in model.named_parameters():
            p.requires_grad_(before[n])


class Merged:
    """A scratch copy of the base with one adapter merged in, refreshed in place.

    Merging into the base itself would drift (repeated merge and unmerge changes its values), so the
    base keeps its weights, and everything an adapter leaves alone is shared with it.
    """

    def __init__(self, peft_model: Any, adapter: str | None) -> None:
        """Copy; `adapter` None gives the bare base and shares all of its weights."""
        self._layers = _lora_layers(peft_model)
        self._adapter = adapter
        bare = peft_model.get_base_model()
        memo: dict[int, Any] = {}
        for tensor in (*bare.parameters(), *bare.buffers()):
            memo[id(tensor)] = tensor  # deepcopy shares what it finds here
        for layer in self._layers.values():
            memo[id(layer)] = _plain_linear(layer.base_layer, share=adapter is None)
        self.model = copy.deepcopy(bare, memo).eval()
        self._targets = {name: memo[id(layer)] for name, layer in self._layers.items()}
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Merge the adapter's present values again."""
        if self._adapter is None:
            return
        for name, layer in self._layers.items():
            target = self._targets[name].weight
            target.copy_(layer.base_layer.weight)
            if self._adapter in layer.lora_A:
                target.add_(layer.get_delta_weight(self._adapter).to(target.dtype))


def _lora_layers(peft_model: Any) -> dict[str, Any]:
    return {
        name: module
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


def _plain_linear(layer: nn.Linear, *, share: bool) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=False)
    linear.in_features, linear.out_features = layer.in_features, layer.out_features
    weight = layer.weight.detach()
    linear.weight = nn.Parameter(weight if share else weight.clone(), requires_grad=False)
    linear.bias = layer.bias
    return linear


def adapter_state(peft_model: Any, name: str) -> dict[str, Tensor]:
    """The values of an adapter under the names that its file has; they share its memory."""
    from peft import get_peft_model_state_dict

    # embeddings are not trained; "auto" would ask a hub whether the vocabulary was resized
    state = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    return {key: value.detach() for key, value in state.items()}


def save_adapter(peft_model: Any, name: str, folder: Path, *, base: Base, format_kind: str) -> None:
    """Write config, tensors and manifest of one adapter as a PEFT folder plain `peft` can load."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = adapter_state(peft_model, name)
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, folder / ADAPTER_FILE)
    config = copy.deepcopy(peft_model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = base.name
    config.save_pretrained(folder)
    manifest = {"base": base.name, "base_sha256": base.sha256, "format": format_kind}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
