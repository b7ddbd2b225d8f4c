"""Many jokes of one prompt in one row: the prompt's tokens are computed once.

A row is ``prompt | joke 1 | joke 2 | ...``. Joke tokens see the prompt and their own joke only, and
positions restart after the prompt, so every number equals that of a row of its own, while a group
of K jokes costs P + K*T tokens instead of K*(P + T). Gradients flow through the shared prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """One forward pass over R rows of L tokens that hold B jokes with N tokens in all."""

    ids: Tensor  # (R, L) int64, padded with `pad`
    positions: Tensor  # (R, L) int64
    mask: Tensor  # (R, 1, L, L) bool, True where row position i sees position j
    predictors: Tensor  # (N,) int64, flat index into R*L of what predicts each joke token
    own: Tensor  # (N,) int64, flat index of each joke token itself
    targets: Tensor  # (N,) int64, the joke tokens
    jokes: Tensor  # (N,) int64, which joke (0..B-1, order of the input) a token belongs to
    offsets: Tensor  # (N,) int64, the token's place in its joke


def pack(
    prompts: Sequence[Sequence[int]],
    jokes: Sequence[Sequence[int]],
    *,
    pad: int,
    group_limit: int = 24,
) -> Packed:
    """Pack jokes with equal prompts into shared rows.

    Args:
        prompts: token ids of each joke's prompt, none empty; equal prompts share a row.
        jokes: token ids of each joke, none empty.
        pad: id that fills rows; never seen by a real token.
        group_limit: most jokes in a row, so that a large group does not cost a long square mask.

    Raises:
        ValueError: lengths differ, nothing to pack, or an empty prompt or joke.
    """
    if len(prompts) != len(jokes) or not jokes:
        raise ValueError(f"pack got {len(prompts)} prompts and {len(jokes)} jokes")
    if not all(len(p) for p in prompts) or not all(len(j) for j in jokes):
        raise ValueError("pack got an empty prompt or joke")
    rows: list[tuple[tuple[int, ...], list[int]]] = []
    open_row: dict[tuple[int, ...], int] = {}
    for i, prompt in enumerate(prompts):
        key = tuple(prompt)
        row = open_row.get(key)
        if row is None or len(rows[row][1]) >= group_limit:
            open_row[key] = row = len(rows)
            rows.append((key, []))
        rows[row][1].append(i)
    length = max(len(p) + sum(len(jokes[i]) for i in members) for p, members in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    segment = torch.full((len(rows), length), -1, dtype=torch.long)  # -1 pad, 0 prompt, k joke k
    predictors: list[int] = []
    own: list[int] = []
    owner: list[int] = []
    offsets: list[int] = []
    for r, (prompt, members) in enumerate(rows):
        end = len(prompt)
        ids[r, :end] = torch.tensor(prompt)
        positions[r, :end] = torch.arange(end)
        segment[r, :end] = 0
        for k, i in enumerate(members, start=1):
            n = len(jokes[i])
            ids[r, end : end + n] = torch.tensor(list(jokes[i]))
            positions[r, end : end + n] = torch.arange(len(prompt), len(prompt) + n)
            segment[r, end : end + n] = k
            start = r * length + end
            predictors += [r * length + len(prompt) - 1, *range(start, start + n - 1)]
            own += range(start, start + n)
            owner += [i] * n
            offsets += range(n)
            end += n
    order = torch.arange(length)
    causal = order[None, :, None] >= order[None, None, :]
    same = segment[:, :, None] == segment[:, None, :]
    mask = causal & (same | (segment[:, None, :] == 0)) & (segment[:, None, :] >= 0)
    mask |= torch.eye(length, dtype=torch.bool)[None]  # padding sees itself: no row is all masked
    flat_own = torch.tensor(own)
    return Packed(
        ids,
        positions,
        mask[:, None],
        torch.tensor(predictors),
        flat_own,
        ids.view(-1)[flat_own],
        torch.tensor(owner),
        torch.tensor(offsets),
    )


def chunks(
    prompts: Sequence[Sequence[int]],
    jokes: Sequence[Sequence[int]],
    *,
    tokens: int,
    pack_limit: int = 24,
) -> list[list[int]]:
    """Split joke indices into lists of at most about `tokens` padded tokens, groups kept together.

    Rows of similar length meet in a chunk, so padding stays small. The split depends on the lengths
    only, never on time or memory, so that a resumed run repeats it.
    """
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for i, prompt in enumerate(prompts):
        parts = groups.setdefault(tuple(prompt), [[]])
        if len(parts[-1]) >= pack_limit:
            parts.append([])
        parts[-1].append(i)
    rows = [
        (len(prompt) + sum(len(jokes[i]) for i in members), members)
        for prompt, parts in groups.items()
        for members in parts
    ]
    rows.sort(key=lambda row: row[0])
    out: list[list[int]] = []
    n_rows = 0
    for length, members in rows:
        if not out or (n_rows + 1) * length > tokens:
            out.append([])
            n_rows = 0
        out[-1] += members
        n_rows += 1
    return out
