"""Our preference losses and TRL's DPOTrainer say the same of the same batch."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from agents.feedback_configs import OfflineDPOConfig
from agents.learner import Candidates, as_completions
from agents.offline_dpo import MARKS, OfflineDPO, TextPair, preference_rows
from agents.online_dpo import OnlineDPO, Rollout
from agents.preference import Pair, PairLogps, preference_loss
from agents.preference_configs import OnlineDPOConfig
from agents.student import Student
from rewards.types import JokeReward

PAIRS = [
    TextPair("The cat sat.", "It paid no rent.", "It sat on a mat, again."),
    TextPair("My keys are lost.", "They found themselves.", "No."),
    TextPair("Rain!", "The sky has a leak", "Rain fell in the rain."),
]
SMALL = {
    "updates": 4,
    "prompts_per_update": 2,
    "group_size": 4,
    "epochs": 1,
    "minibatches": 1,
    "max_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "warmup_updates": 0,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports no use from there


@pytest.fixture
def student(tiny_weights):
    base, start = tiny_weights
    return lambda: Student.load(str(base), start, dtype=torch.float32)


def moved(student):
    """Away from its start, so that the losses are not those of pi = pi_ref."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    student.changed()
    return student


def both_sides(student):
    """Chosen jokes first, then rejected ones, as completions at temperature 1."""
    texts = [(p.prompt, p.chosen) for p in PAIRS] + [(p.prompt, p.rejected) for p in PAIRS]
    return as_completions(student.format, texts, temperature=1.0)


def gradients(student):
    found = {n: p.grad.clone() for n, p in student.trainable().items() if p.grad is not None}
    for parameter in student.trainable().values():
        parameter.grad = None
    return found


@pytest.mark.parametrize(("kind", "beta"), [("sigmoid", 0.3), ("ipo", 0.5), ("sigmoid_norm", 2.0)])
def test_loss_and_gradient_are_trls(student, kind, beta):
    mine = moved(student())
    done, n = both_sides(mine), len(PAIRS)
    reference = mine.reference_logps(done).sum(-1)
    with mine.training(mine.trainable()):
        logps = mine.token_stats(done, range(2 * n)).logps.sum(-1)
        tokens = done.mask.sum(-1).float()
        ours = preference_loss(
            PairLogps(logps[:n], logps[n:]),
            PairLogps(reference[:n], reference[n:]),
            beta=beta,
            kind=kind,
            tokens=PairLogps(tokens[:n], tokens[n:]),
        ).loss
        ours.backward()
        expected = gradients(mine)
        agent = OfflineDPO(
            OfflineDPOConfig(**(SMALL | {"loss": kind, "beta": beta})), mine, seed=0, pairs=PAIRS
        )
        with agent.trainer(PAIRS, batch_size=n) as trainer:
            batch = trainer.data_collator(preference_rows(mine, PAIRS))
            theirs = trainer.compute_loss(trainer.model, batch)
            theirs.backward()
        found = gradients(mine)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert expected.keys() == found.keys()
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_trl_reads_the_token_ids_that_we_do(student):
    mine = student()
    agent = OfflineDPO(OfflineDPOConfig(**SMALL), mine, seed=0, pairs=PAIRS)
    with agent.trainer(PAIRS, batch_size=2) as trainer:
        assert list(trainer.train_dataset) == preference_rows(mine, PAIRS)
    row = preference_rows(mine, PAIRS)[0]
    assert row["chosen_ids"][-1] == mine.format.eos
    assert mine.format.decode_joke(row["chosen_ids"]) == PAIRS[0].chosen


def test_one_step_agrees_with_online_dpo_that_never_refreshes(student):
    online = OnlineDPO(
        OnlineDPOConfig(**SMALL, refresh_every=0, beta=0.3), moved(student()), seed=0
    )
    done, n = both_sides(online.student), len(PAIRS)
    nothing = np.zeros(2 * n)
    usable = torch.ones(2 * n, dtype=torch.bool)
    candidates = Candidates(
        done, torch.zeros(2 * n), usable, usable, torch.arange(n).repeat(2),
        {"raw": nothing, "length": nothing, "recall": nothing},
    )  # fmt: skip
    pairs = [Pair(i, n + i, 1.0) for i in range(n)]
    rollout = Rollout(candidates, online.student.reference_logps(done), pairs)
    told = online.update(rollout)
    offline = OfflineDPO(
        OfflineDPOConfig(**SMALL, batch_size=n, beta=0.3, pairs="mine.jsonl"),
        moved(student()),
        seed=0,
        pairs=PAIRS,
    )
    theirs = offline.update(offline.collect(None))
    for key in ("loss/preference", "pairs/chosen_reward", "pairs/accuracy", "policy/kl_per_joke",
                "policy/grad_norm", "policy/learning_rate"):  # fmt: skip
        assert theirs[key] == pytest.approx(told[key], rel=1e-3, abs=1e-4), key
    before = moved(student()).adapter_values()
    ours, found = online.student.adapter_values(), offline.student.adapter_values()
    for name, value in ours.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)
        assert not torch.equal(before[name], value)


# ---- the agent


