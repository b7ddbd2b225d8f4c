"""What a checkpoint must keep to be the best: length, recall and diversity near start-tuned's."""

from collections.abc import Mapping

from evaluation.ladder import DISTINCT_RATIO, LENGTH_RATIO, PHRASE_SHARE, RECALL_RISE

PREFIXES = ("select", "tuned")
"""Of the metrics of a look: sampled lines, and one line a prompt at the start's best decoding."""
FIGURES = ("words", "recall", "distinct_2", "commonest_4gram")
"""What is held to the bounds."""


def broken_bounds(
    metrics: Mapping[str, float], start_tuned: Mapping[str, float], prefix: str
) -> list[str]:
    """What a look has lost against start-tuned, by the bounds of the final table; [] if nothing.

    Args:
        metrics: of the look, as `text_metrics` with `prefix`.
        start_tuned: of the untrained student at its best decoding, with prefix ``tuned``.
        prefix: of the lines to hold to the bounds: ``select`` (sampled) or ``tuned``.
    """

    def now(name: str) -> float:
        return metrics[f"{prefix}/{name}"]

    def then(name: str) -> float:
        return start_tuned[f"tuned/{name}"]

    ratio = now("words") / max(then("words"), 1e-9)
    rise = now("recall") - then("recall")
    told = []
    if not LENGTH_RATIO[0] <= ratio <= LENGTH_RATIO[1]:
        told.append(f"length is {ratio:.2f} of start-tuned's")
    if rise > RECALL_RISE:
        told.append(f"recall of the prompt rose by {rise:.2f}")
    if now("distinct_2") < DISTINCT_RATIO * then("distinct_2"):
        told.append(f"distinct-2 fell from {then('distinct_2'):.2f} to {now('distinct_2'):.2f}")
    if now("commonest_4gram") > PHRASE_SHARE:
        told.append(f"one 4-gram stands in {now('commonest_4gram'):.0%} of lines")
    return told
