"""Runs from options to results: what train.py does once torch is loaded."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.brio import BRIO
from agents.brio_dpo import BrioDPO
from agents.configs import RunConfig
from agents.feedback_configs import OfflineDPOConfig
from agents.offline_dpo import OfflineDPO, PairBatch
from agents.online_dpo import OnlineDPO
from agents.optim import Diverged
from agents.ppo import PPO
from agents.self_distil import SelfDistil
from agents.sft_more import SFTMore
from agents.student import Student
from envs.prompts import teacher_jokes
from rewards.calls import CriticError
from rewards.embedded import KINDS, manifest_of
from rewards.ledger import BudgetReached, Ledger, NotRecorded
from rewards.reward import CompositeReward
from rewards.spend import spend_tables
from rewards.types import JokeReward
from training.checkpoint import ADAPTER, checkpoints, load_checkpoint
from training.final_table import Table, build_table, save_table, write_systems
from training.loop import CHECKPOINTS, Loop, Selector, TooManyUnscored
from training.offline_pairs import GivenPairs, given_pairs
from training.parts import (
    Critics,
    GroupConfig,
    PromptSets,
    check_critics,
    is_ours,
    ledger_file,
    make_critics,
    make_env,
    make_ledger,
    make_reward,
    prompt_sets,
)
from training.run_folder import write_whole
from training.run_log import RunLog

SELECT_SEED = 7_001
TABLE_SEED = 9_001
"""Random numbers of selection and table: the same for every run, so that runs compare."""

AGENTS: Mapping[str, Callable[..., Any]] = {
    "ppo": PPO,
    "online-dpo": OnlineDPO,
    "sd": SelfDistil,
    "sft-more": SFTMore,
    "dpo": OfflineDPO,
    "brio": BRIO,
    "brio-dpo": BrioDPO,
}
"""Algorithms that share the loop; their options are named alike, with underscores."""

RESULTS = "results.json"
EXIT_STOPPED = 3
DEPENDENT = 0.6
"""Correlation of two critics' errors above which the table says so."""


def run_online(
    algo: str,
    options: Any,
    folder: Path,
    write_config: Callable[[], None],
    *,
    resume: bool,
    talk: int,
) -> int:
    """Train by an algorithm of the loop, print the table; returns the exit status.

    Args:
        algo: one of AGENTS.
        options: has `run` (RunConfig) and the algorithm's own.
        folder: of the run; made when everything is known to be right.
        write_config: writes the resolved options into it.
        resume: continue from the newest checkpoint.
        talk: 0 nothing but errors and the table, 1 a line an update, 2 every metric too.

    Raises:
        ValueError: bad input; nothing was written.
        KeyboardInterrupt: Ctrl-C; the run is saved.
    """
    run: RunConfig = options.run
    config: GroupConfig = getattr(options, algo.replace("-", "_"))
    began = time.monotonic()
    _fix_threads(run)
    sets = prompt_sets(run)
    check_critics(run)
    given = _given(run, config, sets)
    done = checkpoints(folder / CHECKPOINTS) if resume else []
    saved = load_checkpoint(done[-1]) if done else None  # None: killed before the first
    student = Student.load(run.student, device=run.device)
    were_there = [p for p in (ledger_file(run, folder), folder.parent) if p.exists()]
    ledger = make_ledger(run, folder)
    try:
        critics = make_critics(run, student, ledger)
    except ValueError:
        _unmake(ledger, were_there)  # bad input leaves nothing behind
        raise
    except CriticError as error:
        _unmake(ledger, were_there)
        print(f"train.py: {error}; nothing was asked")
        return EXIT_STOPPED
    reward = make_reward(run, config, critics, student)
    env = make_env(run, config, sets, reward)
    env.reset(seed=run.seed)
    known = {} if given is None else {"pairs": given.pairs}
    agent = AGENTS[algo](config, student, seed=run.seed, **known)
    select_texts = [p.text for p in sets.select]
    selector = Selector(
        critics.select, select_texts, run.select_jokes, config.temperature, config.max_tokens,
        SELECT_SEED,
    )  # fmt: skip
    if not resume:
        write_config()
    with RunLog(folder, from_step=saved.step if saved else -1, talk=talk) as log:
        log.progress.say(f"{folder}: {run.student} loaded in {time.monotonic() - began:.1f} s")
        loop = Loop(
            folder=folder,
            student=student,
            agent=agent,
            env=env,
            reward=reward if given is None else JudgedBefore(reward),
            selector=selector,
            log=log,
            updates=config.updates,
            jokes_per_update=config.jokes_per_update,
            eval_every=run.eval_every,
            checkpoint_every=run.checkpoint_every,
            max_unscored=run.max_unscored,
            stop_rule=run.stop_rule and run.critic in KINDS,
            forget=lambda: _forget(student, reward),
            spend=dict if ledger is None else ledger.metrics,
        )
        if saved is not None:
            loop.restore(saved)
        try:
            loop.run()
            then = "; writing the table" if run.table else ""
            log.progress.say(f"trained {agent.step} updates in {_minutes(began)}{then}")
            labels = {} if given is None or not given.labels else {"labels": given.labels}
            finish(run, config, sets, student, critics, loop, began, labels)
        except (TooManyUnscored, CriticError) as error:
            print(f"train.py: {error}; saved, continue with --resume {folder}")
            return EXIT_STOPPED
        except (BudgetReached, NotRecorded) as error:
            larger = " and a larger --budget-..." if isinstance(error, BudgetReached) else ""
            print(f"train.py: {error}; saved, continue with --resume {folder}{larger}")
            if ledger is not None:
                print(spend_tables(ledger.path, ledger.run))
            return EXIT_STOPPED
        except Diverged as error:
            batch = folder / "diverged.json"
            batch.write_text(json.dumps(_batch(error.rollout), indent=1))
            print(f"train.py: {error}; the batch is in {batch}")
            return EXIT_STOPPED
        finally:
            if ledger is not None:
                ledger.close()
    return 0


