import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from agents.configs import PPOConfig
from agents.ppo import PPO
from rewards.fakes import CountsWord
from rewards.types import Rating
from training.checkpoint import checkpoints, load_checkpoint
from training.loop import CHECKPOINTS, Loop, Selector, TooManyUnscored
from training.parts import ScoresOnly
from training.run_log import METRICS, SAMPLES, RunLog
from training.selection import Look

OPTIONS = {
    "updates": 6,
    "jokes_per_update": 8,
    "eval_every": 2,
    "checkpoint_every": 1,
    "max_unscored": 0.05,
    "stop_rule": True,
    "forget": lambda: None,
}
SELECT = ["a lamp ran late .", "the bread sang .", "my hat slept in the rain ."]


def steps(folder):
    return [int(f.name.split("-")[1]) for f in checkpoints(folder / CHECKPOINTS)]


# ---- with a real student


class Stateful:
    """Lets a counting reward stand where the loop saves and restores one."""

    def __init__(self, counts):
        self.counts, self.calls, self.at_call = counts, 0, {}

    def __call__(self, prompts, jokes):
        self.calls += 1
        self.at_call.get(self.calls, lambda: None)()
        return self.counts(prompts, jokes)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@pytest.fixture
def make(word_student, counts, make_env, tmp_path):
    def make(name, *, from_step=-1, **changes):
        config = PPOConfig(
            updates=6, prompts_per_update=2, group_size=4, minibatches=2, max_tokens=8,
            temperature=1.0, learning_rate=1e-2, kl_target=0.01,
        )  # fmt: skip
        student = word_student()
        reward = Stateful(counts())
        critic = ScoresOnly(CountsWord("the"))
        return Loop(
            folder=tmp_path / name,
            student=student,
            agent=PPO(config, student, seed=0),
            env=make_env(reward),
            reward=reward,
            selector=Selector(critic, SELECT, 2, 1.0, 8, 7),
            log=RunLog(tmp_path / name, from_step=from_step, talk=0),
            **(OPTIONS | {"stop_rule": False} | changes),
        )

    return make


def run(loop):
    with loop.log:
        loop.run()
    return loop


def resumed(make, name, **changes):
    """A new process' worth of objects, from the newest checkpoint."""
    saved = load_checkpoint(checkpoints(make(name, from_step=99).folder / CHECKPOINTS)[-1])
    loop = make(name, from_step=saved.step, **changes)
    loop.restore(saved)
    return loop


def same_end(one, other):
    for name, value in one.student.trainable().items():
        assert torch.equal(value, other.student.trainable()[name]), name
    a, b = one.agent.state_dict(), other.agent.state_dict()
    assert a["scalars"] == b["scalars"]
    assert all(torch.equal(a["tensors"][n], b["tensors"][n]) for n in a["tensors"])
    assert one.history == other.history
    assert one.env.state_dict() == other.env.state_dict()
    for file in (METRICS, SAMPLES):
        assert (one.folder / file).read_text() == (other.folder / file).read_text()


@pytest.mark.parametrize("call", [1, 4])
def test_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(make, call):
    whole = run(make("whole"))
    broken = make("broken")

    def crash():
        raise OSError("the power went")

    broken.reward.at_call[call] = crash
    with pytest.raises(OSError, match="power"):
        run(broken)
    again = run(resumed(make, "broken"))
    same_end(whole, again)
    assert [e.update for e in again.history] == [0, 2, 4, 6]


def test_ctrl_c_ends_the_update_saves_and_resumes(make):
    whole = run(make("whole"))
    stopped = make("stopped", checkpoint_every=100)
    handler = signal.getsignal(signal.SIGINT)
    stopped.reward.at_call[3] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert signal.getsignal(signal.SIGINT) is handler
    assert stopped.agent.step == 3
    assert steps(stopped.folder)[-1] == 3
    same_end(whole, run(resumed(make, "stopped", checkpoint_every=2)))


def test_second_ctrl_c_acts_at_once(make):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    stopped = make("stopped")
    stopped.reward.at_call[3] = twice
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert stopped.agent.step == 2
    assert steps(stopped.folder)[-1] == 2


def test_finished_run_has_nothing_left_to_do(make):
    whole = run(make("whole"))
    again = run(resumed(make, "whole"))
    assert again.reward.at_call == {}
    assert again.reward.calls == whole.reward.calls
    same_end(whole, again)


# ---- with a scripted agent and critic


class Script:
    """An agent whose figures are written beforehand; also its student, environment and reward."""

    def __init__(self, **figures):
        self.step, self.figures = 0, figures

    def collect(self, env):
        return None

    def update(self, rollout):
        self.step += 1
        figures = {k: v[self.step - 1] for k, v in self.figures.items()}
        return {"reward/mean": float(self.step), "policy/kl_per_joke": 0.0} | figures

    def state_dict(self):
        return {"tensors": {"step": torch.tensor(self.step)}, "scalars": {"step": self.step}}

    def save(self, folder):
        folder.mkdir()


JOKES = [["one fine joke"], ["another good line"], ["and a third"]]
LONG = [["one fine joke after all"], ["another good line at last"], ["and a third of them"]]


def scripted(tmp_path, ratings, **options):
    """A loop whose n-th look gives `ratings[n]` on every prompt, and sees `jokes[n]`."""
    looks = iter(ratings)
    texts = iter(options.pop("jokes", [JOKES] * len(ratings)))
    tuned = iter(options.pop("tuned_jokes", [JOKES] * len(ratings)))

    def look(student):
        rating = next(looks)
        answers = [[None if rating is None else Rating(rating, 0.1, 0.9, False)]] * len(SELECT)
        return Look(next(texts), answers, [rating] * len(SELECT))

    def look_tuned(student, start=False):
        return Look(JOKES if start else next(tuned), [], [1.0])

    figures = {k: options.pop(k) for k in list(options) if "/" in k}
    agent = Script(**figures)
    plain = SimpleNamespace(state_dict=dict)
    return Loop(
        folder=tmp_path,
        student=agent,
        agent=agent,
        env=plain,
        reward=plain,
        selector=SimpleNamespace(look=look, look_tuned=look_tuned, prompts=SELECT),
        log=RunLog(tmp_path, talk=0),
        **(OPTIONS | options),
    )


