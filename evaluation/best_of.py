"""Best of N: which of a prompt's lines a critic's scores pick."""

from collections.abc import Sequence


def best_line(scores: Sequence[float | None], lost: Sequence[bool]) -> int | None:
    """Place of the line to pick; None: no verdict says which.

    Args:
        scores: of each line, by the critic that picks; None without a verdict.
        lost: whether each line is empty or cut at the limit: never picked, unless all are.

    Returns:
        The highest scored line that is not lost, the first of equal ones; the first line where all
        are lost, since whichever is picked then loses.

    Raises:
        ValueError: no lines, or columns of different lengths.
    """
    if not scores or len(scores) != len(lost):
        raise ValueError(f"best_line got {len(scores)} scores and {len(lost)} flags, need as many")
    known = [(-s, i) for i, s in enumerate(scores) if s is not None and not lost[i]]
    if known:
        return min(known)[1]
    return 0 if all(lost) else None