@pytest.fixture
def make(word_base):
    def make(given=(), *, dtype=torch.float32, **changes):
        config = OfflineDPOConfig(**(SMALL | {"minibatches": 2, "batch_size": 2} | changes))
        return OfflineDPO(config, Student.load(str(word_base), dtype=dtype), seed=0, pairs=given)

    return make


class Counted:
    """Rewards with a count of the letter a, and how many jokes it was asked about."""

    def __init__(self, fails=lambda i: False):
        self.asked, self.fails = 0, fails

    def __call__(self, prompts, jokes):
        self.asked += len(jokes)
        return [
            JokeReward(
                None if self.fails(i) else float(j.count("a")), float(j.count("a")), None, {}, "",
                len(j), 0.0,
            )
            for i, j in enumerate(jokes)
        ]  # fmt: skip


def test_gathering_judges_what_an_online_run_would_and_only_once(make, make_env):
    agent, reward = make(), Counted()
    env = make_env(reward)
    told = [agent.update(agent.collect(env)) for _ in range(2)]
    assert reward.asked == 4 * 8 == agent.config.judged_jokes(1) == agent.config.judged_jokes(4)
    assert told[0]["gather/jokes"] == 32
    assert told[0]["gather/pairs"] == len(agent.pairs) > 0
    assert told[0]["critic/unscored_rate"] == 0
    assert "gather/jokes" not in told[1]
    assert all(m["pairs/count"] == 4 for m in told)
    for pair in agent.pairs:
        assert pair.chosen.count("a") - pair.rejected.count("a") == pair.margin > 0


def test_pairs_are_the_start_students_whoever_the_student_is_now(make, make_env):
    one, other = make(), make()
    one.collect(make_env(Counted()))
    moved(other.student)
    other.collect(make_env(Counted()))
    assert one.pairs == other.pairs


def test_jokes_without_a_verdict_are_counted_and_in_no_pair(make, make_env):
    agent = make()
    rollout = agent.collect(make_env(Counted(lambda i: i % 4 < 3)))
    assert rollout.pairs == []
    assert rollout.told["critic/unscored_rate"] == 0.75
    before = agent.student.adapter_values()
    metrics = agent.update(rollout)
    assert math.isnan(metrics["loss/preference"])
    assert all(torch.equal(v, before[n]) for n, v in agent.student.adapter_values().items())
    assert agent.step == 1


def test_given_pairs_are_learned_and_nobody_is_asked(make):
    pairs = [
        TextPair("my gym slept .", "the gym ate .", "a dog sang ."),
        TextPair("a dog ate my sock .", "the sock ate .", "my keys sang ."),
    ]
    agent = make(pairs, pairs="mine.jsonl", updates=4, minibatches=1, learning_rate=2e-2)
    told = [agent.update(agent.collect(None)) for _ in range(4)]
    assert told[0]["loss/preference"] == pytest.approx(math.log(2), abs=1e-4)
    assert told[-1]["loss/preference"] < 0.4
    assert told[-1]["pairs/accuracy"] == 1
    assert agent.config.judged_jokes(4) == 0


def test_trl_leaves_nothing_on_the_models(make):
    agent = make(PAIRS, pairs="mine.jsonl")
    agent.update(agent.collect(None))
    bare = agent.student.model.get_base_model()
    for model in (agent.student.model, bare, agent.student.start_reader().model):
        assert not set(MARKS) & set(vars(model))
        assert not model.training
    assert bare.config.use_cache
    assert not any(p.grad_fn for p in agent.student.trainable().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_survives_json_and_safetensors(make, make_env, dtype):
    agent, env = make(dtype=dtype), make_env(Counted())
    agent.update(agent.collect(env))
    state, other = agent.state_dict(), make(dtype=dtype)
    with torch.no_grad():
        for name, parameter in other.student.trainable().items():
            parameter.copy_(agent.student.adapter_values()[name])
    scalars = json.loads(json.dumps(state["scalars"], allow_nan=False))
    other.load_state_dict({"tensors": load(save(state["tensors"])), "scalars": scalars})
    one, two = agent.update(agent.collect(None)), other.update(other.collect(None))
    assert one == pytest.approx(two, abs=0, nan_ok=True)
    mine = agent.student.adapter_values()
    assert all(torch.equal(mine[n], v) for n, v in other.student.adapter_values().items())


def test_a_changed_file_of_pairs_is_refused_on_resume(make):
    state = make(PAIRS, pairs="mine.jsonl").state_dict()
    with pytest.raises(ValueError, match="--pairs mine.jsonl has changed since the run began"):
        make(PAIRS[:2], pairs="mine.jsonl").load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, r"--batch-size is 0"),
        ({"loss": "cdpo"}, r"--loss is 'cdpo', allowed are sigmoid, ipo, sigmoid_norm"),
        ({"beta": -1.0}, r"--beta is -1.0"),
        ({"pairs": ""}, r"--pairs is empty"),
        ({"min_margin": -1.0}, r"--min-margin is -1.0"),
        ({"minibatches": 0}, r"--minibatches is 0"),
    ],
)
def test_bad_options_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        OfflineDPOConfig(**change)
