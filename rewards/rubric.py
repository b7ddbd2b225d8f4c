"""Rubrics, the versioned prompt files of critics that are language models, and their filling.

A rubric file has a header (``name``, ``version``, ``question``), then the sections ``--- system``
and ``--- user``. The user section has each of ``{prompt}``, ``{jokes}`` and ``{answer}`` once; how
to answer is not the file's to say, since it must fit what the parser reads. The shipped ones lie in
`rewards/prompts/`.

Templates are filled in one pass, so a joke that contains ``{prompt}`` stays as it is. Jokes stand
on one line in tags, and what could close a tag or begin a control token (``<``, ``[``) is escaped,
so nothing a joke says becomes part of the frame. A model may still believe it: see the audit.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rewards.verdicts import (
    QUESTIONS,
    TOP_RATING,
    letters,
    parse_pairwise,
    parse_pointwise,
    parse_ranking,
    renormalise,
    verdict_tokens,
)

__all__ = [
    "QUESTIONS",
    "Rubric",
    "escape",
    "load_rubric",
    "parse_pairwise",
    "parse_pointwise",
    "parse_ranking",
    "render",
    "renormalise",
    "verdict_tokens",
]

PROMPTS = Path(__file__).resolve().parent / "prompts"
HEADER = ("name", "version", "question")
SECTIONS = ("system", "user")
SLOTS = ("prompt", "jokes", "answer")
MOST_BYTES = 64 * 1024
_SLOT = re.compile(r"\{([a-z]+)\}")
_SECTION = re.compile(r"---\s*(\w+)\s*")
# An ampersand is escaped only where it could begin an escape: "salt & pepper"
# stays as it is, and the escape stays reversible.
_UNSAFE = re.compile(r"[<>\[\]]|&(?=[#\w])")
_BREAKS = ("Cc", "Cs", "Co", "Zl", "Zp")  # controls, surrogates, private use, separators
_JOINERS = "\u200c\u200d"  # emoji and some scripts need them; other format characters only hide


class Rubric(NamedTuple):
    """A prompt file, read and checked."""

    name: str
    version: str
    question: str  # "pairwise", "listwise" or "pointwise"
    system: str  # taken as it is: no slots
    user: str  # with {prompt}, {jokes} and {answer}, each once
    sha256: str  # of the file's bytes


def load_rubric(question: str, file: Path | None = None) -> Rubric:
    """Read the shipped rubric of `question`, or the user's own `file`.

    Raises:
        ValueError: unknown question; the file cannot be read, asks another question, or a field,
            section or slot is missing, unknown, doubled or empty. One line that names the file.
    """
    if question not in QUESTIONS:
        raise ValueError(f"question is {question!r}, allowed are {', '.join(QUESTIONS)}")
    path = file or PROMPTS / f"{question}.txt"
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"rubric {path} cannot be read: {error}") from error
    if len(raw) > MOST_BYTES:
        raise ValueError(f"rubric {path} has more than {MOST_BYTES} bytes")
    fields = _fields(text, path)
    missing = [key for key in (*HEADER, *SECTIONS) if not fields.get(key)]
    if missing:
        raise ValueError(f"rubric {path} lacks {missing[0]!r} or has it empty")
    if fields["question"] != question:
        raise ValueError(f"rubric {path} is {fields['question']}, the critic asks {question}")
    found = _SLOT.findall(fields["user"])
    for slot in SLOTS:
        if found.count(slot) != 1:
            raise ValueError(
                f"rubric {path} needs {{{slot}}} once in its user section, "
                f"has it {found.count(slot)} times"
            )
    unknown = sorted(set(found) - set(SLOTS))
    if unknown:
        raise ValueError(f"rubric {path} has an unknown slot {{{unknown[0]}}}")
    return Rubric(
        fields["name"],
        fields["version"],
        question,
        fields["system"],
        fields["user"],
        hashlib.sha256(raw).hexdigest(),
    )


def _fields(text: str, path: Path) -> dict[str, str]:
    """Header lines and sections by name."""
    fields: dict[str, str] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        heading = _SECTION.fullmatch(line)
        if heading:
            section = heading[1]
            known: Sequence[str] = SECTIONS
            key, value = section, ""
        elif section:
            fields[section] += line + "\n"
            continue
        elif not line.strip():
            continue
        else:
            key, colon, value = (part.strip() for part in line.partition(":"))
            if not colon:
                raise ValueError(f"rubric {path}, line {number}: a header line is `field: value`")
            known = HEADER
        if key not in known:
            raise ValueError(
                f"rubric {path}, line {number}: unknown {key!r}, allowed are {', '.join(known)}"
            )
        if key in fields:
            raise ValueError(f"rubric {path}, line {number}: {key!r} stands twice")
        fields[key] = value
    return {key: value.strip() for key, value in fields.items()}


def render(
    rubric: Rubric,
    prompt: str,
    jokes: Sequence[str],
    *,
    reason: bool = False,
    digits: bool = False,
) -> list[dict[str, str]]:
    """The chat messages that ask about `jokes`: a system and a user message.

    Args:
        rubric: what to ask; two jokes for pairwise, one for pointwise, 2 to 26 for listwise.
        prompt: the plain sentence.
        jokes: in the order shown, under the letters A, B, ... (pointwise: without a letter).
        reason: whether a short reason precedes the verdict; the verdict is then a last line
            ``Verdict: ...``. Otherwise the verdict is the whole answer.
        digits: ask for a rating of one digit (9 also stands for 10), for readers of one token:
            many vocabularies split "10" into "1" and "0".

    Raises:
        ValueError: a number of jokes that the question does not take.
    """
    least, most = {"pairwise": (2, 2), "pointwise": (1, 1), "listwise": (2, 26)}[rubric.question]
    if not least <= len(jokes) <= most:
        allowed = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"a {rubric.question} question shows {allowed} jokes, got {len(jokes)}")
    if rubric.question == "pointwise":
        shown = f"<joke>{escape(jokes[0])}</joke>"
    else:
        shown = "\n".join(
            f"<joke_{letter}>{escape(joke)}</joke_{letter}>"
            for letter, joke in zip(letters(len(jokes)), jokes, strict=True)
        )
    filled = {
        "prompt": f"<sentence>{escape(prompt)}</sentence>",
        "jokes": shown,
        "answer": _how_to_answer(rubric.question, len(jokes), reason, digits),
    }
    user = _SLOT.sub(lambda found: filled[found[1]], rubric.user)
    return [{"role": "system", "content": rubric.system}, {"role": "user", "content": user}]


def _how_to_answer(question: str, n: int, reason: bool, digits: bool) -> str:
    if question == "pairwise":
        what = "one letter, A or B"
    elif question == "listwise":
        what = (
            f"all {n} letters ({', '.join(letters(n))}), each once, the funniest first, joined by >"
        )
    elif digits:
        what = "one digit from 0 to 9, where 9 also stands for 10"
    else:
        what = f"one whole number from 0 to {TOP_RATING}"
    if reason:
        return (
            "First give your reason in one sentence of at most 30 words. Then end with one line "
            f"that says `Verdict: ` and {what}."
        )
    return f"Answer with {what}, and nothing else."


def escape(text: str) -> str:
    """`text` on one line, unable to close a tag, begin a control token or hide a part of itself.

    Escapes are numeric (``&#60;``). Line breaks, controls and lone surrogates, which cannot be
    sent, become spaces; invisible format characters (zero-width spaces, directional marks, tags)
    go.
    """
    return _UNSAFE.sub(lambda found: f"&#{ord(found[0])};", "".join(map(_visible, text)))


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in _BREAKS:
        return " "
    return "" if category == "Cf" and character not in _JOINERS else character
