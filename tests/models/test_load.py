import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.load import best_dtype, fingerprint, load_base, load_pretrained


@pytest.fixture
def copy(tiny_weights, tmp_path):
    return shutil.copytree(tiny_weights[0], tmp_path / "copy")


def test_fingerprint_ignores_shards_and_metadata(tiny_weights, tmp_path):
    base = tiny_weights[0]
    tensors = load_file(base / "model.safetensors")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for number, (name, tensor) in enumerate(reversed(tensors.items())):
        file = sharded / f"model-{number:05d}.safetensors"
        save_file({name: tensor}, file, metadata={"made_by": "another hand"})
    assert fingerprint(sharded) == fingerprint(base)


def test_fingerprint_sees_a_single_value(copy):
    before = fingerprint(copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, copy / "model.safetensors")
    assert fingerprint(copy) != before


def test_fingerprint_sees_names_types_and_shapes(tmp_path):
    hashes = set()
    for number, tensors in enumerate(
        (
            {"a": torch.zeros(4)},
            {"b": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
            {"a": torch.zeros(8, dtype=torch.float16)},
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        hashes.add(fingerprint(folder))
    assert len(hashes) == 4


def test_base_is_frozen_named_and_hashed(tiny_weights):
    base = load_base(str(tiny_weights[0]), dtype=torch.float32)
    assert base.sha256 == fingerprint(tiny_weights[0])
    assert base.model.dtype == torch.float32
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.pad == 0


def test_pad_is_never_the_end_token(copy):
    file = copy / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"pad_token": "<eos>", "unk_token": None}))
    base = load_base(str(copy))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    assert base.pad != base.tokenizer.eos_token_id


def test_manifest_names_the_pad(copy):
    (copy / "punchline.json").write_text(json.dumps({"pad": 7}))
    assert load_base(str(copy)).pad == 7


def test_dtype_follows_the_processor(monkeypatch):
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("models.load._cpu_has_bf16", lambda has=has_bf16: has)
        assert best_dtype(torch.device("cpu")) == dtype


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_base(str(tmp_path))


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_pickled_weights_are_never_read(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(ValueError, match="safetensors"):
        load_base(str(copy))
    with pytest.raises(ValueError, match="pickled weights are not loaded"):
        fingerprint(copy)
    assert not trace.exists()


def test_truncated_weights_are_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        load_pretrained(copy, dtype=torch.float32)
