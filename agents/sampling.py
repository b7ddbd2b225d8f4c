"""Sampling K jokes a prompt from a decoder-only model: one prefill a prompt, rows leave when done.

Tokens are drawn by inverse transform (cumulative sum, then a search), which costs a fiftieth of
`torch.multinomial` over a vocabulary. Every joke has its own row of uniform numbers, so what it
says does not depend on which other jokes share its batch.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

BATCH_ROWS = 96
"""Most jokes decoded at once: more makes larger matrices, and larger caches."""


class Sampled(NamedTuple):
    """The tokens of one joke and what the sampler thought of them."""

    ids: list[int]  # joke tokens, the end token included where the joke finished
    logps: list[float]  # log p of each at the sampling temperature, nats
    finished: bool  # ended by the end token, not by the limit


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse transform: the token whose slice of the cumulative distribution holds u.

    Args:
        logits: (B, V) already divided by the temperature.
        uniforms: (B,) in [0, 1).

    Returns:
        (B,) int64.
    """
    cumulative = torch.softmax(logits, dim=-1, dtype=torch.float32).cumsum(dim=-1)
    total = cumulative[:, -1:]  # rounding: the sum is not 1, and u * sum may come out as the sum
    wanted = uniforms.to(cumulative)[:, None] * total
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0]


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    k: int,
    *,
    temperature: float,
    max_tokens: int,
    eos: int,
    pad: int,
    uniforms: Tensor | None,
) -> list[Sampled]:
    """Sample `k` jokes for every prompt; jokes of a prompt stand together in the answer.

    Args:
        model: a Hugging Face causal LM in eval mode, adapters merged.
        prompts: token ids; they are left-padded, so no position of a joke moves.
        k: jokes a prompt; greedy decoding needs k = 1.
        temperature: > 0, divides the logits; 0 is greedy. No other warpers exist, on purpose:
            log-probabilities must be of the distribution that was sampled.
        max_tokens: limit of a joke, the end token included.
        eos: ends a joke.
        pad: fills rows.
        uniforms: (len(prompts) * k, max_tokens) in [0, 1); None only for greedy.

    Raises:
        ValueError: sizes do not fit, or greedy decoding with k > 1.
    """
    n = len(prompts) * k
    if temperature < 0 or (temperature == 0 and k != 1):
        raise ValueError(f"sample got temperature {temperature} and k {k}; greedy needs k = 1")
    if temperature > 0 and (uniforms is None or uniforms.shape != (n, max_tokens)):
        shape = None if uniforms is None else tuple(uniforms.shape)
        raise ValueError(f"sample needs uniforms of shape {(n, max_tokens)}, got {shape}")
    out: list[Sampled] = []
    prompts_a_batch = max(1, BATCH_ROWS // k)
    for at in range(0, len(prompts), prompts_a_batch):
        some = prompts[at : at + prompts_a_batch]
        rows = None if uniforms is None else uniforms[at * k : (at + len(some)) * k]
        out += _sample_batch(model, some, k, temperature, max_tokens, eos, pad, rows)
    return out


def _sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    k: int,
    temperature: float,
    max_tokens: int,
    eos: int,
    pad: int,
    uniforms: Tensor | None,
) -> list[Sampled]:
    device = model.get_input_embeddings().weight.device
    length = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), length), pad, dtype=torch.long)
    seen = torch.zeros((len(prompts), length), dtype=torch.long)
    for r, prompt in enumerate(prompts):
        ids[r, length - len(prompt) :] = torch.tensor(list(prompt))
        seen[r, length - len(prompt) :] = 1
    positions = (seen.cumsum(-1) - 1).clamp_(min=0)
    cache = DynamicCache()
    kept = {"use_cache": True, _cache_argument(type(model)): cache}
    step = model(
        input_ids=ids.to(device),
        attention_mask=seen.to(device),
        position_ids=positions.to(device),
        # An index, not the number 1: that takes a view, which PyTorch multiplies in bf16 by a copy
        # of the output matrix for every row, 57 MB each for 49,152 tokens.
        logits_to_keep=torch.tensor([length - 1], device=device),
        **kept,
    )
    if k > 1:
        cache.batch_repeat_interleave(k)
    logits = step.logits[:, -1].repeat_interleave(k, dim=0)
    seen = seen.repeat_interleave(k, dim=0).to(device)
    position = positions[:, -1:].repeat_interleave(k, dim=0).to(device)
    alive = torch.arange(len(prompts) * k, device=device)
    tokens: list[list[int]] = [[] for _ in range(len(alive))]
    logps: list[list[float]] = [[] for _ in range(len(alive))]
    for t in range(max_tokens):
        scaled = logits.float() / (temperature or 1.0)
        if uniforms is None:
            token = scaled.argmax(dim=-1)
        else:
            token = draw(scaled, uniforms[alive.cpu(), t].to(device))
        logp = scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)
        for row, one, its_logp in zip(alive.tolist(), token.tolist(), logp.tolist(), strict=True):
            tokens[row].append(one)
            logps[row].append(its_logp)
        going = (token != eos).nonzero()[:, 0]
        if len(going) == 0 or t == max_tokens - 1:
            break
        if len(going) < len(alive):
            cache.batch_select_indices(going)
            alive, token = alive[going], token[going]
            seen, position = seen[going], position[going]
        seen = torch.cat([seen, seen.new_ones(len(alive), 1)], dim=1)
        position = position + 1
        step = model(input_ids=token[:, None], attention_mask=seen, position_ids=position, **kept)
        logits = step.logits[:, -1]
    return [Sampled(i, p, i[-1] == eos) for i, p in zip(tokens, logps, strict=True)]


def _cache_argument(model_class: type) -> str:
    """Transformers renamed `past_key_values` to `cache` in 5.24; both are in use."""
    known = inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
    return "cache" if "cache" in known else "past_key_values"
