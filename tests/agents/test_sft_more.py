import json
import math

import pytest
import torch
from safetensors.torch import load, save

from agents.feedback_configs import SFTMoreConfig
from agents.learner import as_completions, epoch_rows, joined
from agents.sft_more import SFTMore, corpus_examples
from envs.prompts import teacher_jokes

EXAMPLES = [
    ("the cat sat on the mat .", "my cat sat on my soup ."),
    ("my keys are lost again .", "the keys ran over again ."),
    ("the bus ran late in rain .", "a bus in rain sang ."),
    ("a dog ate my sock .", "my sock slept in a dog ."),
    ("my gym slept .", "the gym ate ."),
]
SMALL = {
    "updates": 20,
    "prompts_per_update": 2,
    "group_size": 2,
    "minibatches": 2,
    "learning_rate": 1e-2,
    "warmup_updates": 0,
}


class NoEnv:
    """Asking it anything fails: imitation asks no critic."""

    def __getattr__(self, name):
        raise AssertionError(f"the environment was asked for {name}")


@pytest.fixture
def make(word_student):
    def make(**changes):
        config = SFTMoreConfig(**(SMALL | changes))
        return SFTMore(config, word_student(), seed=0, examples=EXAMPLES)

    return make


def values(agent):
    return agent.student.adapter_values()


def test_no_critic_is_asked_and_nothing_is_judged(make):
    agent = make()
    metrics = agent.update(agent.collect(NoEnv()))
    assert math.isnan(metrics["reward/mean"])
    assert math.isnan(metrics["policy/kl_per_joke"])
    assert metrics["imitation/jokes"] == agent.config.jokes_per_update == 4
    assert agent.config.judged_jokes(16) == 0


def test_first_loss_is_the_start_students_at_temperature_1(make):
    agent = make(minibatches=1)
    rollout = agent.collect(NoEnv())
    done = rollout.completions
    assert done.temperature == 1.0
    expected = -agent.student.reference_logps(done).sum() / done.mask.sum()
    loss = agent.update(rollout)["loss/imitation"]
    assert loss == pytest.approx(float(expected), abs=1e-4)


def sampled(agent):
    return agent.student.generate(
        [p for p, _ in EXAMPLES], 8,
        temperature=1.0, max_tokens=40, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def test_examples_are_learned_with_their_ends(make):
    agent = make(updates=15, epochs=2, learning_rate=3e-2)
    before = sampled(agent)
    losses = [agent.update(agent.collect(NoEnv()))["loss/imitation"] for _ in range(15)]
    assert losses[0] > 2.9  # untrained: log 39 = 3.7
    assert losses[-1] < losses[0] - 0.4
    now = sampled(agent)
    assert sum(now.finished) > sum(before.finished)
    assert now.mask.sum() < 0.7 * before.mask.sum()  # the examples are a third as long


def test_corpus_examples_are_the_train_splits():
    teacher = [(p.text, joke) for p, joke in teacher_jokes("train")]
    assert corpus_examples(False) == teacher
    everything = corpus_examples(True)
    assert everything[: len(teacher)] == teacher
    assert len(everything) > len(teacher)
    held_out = {p.text for split in ("validation", "test") for p, _ in teacher_jokes(split)}
    assert not held_out & {prompt for prompt, _ in everything}


def test_state_survives_json_and_safetensors(make):
    agent = make()
    for _ in range(3):
        agent.update(agent.collect(NoEnv()))
    state, other = agent.state_dict(), make()
    with torch.no_grad():
        for name, parameter in other.student.trainable().items():
            parameter.copy_(values(agent)[name])
    other.load_state_dict(
        {
            "tensors": load(save(state["tensors"])),
            "scalars": json.loads(json.dumps(state["scalars"])),
        }
    )
    for _ in range(2):
        one, two = agent.collect(NoEnv()), other.collect(NoEnv())
        assert one.completions.jokes == two.completions.jokes
        assert agent.update(one)["loss/imitation"] == other.update(two)["loss/imitation"]
    assert all(torch.equal(values(agent)[n], v) for n, v in values(other).items())


# ---- what the methods share


def test_epochs_use_every_row_once_in_ever_new_orders():
    batches = [epoch_rows(5, 2, batch=b, seed=3) for b in range(5)]
    rows = [i for batch in batches for i in batch]
    first, second = rows[:5], rows[5:]
    assert sorted(first) == sorted(second) == list(range(5))
    assert first != second
    assert batches == [epoch_rows(5, 2, batch=b, seed=3) for b in range(5)]
    assert rows != [i for b in range(5) for i in epoch_rows(5, 2, batch=b, seed=4)]
    assert sorted(epoch_rows(2, 6, batch=0, seed=0)) == [0, 0, 0, 1, 1, 1]


def test_given_texts_have_the_likelihood_of_sampled_ones(word_student):
    student = word_student()
    written = student.generate(
        [p for p, _ in EXAMPLES], 12,
        temperature=0.7, max_tokens=40, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    encode = student.format.encode_joke  # some sampled tokens are no text: <unk>, <pad>
    whole = [i for i, ids in enumerate(written.joke_ids) if encode(written.jokes[i]) == ids]
    assert len(whole) > 5
    texts = [(written.prompts[i], written.jokes[i]) for i in whole]
    given = as_completions(student.format, texts, temperature=0.7)
    logps = student.token_logps(given).sum(-1)
    assert logps.tolist() == pytest.approx(written.logps[whole].sum(-1).tolist(), abs=1e-3)


def test_joined_jokes_keep_their_likelihoods(word_student):
    student = word_student()
    one, other = (
        as_completions(student.format, part, temperature=1.0)
        for part in (EXAMPLES[:2], EXAMPLES[2:])
    )
    both = student.token_logps(joined(one, other)).sum(-1).tolist()
    apart = [x for part in (one, other) for x in student.token_logps(part).sum(-1).tolist()]
    assert both == pytest.approx(apart, abs=1e-4)
    with pytest.raises(ValueError, match=r"temperatures 1\.0 and 0\.7"):
        joined(one, other._replace(temperature=0.7))
    with pytest.raises(ValueError, match="no "):
        as_completions(student.format, [], temperature=1.0)
