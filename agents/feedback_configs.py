"""Options of the papers' other methods. No torch here: `--help` must answer fast."""

from dataclasses import dataclass, fields
from typing import Literal

from agents.preference_configs import OnlineDPOConfig, check_groups

GATHERED, LABELS = "gathered", "labels"
"""Values of `--pairs` that are not files."""


@dataclass(frozen=True)
class SelfDistilConfig:
    """Options of `--algo sd`."""

    updates: int = 16
    """Updates of the student; each judges prompts_per_update * group_size jokes."""
    prompts_per_update: int = 8
    """Prompts an update."""
    group_size: int = 8
    """Jokes a prompt, K, 2 to 24; the best of them are imitated."""
    keep: int = 1
    """Most jokes of a prompt that are imitated, 1 to K - 1; all must lie above the prompt's mean.
    """
    refresh_every: int = 1
    """Updates between two students that write the jokes: 1 online, n iterative, 0 never (all jokes
    are the start student's)."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    epochs: int = 1
    """Passes over the kept jokes of an update."""
    minibatches: int = 4
    """Optimizer steps a pass."""
    temperature: float = 0.7
    """Sampling temperature; log-probabilities are of this distribution."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        check_groups(self, least=2)
        _check_refresh(self.refresh_every)
        if not 1 <= self.keep < self.group_size:
            raise ValueError(
                f"--keep is {self.keep}, must lie in 1..{self.group_size - 1}, below --group-size"
            )

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes an update."""
        return self.prompts_per_update * self.group_size


@dataclass(frozen=True)
class SFTMoreConfig:
    """Options of `--algo sft-more`."""

    updates: int = 16
    """Updates of the student; none judges a joke."""
    prompts_per_update: int = 8
    """With group_size the size of an update: as many examples are imitated as the other methods
    judge jokes."""
    group_size: int = 8
    """See prompts_per_update."""
    simple: bool = True
    """Imitate the plain short jokes too, as the start student did."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    epochs: int = 1
    """Passes over the examples of an update."""
    minibatches: int = 4
    """Optimizer steps a pass."""
    temperature: float = 0.7
    """Sampling temperature of the looks; imitation is at 1."""
    max_tokens: int = 40
    """Limit of a joke of the looks in tokens."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        check_groups(self, least=1)

    @property
    def jokes_per_update(self) -> int:
        """Imitated examples an update."""
        return self.prompts_per_update * self.group_size

    def judged_jokes(self, updates: int) -> int:
        """Jokes that so many updates have judged: none."""
        return 0


@dataclass(frozen=True)
class BRIOConfig:
    """Options of `--algo brio`."""

    updates: int = 16
    """Updates of the student; each judges prompts_per_update * group_size jokes."""
    prompts_per_update: int = 8
    """Prompts an update."""
    group_size: int = 8
    """Jokes a prompt, K, 2 to 23; all are ranked."""
    margin: float = 0.04
    """Lambda: nats a token (to the power alpha) that a joke shall lie above the next one by rank;
    log 2 / 17 tokens: the better joke twice as likely, as Small But Funny asks."""
    alpha: float = 1.0
    """Exponent of the length that log-probabilities are divided by; 1: means over tokens."""
    imitation: float = 0.1
    """Gamma: weight of imitating one joke of the prompt; 0: ranking alone."""
    imitates: Literal["teacher", "best"] = "teacher"
    """teacher: its joke of the prompt, as the papers do (the best candidate where there is none);
    best: the candidate with the highest reward, as RRHF does."""
    refresh_every: int = 1
    """Updates between two students that write the jokes: 1 online, n iterative, 0 never."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    epochs: int = 1
    """Passes over the jokes of an update."""
    minibatches: int = 4
    """Optimizer steps a pass."""
    temperature: float = 0.7
    """Sampling temperature; log-probabilities are of this distribution."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        check_groups(self, least=2)
        _check_refresh(self.refresh_every)
        if self.group_size > 23:
            raise ValueError(
                f"--group-size is {self.group_size}, must lie in 2..23: the teacher's joke needs "
                f"a place beside the candidates"
            )
        if self.imitates not in ("teacher", "best"):  # a file's value
            raise ValueError(f"--imitates is {self.imitates!r}, allowed are teacher, best")
        for name in ("margin", "alpha", "imitation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be >= 0")

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes an update."""
        return self.prompts_per_update * self.group_size


