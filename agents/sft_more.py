"""More imitation: the fair control of every method that asks a critic.

BART-FT of Small But Funny (Ravi et al. 2024, arXiv:2402.18113): the warm start, trained on. As
many updates, optimizer steps and jokes an update as the methods that learn from feedback, on the
train split's teacher and simple jokes; no critic is asked. What these methods gain beyond it, they
gain from feedback and not from having been trained longer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.feedback_configs import SFTMoreConfig
from agents.learner import Learner, as_completions, epoch_rows
from agents.student import Completions, Student, TokenStats
from envs.prompts import teacher_jokes
from rewards.text import recall, words

IMITATED = 1.0
"""Temperature of the log-probabilities: the jokes were drawn from no softened distribution."""


class Examples(NamedTuple):
    """What one update imitates."""

    completions: Completions


class SFTMore:
    """The agent; see PPO's contract.

    Args:
        config: sizes and rates.
        student: what learns.
        seed: of the order of examples.
        examples: (prompt, joke) to imitate; None: the corpus' train jokes.
    """

    def __init__(
        self,
        config: SFTMoreConfig,
        student: Student,
        *,
        seed: int,
        examples: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.config, self.student = config, student
        self.learner = Learner(config, student, seed=seed, writes=False)
        self.examples = corpus_examples(config.simple) if examples is None else list(examples)

    @property
    def step(self) -> int:
        """Updates done."""
        return self.learner.step

    def collect(self, _env: Any) -> Examples:
        """The next examples of a shuffled epoch; the environment is left alone."""
        rows = epoch_rows(
            len(self.examples),
            self.config.jokes_per_update,
            batch=self.step,
            seed=self.learner.seed,
        )
        batch = [self.examples[i] for i in rows]
        return Examples(as_completions(self.student.format, batch, temperature=IMITATED))

    def update(self, rollout: Examples) -> dict[str, float]:
        """Imitate; returns the metrics of docs/metrics.md.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        done = rollout.completions
        rows = torch.arange(len(done.jokes))

        def loss_of(part: list[int], stats: TokenStats) -> tuple[Tensor, int]:
            # L = -1/N sum_i sum_t log pi(y_it | y_i,<t, x_i), N tokens; descend divides by N
            return -stats.logps.cpu().sum(), tokens_of(part)

        def tokens_of(part: Sequence[int]) -> int:
            return int(done.mask[list(part)].sum())

        loss, policy = self.learner.learn(
            done, self.learner.minibatches(rows, range(len(rows))), loss_of, tokens_of, rollout
        )
        pairs = list(zip(done.prompts, done.jokes, strict=True))
        return policy | {
            "reward/mean": math.nan,  # nobody judged
            "policy/kl_per_joke": math.nan,  # nothing was sampled
            "loss/imitation": loss,
            "imitation/jokes": float(len(pairs)),
            "joke/words": sum(len(words(joke)) for _, joke in pairs) / len(pairs),
            "joke/recall": sum(recall(prompt, joke) for prompt, joke in pairs) / len(pairs),
            "joke/tokens": float(done.mask.sum(-1).float().mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        self.learner.load_state_dict(state)


def corpus_examples(simple: bool) -> list[tuple[str, str]]:
    """The train split's teacher jokes with their prompts, and its simple ones if asked."""
    kinds = (False, True) if simple else (False,)
    return [(p.text, joke) for kind in kinds for p, joke in teacher_jokes("train", simple=kind)]
