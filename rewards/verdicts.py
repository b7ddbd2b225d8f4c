"""What a language model's answer says: strict parsing, and probabilities of verdict tokens.

Anything ambiguous is None. A verdict counts where it is the whole answer or the answer's last line,
``Verdict: ...``; two such lines that differ are no verdict, so text that a joke brings along and a
model repeats cannot decide.
"""

import math
import re
from collections.abc import Mapping, Sequence

QUESTIONS = ("pairwise", "listwise", "pointwise")
TOP_RATING = 10
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MASS_TOLERANCE = 0.01
"""Rounded log probabilities may add up to a little over 1."""
_VERDICT = re.compile(r"[\s*_#>-]*verdict[\s*_]*:(.*)", re.IGNORECASE)
_MARKERS = "\u0120\u2581"  # how raw byte-level and SentencePiece vocabularies write a space
_DECORATION = " \t*_`\"'."


def verdict_tokens(question: str, n: int = 2) -> list[str]:
    """The canonical verdicts of a question: ``A``, ``B`` (as many as `n`), or ``0`` to ``10``.

    Raises:
        ValueError: unknown question, or more jokes than letters.
    """
    if question not in QUESTIONS:
        raise ValueError(f"question is {question!r}, allowed are {', '.join(QUESTIONS)}")
    if question == "pointwise":
        return [str(rating) for rating in range(TOP_RATING + 1)]
    return list(letters(n))


def letters(n: int) -> str:
    """The letters that `n` jokes are shown under.

    Raises:
        ValueError: not between 1 and 26 jokes.
    """
    if not 1 <= n <= len(LETTERS):
        raise ValueError(f"a question shows 1 to {len(LETTERS)} jokes, got {n}")
    return LETTERS[:n]


def renormalise(
    logprobs: Mapping[str, float], verdicts: Sequence[str]
) -> tuple[list[float], float]:
    """Probabilities over `verdicts` and the mass they were renormalised from.

    A token counts for the verdict that it equals apart from spaces and case (``" A"``, ``"a"``).

    Args:
        logprobs: token -> log probability in nats, as one position of an answer lists them; a token
            that a server could not give may stand with -9999 or -inf.
        verdicts: canonical verdicts, see `verdict_tokens`.

    Returns:
        One probability a verdict, adding up to 1, and the captured mass in [0, 1]. With no mass
        at all they are all 0: there is no verdict.

    Raises:
        ValueError: a log probability is NaN or above 0, or the masses add up to more than 1.
    """
    place = {verdict.casefold(): i for i, verdict in enumerate(verdicts)}
    masses = [0.0] * len(verdicts)
    for token, logprob in logprobs.items():
        if math.isnan(logprob) or logprob > MASS_TOLERANCE:
            raise ValueError(f"token {token!r} has log probability {logprob}, must be <= 0")
        i = place.get(token.strip(_MARKERS + " \t\r\n").casefold())
        if i is not None:
            masses[i] += math.exp(logprob)
    mass = math.fsum(masses)
    if mass > 1 + MASS_TOLERANCE:
        raise ValueError(f"the verdict tokens' probabilities add up to {mass:.3f}, must be <= 1")
    if mass == 0:
        return masses, 0.0
    return [m / mass for m in masses], min(mass, 1.0)


def parse_pairwise(text: str) -> float | None:
    """1.0 where the answer says A, 0.0 where it says B, None for anything else."""
    return {"A": 1.0, "B": 0.0}.get(_verdict(text).upper())


def parse_pointwise(text: str) -> float | None:
    """The rating 0 to 10 of the answer; None for anything else, "7.5" and "8 or 9" included.

    "8/10" is 8: many models cannot leave the scale out.
    """
    found = re.fullmatch(r"(\d{1,2})(?:\s*/\s*10)?", _verdict(text), re.ASCII)
    rating = int(found[1]) if found else TOP_RATING + 1
    return float(rating) if rating <= TOP_RATING else None


def parse_ranking(text: str, n: int) -> list[float] | None:
    """For each of `n` jokes the share of others it was ranked above, 0 to 1.

    The answer names every letter once, the best first: "C > A > B" or "C, A, B". Anything else,
    ties included, is None.
    """
    order = [part.strip(_DECORATION).upper() for part in re.split(r"[>,]", _verdict(text))]
    if n < 2 or sorted(order) != list(letters(n)):
        return None
    return [(n - 1 - order.index(letter)) / (n - 1) for letter in letters(n)]


def _verdict(text: str) -> str:
    """The one verdict of an answer, undecorated; "" where there is none or more than one."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    marked = [found[1].strip(_DECORATION) for line in lines if (found := _VERDICT.match(line))]
    if len(lines) == 1 and not marked:
        return lines[0].strip(_DECORATION)
    if len({m.upper() for m in marked}) != 1 or not _VERDICT.match(lines[-1]):
        return ""
    return marked[-1]
