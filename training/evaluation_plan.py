"""What an evaluation is asked to do, read and checked before any weights are loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from envs.prompts import Prompt
from rewards.embedded import KINDS, manifest_of
from training.run import TABLE_SEED
from training.systems import (
    Run,
    System,
    check_meeting,
    common,
    evaluation_prompts,
    parse_systems,
    read_jokes,
    read_run,
    refuse_modules,
    select_prompts,
)

MAX_TOKENS, SELECT_SIZE = 40, 48
"""Of a joke, and select prompts that decoding is tuned on, where no run says."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What the command line asks for."""

    systems: tuple[str, ...]
    split: str = "report"
    prompts: Path | None = None
    size: int = 0
    """Prompts at most; 0: all."""
    critic: str = "embedded-report"
    critic_arg: tuple[str, ...] = ()
    train_critic: str = ""
    """Measures over-optimisation and picks best-of-N; empty: the runs' own."""
    train_critic_arg: tuple[str, ...] = ()
    select_critic: str = ""
    """Tunes decoding; empty: the runs' own."""
    gap: bool = True
    """Ask the training critic about every system."""
    kl: bool = True
    """Measure how far students are from their start."""
    decodings: Literal["both", "sampled", "tuned"] = "both"
    jokes: int = 4
    max_tokens: int | None = None
    tie: float | None = None
    accuracy: int | None = None
    """Judged pairs that the critic's accuracy is measured on; None: 300 out of distribution."""
    rate_pool: bool = False
    """Rate every line of the best-of-N pool too: for curves over N."""
    seed: int = TABLE_SEED
    student: str = ""
    """The start student; empty: the runs' own, else `start`."""
    device: str = "cpu"
    trust: bool = False
    ledger: Path | None = None
    max_requests: int | None = None
    max_tokens_asked: int | None = None
    max_money: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("size", 0), ("jokes", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be >= {least}")
        for name, least in (("max_tokens", 2), ("accuracy", 0), ("tie", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}, must be >= {least}")
        if self.decodings not in ("both", "sampled", "tuned"):
            raise ValueError(f"--decoding is {self.decodings!r}, allowed are both, sampled, tuned")
        limits = (self.max_requests, self.max_tokens_asked, self.max_money)
        if self.ledger is None and any(x is not None for x in limits):
            raise ValueError("--max-requests, --max-ask-tokens and --max-money need --ledger FILE")


class Plan(NamedTuple):
    """Everything that is known before weights are loaded."""

    systems: list[System]
    runs: dict[str, Run]
    prompts: list[Prompt]
    select: list[str]
    student: str
    max_tokens: int
    select_critic: str
    manifest: dict[str, Any] | None  # of the reporting critic, if it is a distilled one


def plan(options: EvaluationOptions) -> Plan:
    """Read and check everything that can be refused without loading weights.

    Raises:
        ValueError: bad input; see `training.systems`.
    """
    systems = parse_systems(options.systems)
    runs = {s.name: read_run(s) for s in systems if s.kind == "run"}
    given = list(runs.values())
    check_meeting(given, options.critic)
    typed = (options.critic, options.train_critic, options.select_critic)
    refuse_modules(given, typed, options.trust)
    if options.train_critic == options.critic or options.select_critic == options.critic:
        raise ValueError(f"--critic {options.critic} has another role too; it must report only")
    prompts = evaluation_prompts(given, options.split, options.prompts)
    prompts = prompts[: options.size] if options.size else prompts
    manifest = manifest_of(options.critic) if options.critic in KINDS else None
    fitted = sorted({p.id for p in prompts} & set((manifest or {}).get("prompt_ids", ())))
    if fitted:
        raise ValueError(
            f"--critic {options.critic} was fitted on labels of {len(fitted)} of these prompts: "
            f"{', '.join(fitted[:20])}"
        )
    for system in systems:
        if system.kind == "jokes":
            read_jokes(system.path, prompts)  # for its faults
    student = common(given, "their student", [r.options["student"] for r in given], "")
    limits = [r.max_tokens for r in given if r.max_tokens is not None]
    limited = [r for r in given if r.max_tokens is not None]
    told = options.max_tokens or common(limited, "--max-tokens", limits, "name one here")
    pickers = [r.options["select_critic"] for r in given]
    picker = options.select_critic
    if not picker:
        picker = common(given, "their select critic", pickers, "name one with --select-critic")
    size = max((int(r.options["select_size"]) for r in given), default=SELECT_SIZE)
    return Plan(
        systems,
        runs,
        prompts,
        select_prompts(given, size),
        options.student or student or "start",
        told or MAX_TOKENS,
        picker or "embedded-select",
        manifest,
    )
