"""What an audit asks about: labelled pairs of the corpus or of a file, and lines for probes."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from envs.prompts import judged_jokes
from evaluation.audit import ONE_TEMPERATURE, pair_group
from evaluation.audit_groups import LabelledPair
from evaluation.probe_recipes import Line, content_hash

START_SOURCES = (
    "student2-t0.6", "student2-t0.7", "student2-t0.8", "student2-t1.0", "student2-greedy",
    "student2-best-of-8",
)  # fmt: skip
RL_SOURCES = ("rl1-20-t0.7", "rl1-20-greedy", "rl1-40-t0.7", "rl1-40-greedy")
OTHER_SOURCES = ("student", "teacher", "other-teacher", "copy", "light", "weak", "mild", "slip")
GAP = 1.0
"""Points between two ratings from which they order a pair."""

_EPS = 1e-9  # ratings are means: a gap of one point may be 1 - 1e-16
_FIRST = {"a": 1.0, "b": 0.0}


def corpus_pairs(split: str) -> list[LabelledPair]:
    """Pairs of lines of one prompt and round of judging whose ratings differ by a point or more.

    Which line is a is decided by a hash of both.

    Args:
        split: validation or test.
    """
    groups: dict[tuple[str, int], list[tuple[str, str, str, float]]] = {}
    for x in judged_jokes(split, sources=(*START_SOURCES, *RL_SOURCES, *OTHER_SOURCES)):
        groups.setdefault((x.id, x.round), []).append((x.prompt, x.joke, x.source, x.rating))
    pairs = []
    for (name, _), lines in groups.items():
        for one, two in combinations(lines, 2):
            if abs(one[3] - two[3]) < GAP - _EPS or one[1] == two[1]:
                continue
            low, high = sorted((one, two))
            a, b = (low, high) if content_hash("slot", low[:2], high[1]) % 2 else (high, low)
            pairs.append(
                LabelledPair(
                    name, a[0], a[1], b[1], float(a[3] > b[3]), a[2], b[2], pair_group(a[2], b[2])
                )
            )
    return pairs


def file_pairs(path: Path) -> list[LabelledPair]:
    """Read labelled pairs of one's own.

    JSONL, one pair a line: `prompt`, `a`, `b` and `label` or `preferred` ("a", "b", or "tie",
    which is left out); if wished `id` of the prompt, `source_a`, `source_b` and `group`. Pairs are
    reported by `group`, else by their two sources, else by the file's name.

    Raises:
        ValueError: file, line number and what is wrong; or no pair at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--pairs {path} cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            pair = _file_pair(line, f"--pairs {path}:{number}", path.stem)
            pairs.extend([pair] if pair else [])
    if not pairs:
        raise ValueError(f"--pairs {path} has no pair with a preferred side")
    return pairs


def _file_pair(line: str, where: str, stem: str) -> LabelledPair | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {type(record).__name__}, need an object")
    values = {"id": record.get("prompt"), "source_a": "", "source_b": "", "group": ""} | record
    names = ("prompt", "a", "b", "id", "source_a", "source_b", "group")
    for name in names:
        if not isinstance(values.get(name), str):
            kind = type(values[name]).__name__ if name in values else "missing"
            raise ValueError(f"{where}: {name} is {kind}, need a string")
    label = record.get("label", record.get("preferred"))
    if label not in ("a", "b", "tie"):
        raise ValueError(f"{where}: label is {label!r}, allowed are a, b, tie")
    if label == "tie":
        return None
    prompt, a, b, name, source_a, source_b, group = (str(values[k]) for k in names)
    if not group:
        both = " against ".join(sorted((source_a, source_b)))
        group = both if source_a and source_b else stem
    return LabelledPair(name, prompt, a, b, _FIRST[label], source_a, source_b, group)


def subsample(pairs: Sequence[LabelledPair], limit: int, domain: str) -> list[LabelledPair]:
    """At most `limit` pairs: half of the domain's, the rest spread evenly over the other groups.

    What one group leaves free goes to the others. Which pairs is decided by their content, so a
    larger limit adds pairs to those of a smaller one.

    Args:
        pairs: all pairs.
        limit: how many at most; 0: all.
        domain: the group that the light speaks of.

    Raises:
        ValueError: limit < 0.
    """
    if limit < 0:
        raise ValueError(f"--limit is {limit}, must be >= 0 (0: all pairs)")
    if not limit or limit >= len(pairs):
        return list(pairs)
    by_group: dict[str, list[int]] = {}
    for i in sorted(range(len(pairs)), key=lambda i: content_hash("pair", pairs[i][:4])):
        by_group.setdefault(pairs[i].group, []).append(i)
    takes = dict.fromkeys(by_group, 0)
    takes[domain] = min(len(by_group.get(domain, ())), -(-limit // 2))
    while sum(takes.values()) < limit:
        free = [g for g in by_group if takes[g] < len(by_group[g])]
        others = [g for g in free if g != domain] or free
        smallest = min(others, key=lambda g: takes[g])
        takes[smallest] += 1
    kept = sorted(i for g, members in by_group.items() for i in members[: takes[g]])
    return [pairs[i] for i in kept]


def domain_of(pairs: Sequence[LabelledPair], wanted: str) -> str:
    """The group that the light speaks of: the wanted one, the corpus' usual one, or the largest.

    Raises:
        ValueError: there is no such group.
    """
    groups = list(dict.fromkeys(p.group for p in pairs))
    if wanted and wanted not in groups:
        raise ValueError(f"--domain is {wanted!r}, allowed are {', '.join(map(repr, groups))}")
    if wanted or ONE_TEMPERATURE in groups:
        return wanted or ONE_TEMPERATURE
    return max(groups, key=lambda g: sum(p.group == g for p in pairs))


def student_lines(split: str) -> list[Line]:
    """Judged lines of the start student and its descendants: what probes are made of."""
    return [
        Line(x.prompt, x.joke, x.rating)
        for x in judged_jokes(split, sources=(*START_SOURCES, *RL_SOURCES))
    ]
