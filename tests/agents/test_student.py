import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.student import Student

PROMPTS = ["The cat slept on the laptop.", "I lost my keys again."]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def write(student, *, k=3, seed=0, **options):
    known = {"temperature": 0.7, "max_tokens": 12, "generator": generator(seed)}
    return student.generate(PROMPTS, k, **(known | options))


def perturb(student, seed=0):
    """Move the student away from its start."""
    for p in student.trainable().values():
        p.data += 0.2 * torch.randn(p.shape, generator=generator(seed))
    student.changed()


def adapter(student):
    return {n: p.detach().clone() for n, p in student.trainable().items()}


def test_same_generator_same_jokes(tiny_student):
    assert write(tiny_student).jokes == write(tiny_student).jokes
    assert write(tiny_student).jokes != write(tiny_student, seed=1).jokes


def test_completions_say_what_was_written(tiny_student):
    done = write(tiny_student)
    assert done.prompts == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert done.mask.sum(-1).tolist() == [len(ids) for ids in done.joke_ids]
    assert done.finished == [ids[-1] == tiny_student.format.eos for ids in done.joke_ids]
    assert not done.logps[~done.mask].any()
    assert (done.logps[done.mask] < 0).all()
    assert [tiny_student.format.decode_joke(ids) for ids in done.joke_ids] == done.jokes


def test_sampling_needs_a_generator(tiny_student):
    with pytest.raises(ValueError, match="generator that is passed in"):
        write(tiny_student, generator=None)


def test_global_random_numbers_are_not_used(tiny_student):
    torch.manual_seed(1)
    one = write(tiny_student).jokes
    torch.manual_seed(2)
    assert write(tiny_student).jokes == one


def test_sampler_and_training_forward_agree(tiny_student):
    perturb(tiny_student)
    done = write(tiny_student)
    torch.testing.assert_close(tiny_student.token_logps(done), done.logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_kl_to_the_start_is_0_at_step_0_and_not_after(tiny_student, temperature):
    done = write(tiny_student, temperature=temperature)
    reference = tiny_student.reference_logps(done)
    torch.testing.assert_close(reference, tiny_student.token_logps(done), atol=1e-5, rtol=0)
    perturb(tiny_student)
    gap = (tiny_student.token_logps(done) - reference)[done.mask]
    assert gap.abs().max() > 1e-2
    assert torch.equal(tiny_student.reference_logps(done), reference)


def test_reference_is_the_start_adapter_and_not_the_bare_base(tiny_student):
    done = write(tiny_student)
    with tiny_student.model.disable_adapter():
        bare = tiny_student.token_logps(done)
    assert (bare - tiny_student.reference_logps(done)).abs().max() > 1e-3


def test_reference_context_answers_for_the_start(tiny_student):
    done = write(tiny_student)
    start = tiny_student.token_logps(done)
    perturb(tiny_student)
    with tiny_student.reference():
        torch.testing.assert_close(tiny_student.token_logps(done), start, atol=1e-6, rtol=0)
    assert (tiny_student.token_logps(done) - start).abs().max() > 1e-2


def test_start_still_writes_as_at_the_start(tiny_student):
    before = write(tiny_student).jokes
    perturb(tiny_student)
    assert write(tiny_student).jokes != before
    assert write(tiny_student, start=True).jokes == before


def test_entropy_is_that_of_the_sampled_distribution(tiny_student):
    done = write(tiny_student, k=1)
    stats = tiny_student.token_stats(done, [0])
    ids = torch.tensor([[*done.prompt_ids[0], *done.joke_ids[0]]])
    with torch.no_grad():
        logits = tiny_student.model(input_ids=ids).logits[0] / 0.7
    p = logits[len(done.prompt_ids[0]) - 1 : -1].softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(
        stats.entropy[0, : len(done.joke_ids[0])], entropy, atol=1e-4, rtol=0
    )


def test_rows_keep_their_place_in_any_order(tiny_student):
    done = write(tiny_student)
    everything = tiny_student.token_logps(done)
    with torch.no_grad():
        some = tiny_student.token_stats(done, [4, 0]).logps
    torch.testing.assert_close(some, everything[[4, 0]], atol=1e-5, rtol=0)


def test_value_head_starts_at_zero_and_does_not_steer(tiny_student):
    head = tiny_student.add_value_head()
    done = write(tiny_student)
    stats = tiny_student.token_stats(done, range(6))
    assert not stats.values.any()
    torch.nn.init.ones_(head.weight)
    values = tiny_student.token_stats(done, range(6)).values
    assert values[done.mask].abs().min() > 0
    assert not values[~done.mask].any()
    with tiny_student.training(tiny_student.trainable()):
        tiny_student.token_stats(done, range(6)).values.sum().backward()
    assert head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in tiny_student.trainable().values())


