"""BRIO: order the student's probabilities of its own jokes as the critic orders the jokes.

Liu et al. 2022, arXiv:2203.16804, section 3; used for humor by Small But Funny (Ravi et al. 2024,
arXiv:2402.18113). What differs: the ranking loss is the mean over a prompt's pairs, not the sum,
so that prompts with unscored jokes weigh as much; jokes with equal rewards share a rank and are
not ordered; gamma stands at the imitation term, which a small weight only has to keep fluent. The
margin has Small But Funny's meaning: at log 2 over the mean length, the better joke shall be twice
as likely. One update's jokes are fresh (`refresh_every`), where both papers train on a fixed set.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.feedback_configs import BRIOConfig
from agents.learner import Candidates, Learner, as_completions, joined
from agents.student import Completions, Student, TokenStats
from envs.prompts import teacher_jokes


class RankingTerms(NamedTuple):
    """The ranking loss of one group."""

    loss: Tensor  # () nats a token ** alpha, mean over ordered pairs; carries gradient
    right: float  # share of ordered pairs that the student puts in the critic's order
    pairs: int  # ordered pairs; 0: the loss is 0


def ranking_loss(scores: Tensor, rewards: Tensor, *, margin: float) -> RankingTerms:
    """BRIO's contrastive loss over the candidates of one prompt, L_ctr in the paper.

        L = mean over r_i < r_j of max(0, f(S_j) - f(S_i) + lambda (r_j - r_i))

    with r the rank by reward, 0 the best; equal rewards share a rank.

    Args:
        scores: (K,) f(S), length-normalised log-probabilities; carry gradient.
        rewards: (K,) finite.
        margin: lambda, >= 0.

    Raises:
        ValueError: shapes that differ, a reward that is not finite, or a negative margin.
    """
    if scores.shape != rewards.shape or scores.ndim != 1:
        raise ValueError(
            f"ranking_loss needs two tensors of one shape (K,), got {tuple(scores.shape)} and "
            f"{tuple(rewards.shape)}"
        )
    if margin < 0:
        raise ValueError(f"margin is {margin}, must be >= 0")
    if not bool(rewards.isfinite().all()):
        raise ValueError(f"rewards are {rewards.tolist()}, must be finite")
    ranks = torch.unique(-rewards, return_inverse=True)[1]  # r
    below = ranks[None, :] - ranks[:, None]  # (K, K) r_j - r_i
    ordered = below > 0
    lead = scores[:, None] - scores[None, :]  # f(S_i) - f(S_j)
    hinge = F.relu(margin * below - lead) * ordered  # max(0, f(S_j) - f(S_i) + lambda_ij)
    n = int(ordered.sum())
    right = int(((lead > 0) & ordered).sum()) / max(n, 1)
    return RankingTerms(hinge.sum() / max(n, 1), right, n)


def length_normalised(logps: Tensor, tokens: Tensor, *, alpha: float) -> Tensor:
    """f(S) = sum_t log p(s_t | s_<t, x) / |S|^alpha, in the paper; (N,) and (N,) to (N,)."""
    return logps / tokens.to(logps) ** alpha


class RankedJokes(NamedTuple):
    """C jokes in groups: candidates in an order, and one of each group to imitate."""

    completions: Completions
    rewards: Tensor  # (C,) what orders them; ignored where not usable
    usable: Tensor  # (C,) bool, whether a joke stands in the order
    groups: Tensor  # (C,) int64
    imitated: dict[int, int]  # group -> row
    ref_logps: Tensor  # (B,) nats of the first B jokes, which the student wrote, summed
    told: Mapping[str, float]  # metrics of how they were received


class BRIO:
    """The agent; see PPO's contract.

    Args:
        config: sizes and rates.
        student: what learns.
        seed: of sampling, minibatches and which of a prompt's teacher jokes is imitated.
        examples: (prompt, joke) of the teacher; None: the corpus' train jokes.
    """

    def __init__(
        self,
        config: BRIOConfig,
        student: Student,
        *,
        seed: int,
        examples: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.config, self.student = config, student
        self.learner = Learner(config, student, seed=seed)
        self.teacher = jokes_by_prompt(examples) if config.imitates == "teacher" else {}

    @property
    def step(self) -> int:
        """Updates done."""
        return self.learner.step

    def collect(self, env: Any) -> RankedJokes:
        """One step of the vector environment: K jokes for each of its prompts, ordered."""
        mine = self.learner.candidates(env, refresh_every=self.config.refresh_every)
        imitated = {}
        for group in mine.groups.unique().tolist():
            rows = torch.nonzero((mine.groups == group) & mine.usable)[:, 0].tolist()
            if rows:
                imitated[group] = max(rows, key=lambda i: float(mine.rewards[i]))
        return self.with_teacher(mine, imitated)

    def with_teacher(self, mine: Candidates, imitated: dict[int, int]) -> RankedJokes:
        """The candidates with a teacher's joke of each prompt that has one, to be imitated."""
        with torch.no_grad():
            reference = self.student.reference_logps(mine.completions).sum(-1)
        first = {int(g): i for i, g in reversed(list(enumerate(mine.groups.tolist())))}
        prompts = {g: mine.completions.prompts[i] for g, i in sorted(first.items())}
        known = {g: p for g, p in prompts.items() if p in self.teacher}
        completions = mine.completions
        extra = len(known)
        if known:
            texts = [(p, self.teachers_joke(p)) for p in known.values()]
            completions = joined(
                completions,
                as_completions(self.student.format, texts, temperature=self.config.temperature),
            )
            imitated = imitated | {g: len(mine.groups) + i for i, g in enumerate(known)}
        return RankedJokes(
            completions,
            torch.cat([mine.rewards, torch.full((extra,), math.nan)]),
            torch.cat([mine.usable, torch.zeros(extra, dtype=torch.bool)]),
            torch.cat([mine.groups, torch.tensor(list(known), dtype=torch.int64)]),
            imitated,
            reference,
            mine.describe(),
        )

    def teachers_joke(self, prompt: str) -> str:
        """One of the teacher's jokes of a prompt, drawn.

        Raises:
            KeyError: the prompt has none.
        """
        jokes = self.teacher[prompt]
        return jokes[int(torch.randint(len(jokes), (1,), generator=self.learner.generator))]

    def update(self, rollout: RankedJokes) -> dict[str, float]:
        """Order and imitate; returns the metrics of docs/metrics.md.

        A group whose candidates are not ordered at all (no verdicts, or equal ones) trains nothing,
        its imitation term included.

        Raises:
            Diverged: no finite gradient for the third update in a row.
        """
        config, done = self.config, rollout.completions
        lengths, reference = done.mask.sum(-1), rollout.ref_logps
        groups = rollout.groups.tolist()
        ordered = self._ordered_groups(rollout)
        told = {"ranking": 0.0, "imitation": 0.0, "right": 0.0, "pairs": 0.0, "groups": 0.0}
        kl: dict[int, float] = {}

        def groups_of(rows: Sequence[int]) -> list[int]:
            return sorted({groups[i] for i in rows} & ordered)

        def loss_of(part: list[int], stats: TokenStats) -> tuple[Tensor, int]:
            logps = stats.logps.cpu().sum(-1)
            kl.update(
                (i, float(logps[at].detach() - reference[i]))
                for at, i in enumerate(part)
                if i < len(reference)
            )
            score = length_normalised(logps, lengths[part], alpha=config.alpha)  # f(S)
            loss = logps.new_zeros(())
            for group in groups_of(part):
                rows = [at for at, i in enumerate(part) if groups[i] == group and rollout.usable[i]]
                rewards = rollout.rewards[[part[at] for at in rows]]
                terms = ranking_loss(score[rows], rewards, margin=config.margin)
                at = part.index(rollout.imitated[group])
                imitation = -logps[at] / lengths[part[at]]  # L_xent, nats a token
                loss = loss + terms.loss + config.imitation * imitation  # L_ctr + gamma L_xent
                told["ranking"] += float(terms.loss.detach())
                told["imitation"] += float(imitation.detach())
                told["right"] += terms.right * terms.pairs
                told["pairs"] += terms.pairs
                told["groups"] += 1
            return loss, len(groups_of(part))

        wanted = {
            i for i, g in enumerate(groups)
            if g in ordered and (rollout.usable[i] or rollout.imitated[g] == i)
        }  # fmt: skip
        _, policy = self.learner.learn(
            done, self.learner.minibatches(rollout.groups, wanted), loss_of,
            lambda rows: len(groups_of(rows)), rollout,
        )  # fmt: skip
        n = told["groups"] or math.nan
        return (
            dict(rollout.told)
            | policy
            | {
                "loss/ranking": told["ranking"] / n,
                "loss/imitation": told["imitation"] / n,
                "ranking/accuracy": told["right"] / (told["pairs"] or math.nan),
                "ranking/groups": float(len(ordered)),
                "policy/kl_per_joke": float(np.mean(list(kl.values()))) if kl else math.nan,
            }
        )

    def _ordered_groups(self, rollout: RankedJokes) -> set[int]:
        return {
            group
            for group in set(rollout.groups.tolist())
            if len(rollout.rewards[(rollout.groups == group) & rollout.usable].unique()) > 1
        }

    def state_dict(self) -> dict[str, Any]:
        """`tensors` for safetensors and `scalars` for JSON; with the adapter, all of the agent."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of `state_dict`; the student's adapter is loaded by the caller."""
        self.learner.load_state_dict(state)


def jokes_by_prompt(examples: Sequence[tuple[str, str]] | None) -> dict[str, list[str]]:
    """Jokes to imitate by their prompt; of the corpus' teacher, train split, if None."""
    if examples is None:
        examples = [(p.text, joke) for p, joke in teacher_jokes("train")]
    by_prompt: dict[str, list[str]] = {}
    for prompt, joke in examples:
        by_prompt.setdefault(prompt, []).append(joke)
    return by_prompt
