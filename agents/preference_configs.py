"""Options of the methods that learn from preferences. No torch here: `--help` must answer fast."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OnlineDPOConfig:
    """Options of `--algo online-dpo`."""

    updates: int = 16
    """Updates of the student; each judges prompts_per_update * group_size jokes."""
    prompts_per_update: int = 8
    """Prompts an update."""
    group_size: int = 8
    """Jokes a prompt, K, 2 to 24; pairs are made among them."""
    pairs: Literal["best-worst", "best-random", "all"] = "best-worst"
    """Which jokes of a prompt are paired."""
    min_margin: float = 0.0
    """Pairs closer than this are left out, in reward units; ties always are."""
    gated_rejected: bool = False
    """Let gated jokes stand as rejected ones."""
    loss: Literal["sigmoid", "ipo", "cdpo", "sigmoid_norm"] = "sigmoid"
    """Preference loss (agents/preference.py)."""
    beta: float = 0.1
    """Pull towards the start student."""
    confidence: float = 1.0
    """cdpo: logits of the critic being right, a reward unit of margin."""
    refresh_every: int = 1
    """Updates between two students that write the jokes: 1 online, n iterative, 0 never (offline:
    all jokes are the start student's)."""
    learning_rate: float = 3e-4
    """AdamW, annealed to a tenth over the run."""
    warmup_updates: int = 2
    """Updates over which the learning rate rises to its value."""
    epochs: int = 2
    """Passes over the pairs of an update."""
    minibatches: int = 2
    """Optimizer steps a pass; by default as many steps an update, pairs a step and uses of a pair
    as `--algo dpo` has."""
    temperature: float = 0.7
    """Sampling temperature; log-probabilities are of this distribution."""
    max_tokens: int = 40
    """Limit of a joke in tokens; one that reaches it is gated as unfinished."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        check_groups(self, least=2)
        if self.refresh_every < 0:
            raise ValueError(f"--refresh-every is {self.refresh_every}, must be >= 0 (0: never)")
        for name in ("min_margin", "confidence"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{_flag(name)} is {getattr(self, name)}, must be >= 0")
        if not self.beta > 0:
            raise ValueError(f"--beta is {self.beta}, must be > 0")

    @property
    def jokes_per_update(self) -> int:
        """Judged jokes an update."""
        return self.prompts_per_update * self.group_size


def check_groups(config: object, *, least: int) -> None:
    """What every method that learns from groups of jokes asks of its sizes and rates.

    Raises:
        ValueError: a size below 1, a group outside least..24, more minibatches than prompts, or a
            rate, temperature or norm that is not positive.
    """
    value = vars(config)
    for name in ("updates", "prompts_per_update", "epochs", "minibatches"):
        if value[name] < 1:
            raise ValueError(f"--{_flag(name)} is {value[name]}, must be >= 1")
    if not least <= value["group_size"] <= 24:  # a packed group is one row of the student
        raise ValueError(f"--group-size is {value['group_size']}, must lie in {least}..24")
    if value["prompts_per_update"] < value["minibatches"]:
        raise ValueError(
            f"--minibatches is {value['minibatches']}, more than the "
            f"{value['prompts_per_update']} prompts of an update"
        )
    for name in ("learning_rate", "temperature", "grad_clip"):
        if not value[name] > 0:
            raise ValueError(f"--{_flag(name)} is {value[name]}, must be > 0")
    if value["max_tokens"] < 2:
        raise ValueError(f"--max-tokens is {value['max_tokens']}, must be >= 2")


def _flag(name: str) -> str:
    return name.replace("_", "-")