def test_saved_student_comes_back_bit_for_bit(tiny_student, tiny_weights, tmp_path):
    perturb(tiny_student)
    tiny_student.save(tmp_path / "saved")
    jokes = write(tiny_student).jokes
    base, start = tiny_weights
    into = Student.load(str(base), start, dtype=torch.float32)
    into.load_adapter(tmp_path / "saved")
    for name, value in adapter(tiny_student).items():
        assert torch.equal(into.trainable()[name], value), name
    assert write(into).jokes == jokes
    done = write(into)
    assert torch.equal(into.reference_logps(done), tiny_student.reference_logps(done))


def test_saved_folder_is_a_student_of_its_own(tiny_student, tmp_path):
    perturb(tiny_student)
    tiny_student.save(tmp_path / "saved")
    again = Student.load(str(tmp_path / "saved"), dtype=torch.float32)
    assert again.base.sha256 == tiny_student.base.sha256
    assert again.format.kind == tiny_student.format.kind
    assert write(again).jokes == write(tiny_student).jokes


def test_exported_folder_loads_with_plain_transformers(tiny_student, tmp_path):
    perturb(tiny_student)
    tiny_student.export(tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([tokenizer.encode("Literal: I lost my keys.\nFunny: I found hope.")])
    with torch.no_grad():
        ours, theirs = tiny_student.model(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_fresh_adapter_is_the_bare_base_and_the_same_twice(word_student):
    one, two = word_student(), word_student()
    for name, value in adapter(one).items():
        assert torch.equal(two.trainable()[name], value)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        adapted = one.model(input_ids=ids).logits
        with one.model.disable_adapter():
            bare = one.model(input_ids=ids).logits
    assert torch.equal(adapted, bare)
    assert one.start_sha256 == ""


def test_training_moves_the_student_adapter_alone(tiny_student):
    parameters = tiny_student.trainable()
    assert len(parameters) == 8  # A and B of two projections in two layers
    done = write(tiny_student)
    with tiny_student.training(parameters):
        tiny_student.token_stats(done, range(6)).logps.sum().backward()
    touched = {n for n, p in tiny_student.model.named_parameters() if p.grad is not None}
    assert touched == set(parameters)


def test_adapter_of_another_base_is_refused(tiny_student, word_base, tmp_path):
    tiny_student.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="made for a base with hash"):
        Student.load(str(word_base), tmp_path / "saved", dtype=torch.float32)


def test_manifest_of_another_base_is_refused_by_load_adapter(tiny_student, tmp_path):
    tiny_student.save(tmp_path / "saved")
    file = tmp_path / "saved" / "punchline.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="made for a base with hash 000000000000"):
        tiny_student.load_adapter(tmp_path / "saved")


def test_adapter_of_another_rank_is_refused(tiny_student, tiny_weights, tmp_path):
    fresh = Student.load(str(tiny_weights[0]), dtype=torch.float32)
    fresh.save(tmp_path / "wide")
    before = adapter(tiny_student)
    with pytest.raises(ValueError, match="does not fit"):
        tiny_student.load_adapter(tmp_path / "wide")
    for name, value in before.items():
        assert torch.equal(tiny_student.trainable()[name], value)


def test_incomplete_adapter_is_refused_by_load_adapter(tiny_student, tmp_path):
    tiny_student.save(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    with pytest.raises(ValueError, match="1 tensors missing"):
        tiny_student.load_adapter(tmp_path / "saved")


def test_missing_base_is_one_clear_error(tiny_weights, tmp_path):
    folder = shutil.copytree(tiny_weights[1], tmp_path / "adapter")
    (folder / "punchline.json").write_text(json.dumps({"base": "./gone"}))
    with pytest.raises(ValueError, match=r"'\./gone' is neither"):
        Student.load(str(folder))
