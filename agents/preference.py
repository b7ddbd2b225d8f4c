"""Pairs of a group's jokes, and preference losses over them, as pure functions.

Shapes: B jokes in groups, N pairs of them. Agrees with TRL 1.16's DPOTrainer (a test holds the
losses equal): its ``sigmoid``, ``ipo`` and ``sigmoid_norm``, and its former ``cdpo`` by
label smoothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("sigmoid", "ipo", "cdpo", "sigmoid_norm")
PAIRINGS = ("best-worst", "best-random", "all")


class Pair(NamedTuple):
    """Two jokes of one prompt, by their places in the batch, the better one first."""

    chosen: int
    rejected: int
    margin: float  # reward of chosen minus reward of rejected, > 0


def make_pairs(
    rewards: Tensor,
    usable: Tensor,
    groups: Tensor,
    *,
    pairing: str,
    min_margin: float,
    generator: torch.Generator,
) -> list[Pair]:
    """Pair the jokes of each group by reward.

    Args:
        rewards: (B,); entries that are not usable are ignored whatever they hold, NaN too.
        usable: (B,) bool; False for jokes without a verdict and, unless asked for, gated ones.
        groups: (B,) int64, equal for jokes of one prompt.
        pairing: ``best-worst``: one pair a group; ``best-random``: the best against one of the
            others; ``all``: every two jokes.
        min_margin: pairs closer than this, and ties, are left out; reward units, >= 0.
        generator: picks the other of ``best-random``.

    Raises:
        ValueError: unknown pairing, a negative margin, or shapes that differ.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing is {pairing!r}, allowed are {', '.join(PAIRINGS)}")
    if min_margin < 0:
        raise ValueError(f"min_margin is {min_margin}, must be >= 0")
    if not rewards.shape == usable.shape == groups.shape or rewards.ndim != 1:
        shapes = [tuple(t.shape) for t in (rewards, usable, groups)]
        raise ValueError(f"make_pairs needs three tensors of one shape (B,), got {shapes}")
    pairs: list[Pair] = []
    for group in groups.unique():
        rows = torch.nonzero((groups == group) & usable)[:, 0].tolist()
        rows.sort(key=lambda i: -float(rewards[i]))  # stable: equal rewards keep their order
        for better, worse in _of_group(rows, pairing, generator):
            margin = float(rewards[better] - rewards[worse])
            if margin > 0 and margin >= min_margin:
                pairs.append(Pair(better, worse, margin))
    return pairs


def _of_group(
    rows: Sequence[int], pairing: str, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Candidate pairs of rows that are sorted from best to worst."""
    if len(rows) < 2:
        return []
    if pairing == "best-worst":
        return [(rows[0], rows[-1])]
    if pairing == "best-random":
        other = int(torch.randint(1, len(rows), (1,), generator=generator))
        return [(rows[0], rows[other])]
    return [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]


class PairLogps(NamedTuple):
    """Log-probabilities of pairs of jokes."""

    chosen: Tensor  # (N,) log p(y_w | x), nats, summed over joke tokens only
    rejected: Tensor  # (N,) log p(y_l | x), nats, summed over joke tokens only


class DPOTerms(NamedTuple):
    """A preference loss and what it says of each pair."""

    loss: Tensor  # () mean over pairs; carries gradient
    chosen_reward: Tensor  # (N,) nats, beta * log(pi / pi_ref) of y_w; detached
    rejected_reward: Tensor  # (N,) nats, the same of y_l; detached


def preference_loss(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    kind: str = "sigmoid",
    tokens: PairLogps | None = None,
    flipped: Tensor | None = None,
) -> DPOTerms:
    """Direct Preference Optimization and its kin.

    With d = log pi/pi_ref(y_w|x) - log pi/pi_ref(y_l|x), and d' the same of means over tokens:

        sigmoid       L = -log sigmoid(beta d)                      Rafailov et al. 2023, Eq. 7
        cdpo          L = -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)   Mitchell 2023
        ipo           L = (d' - 1 / (2 beta))^2                     Azar et al. 2023, Eq. 17
        sigmoid_norm  L = -log sigmoid(beta d')                     Lambert et al. 2024 (Tulu 3)

    arXiv:2305.18290, 2310.12036, 2411.15124; cDPO: https://ericmitchell.ai/cdpo.pdf, Eq. 3.

    Args:
        policy: log pi, the student being trained; carries gradient.
        reference: log pi_ref, the frozen start student; no gradient.
        beta: pull towards pi_ref, > 0; 0.1 to 0.5 is usual, ten times that for means over tokens.
        kind: one of LOSSES.
        tokens: joke lengths in tokens, for the kinds that take means.
        flipped: (N,) e, how probably the label is wrong, in [0, 0.5]; for cdpo.

    Raises:
        ValueError: beta <= 0, an unknown kind, one that lacks its argument, or shapes that differ.
    """
    shapes = [tuple(t.shape) for t in (*policy, *reference, *(tokens or ()))]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise ValueError(f"preference_loss needs tensors of one shape (N,), got {shapes}")
    if beta <= 0:
        raise ValueError(f"preference_loss needs beta > 0, got {beta}")
    if kind not in LOSSES:
        raise ValueError(f"kind is {kind!r}, allowed are {', '.join(LOSSES)}")
    log_ratio_w = policy.chosen - reference.chosen  # log pi/pi_ref (y_w|x)
    log_ratio_l = policy.rejected - reference.rejected  # log pi/pi_ref (y_l|x)
    difference = log_ratio_w - log_ratio_l  # d
    if kind in ("ipo", "sigmoid_norm"):
        if tokens is None:
            raise ValueError(f"{kind} takes means over tokens and needs their numbers")
        difference = log_ratio_w / tokens.chosen - log_ratio_l / tokens.rejected  # d'
    if kind == "ipo":
        losses = (difference - 1 / (2 * beta)) ** 2
    elif kind == "cdpo":
        if flipped is None or flipped.shape != difference.shape:
            raise ValueError("cdpo needs the probability that each label is flipped, shape (N,)")
        losses = -(1 - flipped) * F.logsigmoid(beta * difference) - flipped * F.logsigmoid(
            -beta * difference
        )
    else:
        losses = -F.logsigmoid(beta * difference)
    return DPOTerms(losses.mean(), beta * log_ratio_w.detach(), beta * log_ratio_l.detach())