@dataclass(frozen=True)
class BrioDPOConfig:
    """Options of `--algo brio-dpo`: BRIO on teacher over student lines, then online DPO."""

    updates: int = 16
    """Updates of the student, of both phases; those of the second judge prompts_per_update *
    group_size jokes each."""
    teacher_updates: int | None = None
    """First updates, which rank the teacher's jokes over the student's and ask no critic; None: a
    quarter of all. The paper gave both phases as much."""
    prompts_per_update: int = 8
    """Prompts an update."""
    group_size: int = 8
    """Jokes a prompt, K, 2 to 23."""
    margin: float = 0.04
    """First phase: see `--algo brio`."""
    alpha: float = 1.0
    """First phase: see `--algo brio`."""
    imitation: float = 0.1
    """First phase: see `--algo brio`."""
    pairs: Literal["best-worst", "best-random", "all"] = "best-worst"
    """Second phase: which jokes of a prompt are paired."""
    min_margin: float = 0.0
    """Second phase: pairs closer than this are left out, in reward units; ties always are."""
    gated_rejected: bool = False
    """Second phase: let gated jokes stand as rejected ones."""
    loss: Literal["sigmoid", "ipo", "cdpo", "sigmoid_norm"] = "sigmoid"
    """Second phase: preference loss (agents/preference.py)."""
    beta: float = 0.1
    """Second phase: pull towards the start student."""
    confidence: float = 1.0
    """Second phase, cdpo: logits of the critic being right, a reward unit of margin."""
    refresh_every: int = 1
    """Second phase: updates between two students that write the jokes."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over each phase."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value, in each phase."""
    epochs: int = 2
    """Passes over the jokes or pairs of an update."""
    minibatches: int = 2
    """Optimizer steps a pass."""
    temperature: float = 0.7
    """Sampling temperature; log-probabilities are of this distribution."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        if self.updates < 2:
            raise ValueError(f"--updates is {self.updates}, must be >= 2: one a phase")
        if not 1 <= self.first_updates < self.updates:
            raise ValueError(
                f"--teacher-updates is {self.teacher_updates}, must lie in 1..{self.updates - 1}, "
                f"below --updates"
            )
        _ = self.first, self.second  # their checks are this method's

    @property
    def first_updates(self) -> int:
        """Updates of the first phase."""
        given = self.teacher_updates
        return max(self.updates // 4, 1) if given is None else given

    @property
    def first(self) -> BRIOConfig:
        """Options of the first phase; it imitates the teacher, who is its best by construction."""
        names = {f.name for f in fields(BRIOConfig)} - {"imitates"}
        mine = {name: getattr(self, name) for name in names}
        return BRIOConfig(**mine | {"updates": self.first_updates})

    @property
    def second(self) -> OnlineDPOConfig:
        """Options of the second phase."""
        mine = {f.name: getattr(self, f.name) for f in fields(OnlineDPOConfig)}
        return OnlineDPOConfig(**mine | {"updates": self.updates - self.first_updates})

    @property
    def jokes_per_update(self) -> int:
        """Jokes an update; judged ones in the second phase."""
        return self.prompts_per_update * self.group_size

    def judged_jokes(self, updates: int) -> int:
        """Jokes that the first so many updates have judged."""
        return max(updates - self.first_updates, 0) * self.jokes_per_update


@dataclass(frozen=True)
class OfflineDPOConfig:
    """Options of `--algo dpo`: offline, pairs gathered once, by TRL's DPOTrainer."""

    updates: int = 16
    """Updates of the student. Gathering judges what an online run of as many updates judges:
    updates * prompts_per_update * group_size jokes of the start student."""
    prompts_per_update: int = 8
    """Prompts that gathering spends an update."""
    group_size: int = 8
    """Jokes a prompt, K, 2 to 24; pairs are made among them."""
    pairs: str = GATHERED
    """gathered: from the start student, judged by the training critic; labels: its own judged
    lines of the corpus, train labels; else a file with a JSON object {"prompt", "chosen",
    "rejected"} a line."""
    pairing: Literal["best-worst", "best-random", "all"] = "best-worst"
    """Which jokes of a prompt are paired."""
    min_margin: float = 0.0
    """Pairs closer than this are left out, in reward units (labels: points); ties always are."""
    loss: Literal["sigmoid", "ipo", "sigmoid_norm"] = "sigmoid"
    """TRL's loss_type; as in agents/preference.py."""
    beta: float = 0.1
    """Pull towards the start student."""
    batch_size: int = 4
    """Pairs an optimizer step; with the default sizes every pair is seen twice in the run."""
    epochs: int = 1
    """Passes over the pairs drawn for an update."""
    minibatches: int = 4
    """Optimizer steps a pass, as many as the other methods take."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    temperature: float = 0.7
    """Of the start student's jokes and of the looks; TRL's log-probabilities are at 1."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        check_groups(self, least=2)
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}, must be >= 1")
        if not self.min_margin >= 0:
            raise ValueError(f"--min-margin is {self.min_margin}, must be >= 0")
        if not self.beta > 0:
            raise ValueError(f"--beta is {self.beta}, must be > 0")
        if self.loss not in ("sigmoid", "ipo", "sigmoid_norm"):  # a file's value
            raise ValueError(f"--loss is {self.loss!r}, allowed are sigmoid, ipo, sigmoid_norm")
        if not self.pairs:
            raise ValueError("--pairs is empty; it is gathered, labels or a file")

    @property
    def jokes_per_update(self) -> int:
        """Jokes of the gathering that an update stands for."""
        return self.prompts_per_update * self.group_size

    def judged_jokes(self, updates: int) -> int:
        """Jokes judged by the run: all before the first update, or none where pairs are given."""
        if self.pairs != GATHERED or updates == 0:
            return 0
        return self.updates * self.jokes_per_update


def _check_refresh(value: int) -> None:
    if value < 0:
        raise ValueError(f"--refresh-every is {value}, must be >= 0 (0: never)")
