"""Advantages, returns, KL and losses of PPO as pure functions of tensors.

Shapes: B jokes, T tokens, `mask` is (B, T) bool and True always counts. Every mean is a mean over
True tokens of the whole batch it is given.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over True positions; 0 where there is none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


FLAT = 1e-4
"""Reward units; advantages that differ by less are rounding of the KL, not a preference."""


class KL(NamedTuple):
    """Estimators of KL(policy || reference) from samples of the policy."""

    k1: Tensor  # (B, T) log p - log q: unbiased, used in the reward; 0 off the mask
    k3: Tensor  # (B, T) q/p - 1 - log q/p: >= 0, less variance, used as a metric; 0 off the mask


def kl_estimates(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> KL:
    """Schulman 2020, "Approximating KL divergence", estimators k1 and k3, nats a token."""
    log_ratio = (ref_logps - logps) * mask
    return KL(-log_ratio, (log_ratio.exp() - 1 - log_ratio) * mask)


def group_advantages(
    rewards: Tensor, scored: Tensor, groups: Tensor, *, divide_by_std: bool
) -> Tensor:
    """Reward minus a baseline from the other scored jokes of the same prompt.

    Without `divide_by_std` the baseline is the mean of the others: RLOO, Ahmadian et al. 2024,
    arXiv:2402.14740, Eq. 8. With it, the group's mean and deviation: GRPO, Shao et al. 2024,
    arXiv:2402.03300, section 4.1.2.

    Args:
        rewards: (B,); unscored entries are ignored whatever they hold, NaN too.
        scored: (B,) bool.
        groups: (B,) int64, equal for jokes of one prompt.
        divide_by_std: GRPO instead of RLOO.

    Returns:
        (B,); 0 for unscored jokes and for jokes without a scored companion.

    Raises:
        ValueError: the three shapes differ.
    """
    if not rewards.shape == scored.shape == groups.shape or rewards.ndim != 1:
        shapes = [tuple(t.shape) for t in (rewards, scored, groups)]
        raise ValueError(f"group_advantages needs three tensors of one shape (B,), got {shapes}")
    out = torch.zeros_like(rewards)
    for group in groups.unique():
        at = (groups == group) & scored
        n = int(at.sum())
        if n < 2:
            continue
        r = rewards[at]
        if divide_by_std:
            out[at] = (r - r.mean()) / (r.std() + 1e-4)
        else:
            out[at] = r - (r.sum() - r) / (n - 1)
    return out


def scale_advantages(advantages: Tensor, mask: Tensor) -> Tensor:
    """Divide by one deviation of the whole batch, so that the learning rate fits any critic.

    The mean is not subtracted: a group baseline has made it what it should be.
    """
    counted = advantages[mask]
    if len(counted) < 2:
        return torch.zeros_like(advantages)
    deviation = counted.std()
    if deviation < FLAT:  # NaN goes on, so that the update is seen to fail
        return torch.zeros_like(advantages)
    return advantages / deviation


def token_rewards(scores: Tensor, k1: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """(B, T): -beta * KL at every token, plus the score on the last real token.

    Ziegler et al. 2019, arXiv:1909.08593, Eq. 2, per token. The score lands on the last True
    position of `mask` (the end token where the joke finished), never on padding.

    Raises:
        ValueError: a joke without a token.
    """
    lengths = mask.sum(-1)
    if not bool((lengths > 0).all()):
        raise ValueError("token_rewards got a joke without a token")
    rewards = -beta * k1 * mask
    rewards[torch.arange(len(scores)), lengths - 1] += scores
    return rewards


class Returns(NamedTuple):
    """Of generalised advantage estimation; 0 off the mask."""

    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T) advantages + values, the target of the value head


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Returns:
    """Generalised advantage estimation. Schulman et al. 2016, arXiv:1506.02438, Eq. 16.

        delta_t = r_t + gamma * V_(t+1) - V_t,   A_t = delta_t + gamma * lambda * A_(t+1)

    The value after the last token is 0: a joke ends, it is not cut.

    Args:
        rewards: (B, T).
        values: (B, T) V of the state before each token.
        mask: (B, T) bool; real tokens stand at the left.
        gamma: discount, 0-1; 1 is usual, or a long joke would earn less.
        lam: lambda, 0-1; 0.95 is usual.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    last = rewards.shape[1] - 1
    for t in range(last, -1, -1):
        following = values[:, t + 1] if t < last else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return Returns(advantages, (advantages + values) * mask)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over True positions; 0 elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) * (variance + 1e-8).rsqrt() * mask


class PolicyTerms(NamedTuple):
    """Sums over tokens, so that micro-batches add up to the minibatch exactly."""

    loss: Tensor  # () sum over tokens of the clipped objective, negative; carries gradient
    clipped: Tensor  # () tokens where the clip held
    approx_kl: Tensor  # () sum of k3 of old against new, nats


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip: float
) -> PolicyTerms:
    """Clipped surrogate. Schulman et al. 2017, arXiv:1707.06347, Eq. 7, summed over tokens.

        L = -sum min(r * A, clip(r, 1 - eps, 1 + eps) * A),   r = exp(log pi - log pi_old)

    Args:
        logps: (B, T) of the policy now; carries gradient.
        old_logps: (B, T) of the policy that sampled.
        advantages: (B, T).
        mask: (B, T) bool.
        clip: epsilon, > 0.

    Raises:
        ValueError: clip <= 0 or shapes differ.
    """
    shapes = {tuple(t.shape) for t in (logps, old_logps, advantages, mask)}
    if len(shapes) != 1:
        raise ValueError(f"policy_loss needs four tensors of one shape, got {sorted(shapes)}")
    if clip <= 0:
        raise ValueError(f"policy_loss needs clip > 0, got {clip}")
    log_ratio = torch.where(mask, logps - old_logps, 0.0)
    ratio = log_ratio.exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -(torch.minimum(plain, clipped) * mask).sum()
    with torch.no_grad():
        held = ((clipped < plain) & mask).sum()
        approx_kl = ((ratio - 1 - log_ratio) * mask).sum()
    return PolicyTerms(loss, held, approx_kl)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
) -> Tensor:
    """() sum over tokens of half the larger squared error, clipped around the old values.

    PPO2's value clipping (Engstrom et al. 2020, arXiv:2005.12729, section 2), factor 0.5.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (worse * mask).sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over True tokens; 0 where returns are constant."""
    target, error = returns[mask], (returns - values)[mask]
    if len(target) < 2 or float(target.var()) == 0.0:
        return 0.0
    return float(1 - error.var() / target.var())


class KLController(NamedTuple):
    """KL coefficient; adaptive as in Ziegler et al. 2019, section 2.2, on KL a token.

    Their horizon is of runs of a million lines; one of a thousand jokes needs a shorter one, or
    beta hardly moves before the run is over. A batch above the horizon counts as one horizon.
    """

    beta: float  # reward units a nat
    target: float | None  # nats a token; None: fixed
    horizon: int  # jokes

    def after(self, kl_per_token: float, jokes: int) -> "KLController":
        """After a batch of n: beta * (1 + clip(kl / target - 1, +-0.2) * min(n / horizon, 1))."""
        if self.target is None:
            return self
        error = min(max(kl_per_token / self.target - 1, -0.2), 0.2)
        return self._replace(beta=self.beta * (1 + error * min(jokes / self.horizon, 1.0)))
