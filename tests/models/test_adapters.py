import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from models.adapters import (
    ADAPTER_FILE,
    Merged,
    adapter_manifest,
    adapter_parameters,
    add_adapter,
    only_trains,
    read_adapter,
    save_adapter,
)
from models.load import load_base

IDS = torch.tensor([[5, 6, 7, 30, 31]])


@pytest.fixture
def base(tiny_weights):
    return load_base(str(tiny_weights[0]), dtype=torch.float32)


@pytest.fixture
def adapted(base, tiny_weights):
    config, tensors = read_adapter(tiny_weights[1], base)
    return add_adapter(base.model, "start", config, tensors)


@pytest.fixture
def folder(tiny_weights, tmp_path):
    return shutil.copytree(tiny_weights[1], tmp_path / "adapter")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_merged_equals_peft_and_differs_from_the_base(adapted):
    merged = logits(Merged(adapted, "start").model)
    torch.testing.assert_close(merged, logits(adapted), atol=1e-6, rtol=0)
    with adapted.disable_adapter():
        bare = logits(adapted)
    assert (merged - bare).abs().max() > 1e-3
    assert torch.equal(logits(Merged(adapted, None).model), bare)


def test_base_keeps_every_bit_through_many_refreshes(adapted):
    bare = adapted.get_base_model()
    before = {n: p.clone() for n, p in bare.named_parameters() if "lora_" not in n}
    merged = Merged(adapted, "start")
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        for p in adapter_parameters(adapted, "start").values():
            p.data += torch.randn(p.shape, generator=generator)
        merged.refresh()
    for name, parameter in bare.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, before[name]), name


def test_refresh_does_not_drift(adapted):
    merged = Merged(adapted, "start")
    once = logits(merged.model)
    parameters = adapter_parameters(adapted, "start")
    kept = {n: p.detach().clone() for n, p in parameters.items()}
    for _ in range(20):
        for p in parameters.values():
            p.data.mul_(1.7)
        merged.refresh()
    for n, p in parameters.items():
        p.data.copy_(kept[n])
    assert not torch.equal(logits(merged.model), once)  # not before it is told
    merged.refresh()
    assert torch.equal(logits(merged.model), once)


def test_merged_shares_what_the_adapter_leaves_alone(adapted):
    merged = Merged(adapted, "start").model
    bare = adapted.get_base_model()
    shared = merged.get_input_embeddings().weight
    assert shared.data_ptr() == bare.get_input_embeddings().weight.data_ptr()
    assert not any("lora" in n for n, _ in merged.named_modules())


def test_saved_adapter_comes_back_and_loads_with_plain_peft(adapted, base, tmp_path):
    save_adapter(adapted, "start", tmp_path / "a", base=base, format_kind="compact")
    _, tensors = read_adapter(tmp_path / "a", base)
    for name, parameter in adapter_parameters(adapted, "start").items():
        assert torch.equal(tensors[_key(name)], parameter), name
    manifest = adapter_manifest(tmp_path / "a")
    assert manifest == {"base": base.name, "base_sha256": base.sha256, "format": "compact"}
    other = load_base(base.name, dtype=torch.float32)
    plain = PeftModel.from_pretrained(other.model, tmp_path / "a")
    torch.testing.assert_close(logits(plain), logits(adapted), atol=1e-6, rtol=0)


def _key(name):
    return name.replace(".start.", ".")


def test_adapter_of_another_base_is_refused_with_both_hashes(folder, base):
    (folder / "punchline.json").write_text(json.dumps({"base_sha256": "f00d" * 16}))
    with pytest.raises(ValueError, match="f00df00df00d") as refused:
        read_adapter(folder, base)
    assert base.sha256[:12] in str(refused.value)


def test_truncated_adapter_is_refused(folder, base):
    file = folder / ADAPTER_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated"):
        read_adapter(folder, base)


def test_pickled_adapter_is_refused(folder, base):
    (folder / ADAPTER_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="only safetensors adapters are loaded"):
        read_adapter(folder, base)


def test_incomplete_adapter_is_refused(folder, base):
    tensors = load_file(folder / ADAPTER_FILE)
    tensors.popitem()
    save_file(tensors, folder / ADAPTER_FILE)
    config, tensors = read_adapter(folder, base)
    with pytest.raises(ValueError, match="1 tensors missing"):
        add_adapter(base.model, "start", config, tensors)


def test_adapter_of_another_shape_is_refused(folder, base):
    tensors = load_file(folder / ADAPTER_FILE)
    save_file({n: t[..., :1].contiguous() for n, t in tensors.items()}, folder / ADAPTER_FILE)
    config, tensors = read_adapter(folder, base)
    with pytest.raises(ValueError, match="does not fit this base"):
        add_adapter(base.model, "start", config, tensors)


def test_dropout_is_off_in_whatever_is_loaded(base):
    config = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5)
    model = add_adapter(base.model, "student", config, None)
    assert model.peft_config["student"].lora_dropout == 0.0
    model.train()
    assert torch.equal(logits(model), logits(model))


def test_last_layers_are_picked_by_place(adapted):
    everything = adapter_parameters(adapted, "start")
    last = adapter_parameters(adapted, "start", last_layers=1)
    assert set(last) < set(everything)
    assert all(".layers.1." in n for n in last)
    assert set(adapter_parameters(adapted, "start", last_layers=2)) == set(everything)


@pytest.mark.parametrize("layers", [0, 3])
def test_impossible_number_of_layers_is_refused(adapted, layers):
    with pytest.raises(ValueError, match=f"train_layers is {layers}, the model has layers 1..2"):
        adapter_parameters(adapted, "start", last_layers=layers)


def trains(model):
    return {n for n, p in model.named_parameters() if p.requires_grad}


def test_exactly_the_named_parameters_train_and_all_is_put_back(adapted):
    before = trains(adapted)
    chosen = adapter_parameters(adapted, "start", last_layers=1)
    with only_trains(adapted, chosen):
        assert trains(adapted) == set(chosen)
        adapted(input_ids=IDS).logits.sum().backward()
    assert trains(adapted) == before
    assert {n for n, p in adapted.named_parameters() if p.grad is not None} == set(chosen)


def test_switching_adapters_within_is_caught(adapted):
    adapted.add_adapter("student", adapted.peft_config["start"])
    before = trains(adapted)
    with (
        pytest.raises(RuntimeError, match="changed what trains"),
        only_trains(adapted, adapter_parameters(adapted, "start")),
    ):
        adapted.set_adapter("student")
    assert trains(adapted) == before
