import math

import pytest
import torch

from agents.configs import SFTConfig
from agents.sft import LONGEST, UNLABELLED, examples, train_sft
from agents.student import Student
from models.format import COMPACT
from models.load import base_format, load_base

PAIRS = [
    ("the cat sat on the mat .", "the mat sat on my cat"),
    ("my keys are lost again .", "the keys lost my keys again"),
    ("the bus ran late in rain .", "the rain ran on my bus"),
    ("a dog ate my sock .", "a sock ate my dog and sang"),
]


@pytest.fixture
def base(word_base):
    return load_base(str(word_base), dtype=torch.float32)


def test_only_the_joke_and_its_end_are_labelled(base):
    fmt = base_format(base, COMPACT)
    for (prompt, joke), example in zip(PAIRS, examples(fmt, PAIRS), strict=True):
        asked = fmt.encode_prompt(prompt)
        assert example["input_ids"] == [*asked, *fmt.encode_joke(joke)]
        assert example["labels"][: len(asked)] == [UNLABELLED] * len(asked)
        assert example["labels"][len(asked) :] == fmt.encode_joke(joke)
        assert example["labels"][-1] == fmt.eos


def test_an_example_is_cut_at_the_limit_in_both_columns(base):
    (example,) = examples(base_format(base, COMPACT), [("the cat .", "sat " * 2 * LONGEST)])
    assert len(example["input_ids"]) == len(example["labels"]) == LONGEST


def test_nothing_to_imitate_is_refused(base):
    with pytest.raises(ValueError, match="no \\(prompt, joke\\) pairs"):
        examples(base_format(base, COMPACT), [])


def test_first_loss_is_the_mean_over_joke_tokens_of_the_bare_base(base, tmp_path):
    total, n = 0.0, 0
    for example in examples(base_format(base, COMPACT), PAIRS):
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            logps = base.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        for at, label in enumerate(example["labels"][1:]):
            if label != UNLABELLED:
                total, n = total - float(logps[at, label]), n + 1
    config = SFTConfig(batch_size=len(PAIRS), max_steps=1, lora_dropout=0.0)
    done = train_sft(config, base, PAIRS, tmp_path, seed=0)
    assert done["steps"] == 1
    assert done["loss"] == pytest.approx(total / n, rel=1e-4)


def test_a_student_made_by_imitation_says_what_it_was_taught(base, word_base, tmp_path):
    config = SFTConfig(
        batch_size=4, max_steps=60, learning_rate=2e-2, warmup_steps=2, lora_dropout=0.0
    )
    done = train_sft(config, base, PAIRS, tmp_path, seed=0)
    assert math.isfinite(done["loss"])
    student = Student.load(str(word_base), tmp_path / "adapter", dtype=torch.float32)
    told = student.generate([p for p, _ in PAIRS], 1, temperature=0.0, max_tokens=12)
    assert sum(a == b for a, (_, b) in zip(told.jokes, PAIRS, strict=True)) >= 3
