"""What the shipped critics answer for judged lines: the rows that `benchmarks/critics.py` tables.

Reads each line once with the merged start student and once with the bare base.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.adapters import Merged, add_adapter, read_adapter
from models.format import COMPACT
from models.load import base_format, fingerprint, load_base
from models.reader import Reader
from rewards.embedded import (
    BASE,
    KINDS,
    START,
    EmbeddedCritic,
    backbone_of,
    layers_of,
    load_embedded,
)
from rewards.text import recall, words

DATA = Path(__file__).resolve().parent.parent / "data"
OWN = ("student", "rl1")
FIXED = ("copy", "light", "slip")
PROBES = 60
"""Shuffled lines, and lines of another prompt, a split."""


class Asked(NamedTuple):
    """One line with its labels."""

    id: str
    domain: str
    round: int
    prompt: str
    joke: str
    source: str
    rating: float
    amusing: float
    fact: float


def judged_lines(split: str) -> list[Asked]:
    """The split's judged lines that are the student's own, copies, paraphrases or slips."""
    out = []
    for text in (DATA / "judgments.jsonl").read_text().splitlines():
        record = json.loads(text)
        if record["split"] != split:
            continue
        for c in record["candidates"]:
            if c["source"].startswith(OWN) or c["source"] in FIXED:
                votes = c["evaluations"]
                ratings = np.array([v["rating"] for v in votes], dtype=float)
                domain = record["id"].split("-")[0]
                out.append(
                    Asked(
                        record["id"],
                        domain if domain in ("headline", "summary") else "everyday",
                        record["round"],
                        record["text"],
                        c["text"],
                        c["source"],
                        float(ratings.mean()),
                        float((ratings >= 4).mean()),
                        float(np.mean([v["fact_kept"] for v in votes])),
                    )
                )
    return out


def broken_lines(lines: Sequence[Asked], rng: np.random.Generator) -> list[Asked]:
    """Lines that rate 0 by the scale's own words: shuffled ones, and ones of another prompt."""
    good = [x for x in lines if x.source == "student2-t0.7" and x.domain == "everyday"]
    picked = [good[i] for i in rng.permutation(len(good))[: 2 * PROBES]]
    out = []
    for x, y in zip(picked[:PROBES], picked[PROBES:], strict=True):
        shuffled = " ".join(rng.permutation(x.joke.split()).tolist())
        zero = {"rating": 0.0, "amusing": 0.0, "fact": 0.0}
        out.append(x._replace(joke=shuffled, source="shuffled words", **zero))
        out.append(x._replace(joke=y.joke, source="another prompt's line", **zero))
    return out


def load_critics(base: str = "smollm2-135m") -> tuple[dict[str, EmbeddedCritic], dict[str, Reader]]:
    """The three shipped critics and the two readers they ask."""
    loaded = load_base(base)
    format = base_format(loaded, COMPACT)
    layers = {b: sorted({n for k in KINDS if backbone_of(k) == b for n in layers_of(k)})
              for b in (START, BASE)}  # fmt: skip
    config, tensors = read_adapter(DATA / "start", loaded)
    merged = Merged(add_adapter(loaded.model, "start", config, tensors), "start").model
    # The adapter sits in the loaded model now, so the bare base is loaded for itself.
    models = {START: merged, BASE: load_base(base).model}
    readers = {b: Reader(models[b], layers=layers[b], pad=loaded.pad) for b in models}
    hashes = {"start_sha256": fingerprint(DATA / "start"), "base_sha256": loaded.sha256}
    critics = {
        k: load_embedded(k, reader=readers[backbone_of(k)], format=format, **hashes) for k in KINDS
    }
    return critics, readers


def answer(lines: Sequence[Asked]) -> list[dict[str, Any]]:
    """Rows of `benchmarks.critics.columns`: labels, critics' answers, baselines."""
    critics, readers = load_critics()
    rows: list[dict[str, Any]] = []
    for at in range(0, len(lines), 256):
        batch = lines[at : at + 256]
        prompts, jokes = [x.prompt for x in batch], [x.joke for x in batch]
        ratings = {k: c.rate(prompts, jokes) for k, c in critics.items()}
        format = next(iter(critics.values())).format
        ids = [format.encode_prompt(p) for p in prompts], [format.encode_joke(j) for j in jokes]
        logps = {b: [float(r.logps[0].mean()) for r in readers[b].read(*ids)] for b in readers}
        for i, x in enumerate(batch):
            row = {
                **x._asdict(),
                "length": len(words(x.joke)),
                "recall": recall(x.prompt, x.joke),
                "logp_start": logps[START][i],
                "logp_base": logps[BASE][i],
                "critics": {},
            }
            for k in KINDS:
                verdict = ratings[k][i]
                if verdict is None:
                    raise ValueError(f"{k} has no verdict on {x.joke[:60]!r}")
                row["critics"][k] = verdict._asdict()
            rows.append(row)
        print(f"{at + len(batch)} of {len(lines)} lines", file=sys.stderr, flush=True)
    return rows


def score_split(split: str) -> list[dict[str, Any]]:
    """Rows of a split, broken lines included."""
    lines = judged_lines(split)
    return answer([*lines, *broken_lines(lines, np.random.default_rng(60))])


def human_accuracy(folder: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Accuracy on pairs that people rated clearly differently; measured only, never shipped.

    Args:
        folder: JSONL files of pairs: context or "", a, b, label.

    Returns:
        By source and critic: share of pairs ordered as people did (equal scores half), pairs.
    """
    critics, _ = load_critics()
    out: dict[str, dict[str, tuple[float, int]]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        pairs = [json.loads(x) for x in file.read_text().splitlines()]
        contexts = [str(p.get("context") or "") for p in pairs]
        out[file.stem] = {}
        for kind, critic in critics.items():
            a, b = (
                np.array(critic.score(contexts, [p[side] for p in pairs]), dtype=float)
                for side in ("a", "b")
            )
            first = np.array([p["label"] == "a" for p in pairs])
            right = np.where(a == b, 0.5, (a > b) == first)
            out[file.stem][kind] = (float(right.mean()), len(pairs))
    return out
