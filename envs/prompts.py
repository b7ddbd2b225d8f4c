"""Prompts: the corpus by its roles, or files of the user's own; no two splits may share one."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rewards.text import words

DATA = Path(__file__).resolve().parent.parent / "data"
CORPUS = ("everyday", "prompts", "headline", "summary")
LONGEST = 2000
"""Characters of a prompt; longer ones are a wrong file rather than a sentence."""


class Prompt(NamedTuple):
    """One literal sentence."""

    id: str
    text: str
    domain: str  # everyday, headline, summary, or the user's own word
    split: str  # train, validation, test; "" where the file does not say


class JudgedJoke(NamedTuple):
    """A line that the corpus' judge rated."""

    id: str  # of the prompt
    prompt: str
    joke: str
    source: str  # who wrote it, e.g. student2-t0.7
    round: int
    split: str  # of the prompt
    rating: float  # 0-10, mean over readings
    fact_kept: float  # 0-1, share of readings that say so


class PromptFileError(ValueError):
    """A prompt file that cannot be used; the message names file, line and fault."""

    def __init__(self, path: Path | str, line: int | None, fault: str) -> None:
        """Join the parts into one line.

        Args:
            path: the file.
            line: from 1; None where the whole file is at fault.
            fault: what is wrong.
        """
        super().__init__(f"{path}:{line}: {fault}" if line else f"{path}: {fault}")
        self.path, self.line, self.fault = Path(path), line, fault