def finish(
    run: RunConfig,
    config: GroupConfig,
    sets: Any,
    student: Student,
    critics: Critics,
    loop: Loop,
    began: float,
    more: Mapping[str, Any],
) -> None:
    """Best and last checkpoint on the report prompts; prints and saves the table with `more`.

    Without `--table`, results.json has only what the run itself knows.
    """
    extra = {
        "best_step": loop.best_step,
        "last_step": loop.agent.step,
        "stopped": loop.stopped,
        "judged_jokes": judged_jokes(config, loop.agent.step),
        **more,
    }
    if not run.table:
        extra["seconds"] = round(time.monotonic() - began, 1)
        write_whole(loop.folder / RESULTS, json.dumps(extra, indent=1) + "\n")
        print(f"{loop.folder}: best step {loop.best_step} of {loop.agent.step}, {_minutes(began)}")
        return
    by_step = {int(f.name.split("-")[1]): f for f in checkpoints(loop.folder / CHECKPOINTS)}
    adapters = {"best": by_step[loop.best_step] / ADAPTER}
    if loop.agent.step != loop.best_step:
        adapters["last"] = by_step[loop.agent.step] / ADAPTER
    shipped = run.report_critic in KINDS
    manifest: Mapping[str, Any] = manifest_of(run.report_critic) if shipped else {}
    table = Table(
        student=student,
        prompts=sets.report,
        select_prompts=[p.text for p in sets.select],
        train_critic=critics.train,
        select=critics.select,
        report=critics.report,
        report_name=run.report_critic,
        tie=float(manifest.get("tie_threshold") or 0.0),
        jokes=run.table_jokes,
        max_tokens=config.max_tokens,
        seed=TABLE_SEED,
        training_jokes=[j for _, j in teacher_jokes("train")],
        warnings=_warnings(run, manifest),
    )
    loop.forget()
    written = write_systems(table, adapters)
    ladder, systems = build_table(table, written)
    extra["seconds"] = round(time.monotonic() - began, 1)
    print(save_table(loop.folder, table, written, systems, ladder, extra))
    print(f"\n{loop.folder}: best step {loop.best_step} of {loop.agent.step}, {_minutes(began)}")
    print(f'try it: python joke.py {loop.folder} "I lost my keys again."')


def judged_jokes(config: GroupConfig, updates: int) -> int:
    """Jokes that so many updates have had judged: the training budget that runs are compared at."""
    counted = getattr(config, "judged_jokes", None)  # of methods that do not judge every update
    return updates * config.jokes_per_update if counted is None else int(counted(updates))