def test_best_and_newest_checkpoints_stay(tmp_path):
    loop = run(scripted(tmp_path, [1, 3, 2, 2.5, 1], updates=8, stop_rule=False))
    assert loop.best_step == 2
    assert steps(tmp_path) == [2, 7, 8]


@pytest.mark.parametrize(
    ("decoding", "lines"), [("jokes", "sampled lines"), ("tuned_jokes", "tuned decoding")]
)
def test_a_look_out_of_bounds_is_never_the_best(tmp_path, capsys, decoding, lines):
    loop = scripted(
        tmp_path, [1, 3, 2, 2.5, 1], updates=8, stop_rule=False,
        **{decoding: [LONG, LONG, JOKES, LONG, JOKES]},
    )  # fmt: skip
    loop.log.progress._quiet = False
    run(loop)
    assert loop.within_bounds == [0, 4, 8]
    assert loop.best_step == 4
    assert steps(tmp_path) == [4, 7, 8]
    told = f"alarm: {lines}: length is 1.67 of start-tuned's"
    assert capsys.readouterr().err.count(told) == 2


@pytest.mark.parametrize("every", [3, 5, 100])
def test_best_step_has_a_checkpoint_whatever_the_interval(tmp_path, every):
    loop = scripted(tmp_path, [1, 3, 2, 2.5, 1], updates=8, stop_rule=False, checkpoint_every=every)
    run(loop)
    assert {2, 8} <= set(steps(tmp_path))


def test_run_stops_when_the_select_critic_falls_while_reward_rises(tmp_path):
    ratings = [3.0, 3.5, 3.4, 3.3, 2.0, 1.0, 0.5, 0.4, 0.3]
    loop = run(scripted(tmp_path, ratings, updates=16))
    assert 6 <= loop.agent.step < 16
    assert "select critic" in loop.stopped
    assert steps(tmp_path)[-1] == loop.agent.step
    assert load_checkpoint(checkpoints(tmp_path / CHECKPOINTS)[-1]).state["stopped"] == loop.stopped


def test_without_the_rule_a_falling_run_goes_on(tmp_path):
    ratings = [3.0, 3.5, 3.4, 3.3, 2.0, 1.0, 0.5, 0.4, 0.3]
    loop = run(scripted(tmp_path, ratings, updates=16, stop_rule=False))
    assert (loop.agent.step, loop.stopped) == (16, "")


def test_falling_reward_is_no_reason_to_stop(tmp_path):
    ratings = [3.0, 3.5, 3.4, 3.3, 2.0, 1.0, 0.5, 0.4, 0.3]
    falling = [-float(i) for i in range(16)]
    loop = run(scripted(tmp_path, ratings, updates=16, **{"reward/mean": falling}))
    assert loop.agent.step == 16


def test_too_many_unscored_save_and_stop(tmp_path):
    rates = [0.0, 0.0, 0.0, 0.5, 0.0, 0.0]
    loop = scripted(tmp_path, [1, 1, 1, 1], **{"critic/unscored_rate": rates}, checkpoint_every=100)
    with pytest.raises(TooManyUnscored, match=r"12\.5% of the jokes of the last 4 updates"):
        run(loop)
    assert steps(tmp_path)[-1] == 4


def test_a_run_whose_only_verdicts_failed_does_not_go_on_as_if_they_had_not(tmp_path):
    """Offline DPO judges all its jokes in its first update; the later ones have no rate."""

    def gathers(**options):
        loop = scripted(tmp_path, [1, 1], **options)
        loop.agent.asks_once = True
        return loop

    loop = gathers(**{"critic/unscored_rate": [1.0]})
    with pytest.raises(TooManyUnscored, match=r"100\.0% of the jokes"):
        run(loop)
    assert steps(tmp_path)[-1] == 1
    again = gathers()
    again.history, again.recent, again.agent.step = loop.history, loop.recent, 1
    with pytest.raises(TooManyUnscored, match="begin anew with a critic that answers"):
        run(again)


def test_unscored_below_the_limit_go_on(tmp_path):
    rates = [0.0, 0.05, 0.04, 0.0, 0.05, 0.05]
    assert run(
        scripted(tmp_path, [1, 1, 1, 1], **{"critic/unscored_rate": rates})
    ).agent.step == 6  # fmt: skip


def test_looks_without_a_verdict_are_missing_numbers(tmp_path):
    loop = run(scripted(tmp_path, [1.0, None, 2.0, None]))
    assert loop.best_step == 4
    logged = {r["step"]: r for r in map(json.loads, (tmp_path / METRICS).open())}
    assert logged[0]["select/rating"] == 1.0
    assert logged[2]["select/rating"] is None
    assert logged[4]["select/rating"] == 2.0
    assert loop.history[1].scores == [None] * 3


def test_alarms_compare_with_the_start(tmp_path, capsys):
    loop = scripted(tmp_path, [1, 1, 1, 1], **{"gate/share": [0.0, 0.5, 0.0, 0.1, 0.0, 0.1]})
    loop.log.progress._quiet = False
    run(loop)
    told = [line for line in capsys.readouterr().err.splitlines() if "gated" in line]
    assert [line for line in told if line.startswith("alarm")] == ["alarm: 50% of jokes are gated"]