def load_prompts(path: Path | str) -> list[Prompt]:
    """Read prompts of one's own, in the order of the file.

    ``.jsonl``: objects with ``text`` and, if wished, ``id``, ``domain``, ``split``; other fields
    are left alone. ``.csv``: the same as columns. ``.txt``: one sentence a line.
    Without ids, a prompt is called after the file and its line.

    Raises:
        PromptFileError: unreadable, another kind of file, a malformed line, a wrong field, an id or
            a sentence (but for case and marks) that stands twice, or no prompt at all.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptFileError(path, None, f"{path.suffix!r} is none of {', '.join(_READERS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptFileError(path, line, "not UTF-8") from error
    except OSError as error:
        raise PromptFileError(path, None, error.strerror or str(error)) from error
    prompts: list[Prompt] = []
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for line, record in reader(path, text):
        prompt = _prompt(path, line, record)
        for name, key, seen in (("id", prompt.id, ids), ("sentence", normal(prompt.text), texts)):
            if key in seen:
                shown = prompt.id if name == "id" else prompt.text
                raise PromptFileError(
                    path, line, f"duplicate {name} {shown!r}, first on line {seen[key]}"
                )
            seen[key] = line
        prompts.append(prompt)
    if not prompts:
        raise PromptFileError(path, None, "no prompts in it")
    return prompts


Records = Iterable[tuple[int, Mapping[str, Any]]]


def _read_jsonl(path: Path, text: str) -> Records:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptFileError(path, number, f"not JSON: {error.msg}") from error
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise PromptFileError(path, number, f"a {kind}, need an object with 'text'")
        yield number, record


def _read_csv(path: Path, text: str) -> Records:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames
        if columns is not None and "text" not in columns:
            raise PromptFileError(path, 1, f"no column 'text', it has {', '.join(columns)}")
        for record in reader:
            if None in record:
                raise PromptFileError(path, reader.line_num, "more cells than columns")
            yield reader.line_num, {k: v for k, v in record.items() if v not in (None, "")}
    except csv.Error as error:
        raise PromptFileError(path, reader.reader.line_num, f"not CSV: {error}") from error


def _read_text(path: Path, text: str) -> Records:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, {"text": line.strip()}


_READERS: dict[str, Callable[[Path, str], Records]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".txt": _read_text,
}


def _prompt(path: Path, line: int, record: Mapping[str, Any]) -> Prompt:
    if "text" not in record:
        fields = ", ".join(map(str, record)) or "nothing"
        raise PromptFileError(path, line, f"no field 'text', it has {fields}")
    values = {"id": f"{path.stem}-{line}", "domain": "own", "split": ""}
    for name in ("id", "text", "domain", "split"):
        value = record.get(name, values.get(name))
        if not isinstance(value, str):
            raise PromptFileError(path, line, f"{name} is a {type(value).__name__}, need a string")
        values[name] = value.strip()
    text = values["text"]
    if not words(text):
        raise PromptFileError(path, line, f"text is {text!r}, need a sentence with words")
    if not values["id"]:
        raise PromptFileError(path, line, "id is empty")
    if len(text) > LONGEST or len(text.splitlines()) > 1:
        raise PromptFileError(
            path, line, f"text has {len(text)} characters, need one line of at most {LONGEST}"
        )
    return Prompt(values["id"], text, values["domain"], values["split"])


def normal(text: str) -> str:
    """`text` but for case, marks and spaces: what makes two prompts the same."""
    return " ".join(words(text))


def refuse_shared(**splits: Sequence[Prompt]) -> None:
    """Refuse splits that share a prompt, by id or by sentence (but for case and marks).

    Raises:
        ValueError: with both splits and the ids of what they share (ten at most).
    """
    owner: dict[tuple[str, str], tuple[str, Prompt]] = {}
    shared: list[str] = []
    for name, prompts in splits.items():
        for prompt in prompts:
            for key in (("id", prompt.id), ("text", normal(prompt.text))):
                first, other = owner.setdefault(key, (name, prompt))
                if first != name:
                    shared.append(
                        f"{first} and {name} share {prompt.id!r}"
                        if other.id == prompt.id
                        else f"{first} and {name} share {other.id!r} = {prompt.id!r} "
                        f"({prompt.text!r})"
                    )
    if shared:
        distinct = list(dict.fromkeys(shared))
        more = f" and {len(distinct) - 10} more" if len(distinct) > 10 else ""
        raise ValueError(f"splits share prompts: {'; '.join(distinct[:10])}{more}")


@lru_cache(maxsize=8)
def _records(name: str) -> tuple[Mapping[str, Any], ...]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


@lru_cache(maxsize=1)
def roles() -> Mapping[str, Any]:
    """The fixed assignment of prompts and labels to roles, `data/roles.json`."""
    content: dict[str, Any] = json.loads((DATA / "roles.json").read_text(encoding="utf-8"))
    return content


def _ids_by_role() -> dict[str, list[str]]:
    known = roles()
    return {
        **{role: known[role] for role in ("rl", "select", "report")},
        **{f"test-{name}": ids for name, ids in known["test"].items()},
        **{f"labels-{name}": ids for name, ids in known["labels"].items()},
    }


def corpus_prompts(role: str) -> list[Prompt]:
    """The corpus' prompts of one role, in the order of `data/roles.json`.

    Args:
        role: ``rl``, ``select``, ``report``, ``test-everyday``, ``test-headline``,
            ``test-summary``, or ``labels-train``, ``labels-select``, ``labels-report`` (whose
            labels fit which critic).

    Raises:
        ValueError: no such role.
    """
    ids = _ids_by_role()
    if role not in ids:
        raise ValueError(f"role is {role!r}, allowed are {', '.join(ids)}")
    found = {
        r["id"]: Prompt(r["id"], r["text"], r["domain"], r["split"])
        for name in CORPUS
        for r in _records(name)
    }
    return [found[i] for i in ids[role]]


def teacher_jokes(split: str = "train", *, simple: bool = False) -> list[tuple[Prompt, str]]:
    """The teacher's jokes on the prompts of a split (any domain), with their prompts.

    Args:
        split: train, validation or test.
        simple: the plain short jokes instead of the teacher's three.
    """
    jokes: list[tuple[Prompt, str]] = []
    for name in ("everyday", "headline", "summary"):
        for r in _records(name):
            if r["split"] == split:
                prompt = Prompt(r["id"], r["text"], r["domain"], r["split"])
                texts = r.get("simple", []) if simple else [t["text"] for t in r["teacher"]]
                jokes.extend((prompt, text) for text in texts)
    return jokes


def judged_jokes(
    split: str = "train",
    *,
    sources: Sequence[str] = ("student2-t0.7",),
    ids: Iterable[str] | None = None,
) -> list[JudgedJoke]:
    """Rated lines of `data/judgments.jsonl`, in its order.

    Args:
        split: of the prompt.
        sources: who wrote them; the default is the start student at the training temperature.
        ids: only these prompts; None: all.
    """
    wanted = None if ids is None else set(ids)
    found = []
    for r in _records("judgments"):
        if r["split"] != split or (wanted is not None and r["id"] not in wanted):
            continue
        for c in r["candidates"]:
            if c["source"] in sources:
                n = len(c["evaluations"])
                rating = sum(e["rating"] for e in c["evaluations"]) / n
                fact = sum(bool(e["fact_kept"]) for e in c["evaluations"]) / n
                found.append(
                    JudgedJoke(
                        r["id"], r["text"], c["text"], c["source"], r["round"], split, rating, fact
                    )
                )
    return found