@dataclass(frozen=True)
class JudgedBefore:
    """The reward of an offline run: its figures are of the gathering, not of the latest update."""

    reward: CompositeReward

    def __call__(self, prompts: Sequence[str], jokes: Sequence[str]) -> list[JokeReward]:
        """See `rewards.types.Reward`."""
        return self.reward(prompts, jokes)

    def state_dict(self) -> dict[str, Any]:
        """Of the reward."""
        return self.reward.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`."""
        self.reward.load_state_dict(state)


def _given(run: RunConfig, config: GroupConfig, sets: PromptSets) -> GivenPairs | None:
    """The pairs of an offline run, empty where it gathers them; None of every other method."""
    return given_pairs(run, config, sets) if isinstance(config, OfflineDPOConfig) else None


def dry_run(algo: str, options: Any, folder: Path) -> str:
    """What a run in `folder` would cost, reckoned without loading weights."""
    run: RunConfig = options.run
    sets = prompt_sets(run)
    if algo not in AGENTS:
        return f"{algo} judges no jokes and asks no critic"
    check_critics(run)
    config: GroupConfig = getattr(options, algo.replace("-", "_"))
    _given(run, config, sets)
    looks = math.ceil(config.updates / run.eval_every) + 1
    trained = config.updates * config.jokes_per_update
    judged = judged_jokes(config, config.updates)
    selecting = (looks * (run.select_jokes + 1) + 1) * len(sets.select)  # + tuned decoding
    tabled = len(sets.report) * (3 * run.table_jokes + 3) if run.table else 0
    tokens = (trained + selecting + tabled) * TOKENS_A_JOKE
    local = is_ours(run.critic)
    lines = [
        f"updates            {config.updates} of {config.jokes_per_update} jokes",
        f"judged jokes       {judged} in training, {selecting} in {looks} looks, "
        f"{tabled} in the table",
        f"requests           {0 if local else judged} to {run.critic}",
        f"tokens             about {tokens:,} through the student",
        f"money              {'0 (the critic runs here)' if local else 'as the critic charges'}",
        f"minutes            about {_estimate(trained, selecting + tabled):.0f} on two slow cores",
    ]
    if not local:
        limits = {
            "requests": run.budget_requests,
            "tokens": run.budget_tokens,
            "money": run.budget_money,
        }
        told = ", ".join(f"{x:,.12g} {name}" for name, x in limits.items() if x is not None)
        replay = " (replay, nothing is asked)" if run.replay else ""
        lines += [
            f"budget             {told or 'none set'}",
            f"ledger             {ledger_file(run, folder)}{replay}",
        ]
    return "\n".join(lines)


TOKENS_A_JOKE = 45
"""Prompt and joke, for estimates."""
SECONDS_TRAINED, SECONDS_LOOKED = 0.45, 0.15
"""Per joke on a two-core AVX2 machine in fp32 (docs/log.md)."""


def _estimate(trained: int, looked: int) -> float:
    return (trained * SECONDS_TRAINED + looked * SECONDS_LOOKED) / 60


def _unmake(ledger: Ledger | None, keep: Sequence[Path]) -> None:
    """Remove a ledger that was made for nothing, and its folder if it is empty."""
    if ledger is None:
        return
    ledger.close()
    if ledger.path not in keep:
        for file in ledger.path.parent.glob(f"{ledger.path.name}*"):  # -wal, -shm, .lock
            file.unlink()
    if ledger.path.parent not in keep and not any(ledger.path.parent.iterdir()):
        ledger.path.parent.rmdir()


def _fix_threads(run: RunConfig) -> None:
    if run.threads:
        torch.set_num_threads(run.threads)


def _forget(student: Student, reward: Any) -> None:
    """Readings and ratings kept for speed: a resumed run starts without them."""
    student.start_reader().forget()
    reward.forget()


def _warnings(run: RunConfig, manifest: Mapping[str, Any]) -> list[str]:
    out = []
    if manifest:
        out.append(
            "Win rates are by a distilled critic, so every gain is provisional until an outside "
            "judge or people have read pairs.jsonl."
        )
    correlated = manifest.get("error_correlation", {}).get(run.critic, {}).get("partial")
    if correlated is not None and correlated > DEPENDENT:
        out.append(
            f"Report critic not independent: its errors correlate {correlated:.2f} with those of "
            f"the training critic, so part of a gain may be an error they share."
        )
    return out


def _batch(rollout: Any) -> dict[str, Any]:
    """What an agent had in hand when it diverged, for JSON."""
    if isinstance(rollout, PairBatch):
        return {"pairs": [list(pair[:3]) for pair in rollout.pairs]}
    rollout = getattr(rollout, "candidates", rollout)
    done, rewards = rollout.completions, getattr(rollout, "rewards", None)
    told = [] if rewards is None else rewards.tolist()
    return {
        "prompts": done.prompts,
        "jokes": done.jokes,
        "rewards": [x if math.isfinite(x) else None for x in told],
    }


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} min"


def run_sft(
    options: Any,
    folder: Path,
    write_config: Callable[[], None],
    *,
    resume: bool,
    talk: int,
) -> int:
    """Make a start adapter by imitation of the corpus' train jokes; returns the exit status.

    Raises:
        ValueError: `--resume` (imitation starts again), or a student that is not a bare base.
    """
    import shutil

    from agents.sft import train_sft
    from models.load import load_base

    if resume:
        raise ValueError("--resume: imitation takes minutes and is not resumed; start it again")
    name = "smollm2-135m" if options.run.student == "start" else options.run.student
    _fix_threads(options.run)
    pairs = [(p.text, joke) for p, joke in teacher_jokes("train")]
    if options.sft.simple:
        pairs += [(p.text, joke) for p, joke in teacher_jokes("train", simple=True)]
    base = load_base(name, device=options.run.device)
    write_config()
    done = train_sft(options.sft, base, pairs, folder, seed=options.run.seed)
    shutil.rmtree(folder / "trl", ignore_errors=True)
    write_whole(folder / RESULTS, json.dumps(done, indent=1) + "\n")
    if talk:
        print(f"{folder}: {done['steps']:.0f} steps, loss {done['loss']:.3f} nats a token")
        print(f"use it: python train.py --algo ppo --student {folder / 'adapter'} ...")
    return 0
