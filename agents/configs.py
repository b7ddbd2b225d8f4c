"""Options of the algorithms. No torch here: `--help` must answer within a second."""

import math
from dataclasses import dataclass
from typing import Literal

from tyro.conf import UseAppendAction

ADVANTAGES = ("rloo", "grpo", "gae")
OLD_LOGPS = ("auto", "sampler", "forward")


@dataclass(frozen=True)
class PPOConfig:
    """Options of `--algo ppo`. The default advantage, rloo, has no value head."""

    updates: int = 16
    """Updates of the policy; each judges prompts_per_update * group_size jokes."""
    prompts_per_update: int = 8
    """Prompts an update."""
    group_size: int = 8
    """Jokes a prompt, K; with rloo and grpo each is compared with the others."""
    advantage: Literal["rloo", "grpo", "gae"] = "rloo"
    """rloo: reward minus the mean of the group's others, one scale for the batch;
    grpo: divided by the group's own deviation; gae: a value head and lambda-returns."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run; LoRA takes about ten times a full fine-tune's."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    epochs: int = 1
    """Passes over the jokes of an update."""
    minibatches: int = 4
    """Optimizer steps a pass; with one step in all, clipping could never act."""
    clip: float = 0.2
    """Ratio clip, epsilon of Eq. 7 of the PPO paper."""
    max_approx_kl: float = 0.2
    """Nats a token between old and new policy; above 1.5 times this, the update stops early."""
    kl_coef: float = 0.02
    """Start of beta: reward units (calibration deviations) a nat of KL to the start student."""
    kl_target: float | None = None
    """Nats a token; a number makes beta adaptive."""
    kl_horizon: int = 100
    """Jokes over which an adaptive beta moves by a fifth at most; with 64 an update by 13 %."""
    entropy_floor: float = 0.0
    """Nats a token; while the student's mean entropy was below it in the last update, entropy is
    paid for; 0: never."""
    entropy_coef: float = 0.05
    """What a nat of entropy a token is then worth, in units of the advantages (deviation 1)."""
    imitation_coef: float = 0.0
    """Weight of imitating train jokes beside the policy loss (PPO-ptx); 0: none."""
    temperature: float = 0.7
    """Sampling temperature in training; log-probabilities are of this distribution."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    train_layers: int | None = None
    """Train the adapter in the last N layers only (backpropagation stops there); None: all."""
    old_logps: Literal["auto", "sampler", "forward"] = "auto"
    """Log-probabilities of the old policy: the sampler's where they differ from the training
    forward's by < 1e-3 a token (auto measures it on the first update), or a forward pass."""
    value_learning_rate: float = 1e-3
    """AdamW of the value head; gae only."""
    value_warmup_updates: int = 2
    """First updates that fit the value head alone; gae only."""
    gamma: float = 1.0
    """Discount a token; gae only."""
    lam: float = 0.95
    """Lambda of gae."""
    value_clip: float = 0.2
    """Value clip around the old values, in reward units; gae only."""

    def __post_init__(self) -> None:
        for name in ("updates", "prompts_per_update", "group_size", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be >= 1")
        for name, allowed in (("advantage", ADVANTAGES), ("old_logps", OLD_LOGPS)):
            if getattr(self, name) not in allowed:  # a file's value: the command line's are checked
                raise ValueError(
                    f"--{_flag(name)} is {getattr(self, name)!r}, allowed are {', '.join(allowed)}"
                )
        if self.advantage != "gae" and self.group_size < 2:
            raise ValueError(
                f"--group-size is {self.group_size}: {self.advantage} compares a joke with the "
                f"others of its prompt and needs at least 2 (gae works with 1)"
            )
        if self.prompts_per_update < self.minibatches:
            raise ValueError(
                f"--minibatches is {self.minibatches}, more than the "
                f"{self.prompts_per_update} prompts of an update"
            )
        for name in ("learning_rate", "clip", "temperature", "grad_clip", "value_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be > 0")
        for name in ("kl_coef", "entropy_floor", "entropy_coef", "imitation_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be >= 0")
        if self.kl_target is not None and self.kl_target <= 0:
            raise ValueError(f"--kl-target is {self.kl_target}, must be > 0")
        if self.kl_horizon < 1:
            raise ValueError(f"--kl-horizon is {self.kl_horizon}, must be >= 1")
        if self.max_tokens < 2:
            raise ValueError(f"--max-tokens is {self.max_tokens}, must be >= 2")
        if not (0 < self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"--gamma {self.gamma} and --lam {self.lam} must lie in 0..1")

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes an update."""
        return self.prompts_per_update * self.group_size


@dataclass(frozen=True)
class RunConfig:
    """Options every run has."""

    student: str = "start"
    """`start` (shipped), an adapter folder, or a base: alias, model folder, GGUF file, hub id."""
    seed: int = 0
    """Of sampling, prompt order and minibatches."""
    critic: str = "embedded"
    """Rewards the student: KIND[:TARGET] or module:factory (docs/critics.md)."""
    critic_arg: UseAppendAction[tuple[str, ...]] = ()
    """An option of the critic as name=value, repeatable; secrets only as key_env=VARIABLE."""
    select_critic: str = "embedded-select"
    """Picks the checkpoint and stops the run; never the training critic."""
    report_critic: str = "embedded-report"
    """Makes the final table; no run ever learns from it."""
    reward: str = "humor=1,novelty=1,brevity=0.5,overlap=0.5"
    """Terms and weights: humor (the critic), novelty, brevity, overlap, fact, or a scorer of your
    own."""
    control: str = "calibrated"
    """Length and overlap control of the reward: none, linear, lowess or calibrated."""
    score_clip: str = "none"
    """literal: a joke earns only what it scores above the plain prompt; or none."""
    prompts: str = ""
    """File of training sentences (JSONL, CSV or one a line); empty: the corpus."""
    select_prompts: str = ""
    """File of sentences for selection; empty: the corpus' select prompts."""
    report_prompts: str = ""
    """File of sentences for the table; empty: the corpus' report prompts."""
    eval_every: int = 4
    """Updates between looks of the select critic."""
    select_size: int = 48
    """Prompts of a look; always the same, with the same random numbers."""
    select_jokes: int = 2
    """Jokes a prompt of a look."""
    table: bool = True
    """Write the final table; without it a run ends at its last update (evaluate.py makes one)."""
    table_size: int = 0
    """Prompts of the final table; 0: all."""
    table_jokes: int = 4
    """Jokes a prompt and sampled system in the final table; 8 where figures are published."""
    max_unscored: float = 0.05
    """Share of jokes without a verdict (last five updates) at which the run saves and stops."""
    ledger: str = ""
    """File that keeps every call to an outside critic; empty: ledger.sqlite beside the run
    folders."""
    replay: str = ""
    """Name of a recorded run: its verdicts are repeated from the ledger, nothing is asked."""
    budget_requests: int | None = None
    """Most calls to outside critics, over all resumes."""
    budget_tokens: int | None = None
    """Most prompt and completion tokens of these calls."""
    budget_money: float | None = None
    """Most money for them, in the currency of the prices given."""
    checkpoint_every: int = 1
    """Updates between checkpoints."""
    stop_rule: bool = True
    """Stop when the select critic falls while the reward rises (design section 6)."""
    threads: int = 0
    """Processor threads; 0: all cores. A resumed run keeps the number it began with."""
    device: str = "cpu"
    """cpu, cuda, or any torch device."""
    out: str = "runs"
    """Folder that holds the run folders."""

    def __post_init__(self) -> None:
        for name in ("eval_every", "select_size", "select_jokes", "table_jokes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be >= 1")
        for name in ("table_size", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be >= 0")
        for name in ("budget_requests", "budget_tokens", "budget_money"):
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit < math.inf:
                raise ValueError(f"--{_flag(name)} is {limit}, must be a finite number >= 0")
        if self.checkpoint_every < 1:
            raise ValueError(f"--checkpoint-every is {self.checkpoint_every}, must be >= 1")
        if not 0 <= self.max_unscored <= 1:
            raise ValueError(f"--max-unscored is {self.max_unscored}, must lie in 0..1")
        if self.control not in ("none", "linear", "lowess", "calibrated"):
            raise ValueError(
                f"--control is {self.control!r}, allowed are none, linear, lowess, calibrated"
            )
        if self.score_clip not in ("none", "literal"):
            raise ValueError(f"--score-clip is {self.score_clip!r}, allowed are none, literal")


FREE_ON_RESUME = (
    "out",
    "max_unscored",
    "checkpoint_every",
    "budget_requests",
    "budget_tokens",
    "budget_money",
)
"""Options of a run that may differ on `--resume`: none of them changes a number."""


@dataclass(frozen=True)
class SFTConfig:
    """Options of `--algo sft`: imitation of the train split's teacher and simple jokes."""

    epochs: float = 2.0
    """Passes over the 5,118 examples."""
    learning_rate: float = 6e-4
    """AdamW, linear to 0."""
    batch_size: int = 32
    """Examples an optimizer step."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises."""
    lora_rank: int = 16
    """Rank of the adapter; alpha is twice this."""
    lora_dropout: float = 0.05
    """Dropout of the adapter in imitation."""
    max_steps: int = -1
    """Stop after so many optimizer steps; -1: by epochs."""
    simple: bool = True
    """Imitate the plain short jokes too: they lift a 135M student a lot."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.lora_rank < 1:
            raise ValueError("--batch-size and --lora-rank must be >= 1")
        if not (self.learning_rate > 0 and self.epochs > 0):
            raise ValueError("--learning-rate and --epochs must be > 0")


def _flag(name: str) -> str:
    return name.replace("_", "-")
