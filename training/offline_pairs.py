"""Pairs that `--algo dpo` is given instead of gathering them: a file's, or the corpus' labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agents.configs import RunConfig
from agents.feedback_configs import GATHERED, LABELS, OfflineDPOConfig
from agents.offline_dpo import TextPair
from agents.preference import make_pairs
from envs.prompts import Prompt, corpus_prompts, judged_jokes, normal, refuse_shared
from rewards.embedded import KINDS, check_roles, manifest_of
from training.parts import START_SOURCE, PromptSets

FIELDS = ("prompt", "chosen", "rejected")


class GivenPairs(NamedTuple):
    """Pairs that nobody judges again."""

    pairs: list[TextPair]
    labels: int  # rated lines of the corpus that they are made of; 0 of a file


def given_pairs(run: RunConfig, config: OfflineDPOConfig, sets: PromptSets) -> GivenPairs:
    """What `--pairs` names; nothing where pairs are gathered.

    Raises:
        ValueError: a malformed or empty file, labels of another student than the run's, prompts
            that the run is selected or reported on, or labels that fitted such a critic.
    """
    if config.pairs == GATHERED:
        return GivenPairs([], 0)
    if config.pairs == LABELS:
        if run.student != "start":
            raise ValueError(
                f"--pairs labels are of the start student's lines, not of --student {run.student}"
            )
        given = label_pairs(config, seed=run.seed)
        ids = [p.id for p in corpus_prompts("labels-train")]
        used: Mapping[str, Any] = {"kind": "--pairs labels", "prompt_ids": ids}
        for spec in {run.select_critic, run.report_critic} & set(KINDS):
            check_roles(used, manifest_of(spec))
    else:
        given = GivenPairs(read_pairs(Path(config.pairs)), 0)
    texts = {normal(pair.prompt): pair.prompt for pair in given.pairs}
    prompts = [Prompt(f"pair-{i}", text, "own", "") for i, text in enumerate(texts.values())]
    refuse_shared(pairs=prompts, select=sets.select)
    refuse_shared(pairs=prompts, report=sets.report)
    return given


def read_pairs(path: Path) -> list[TextPair]:
    """A JSON object with prompt, chosen and rejected a line; other fields are left alone.

    Raises:
        ValueError: with file, line and what is wrong; or no pair at all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--pairs {path}: not UTF-8") from error
    except OSError as error:
        raise ValueError(f"--pairs {path}: {error.strerror or error}") from error
    pairs = [
        _pair(f"--pairs {path}:{number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise ValueError(f"--pairs {path}: no pairs in it")
    return pairs


def _pair(where: str, line: str) -> TextPair:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {type(record).__name__}, need an object")
    for name in FIELDS:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} is {value!r}, need a text")
    pair = TextPair(*(record[name].strip() for name in FIELDS))
    if pair.chosen == pair.rejected:
        raise ValueError(f"{where}: chosen and rejected are equal")
    return pair


def label_pairs(config: OfflineDPOConfig, *, seed: int) -> GivenPairs:
    """The start student's rated lines at the training temperature, paired within their prompts.

    Args:
        config: how to pair; margins are in points of the 0-10 scale.
        seed: of ``best-random``.
    """
    ids = [p.id for p in corpus_prompts("labels-train")]
    lines = judged_jokes("train", sources=[START_SOURCE], ids=ids)
    number = {name: i for i, name in enumerate(dict.fromkeys(line.id for line in lines))}
    made = make_pairs(
        torch.tensor([line.rating for line in lines], dtype=torch.float32),
        torch.ones(len(lines), dtype=torch.bool),
        torch.tensor([number[line.id] for line in lines]),
        pairing=config.pairing,
        min_margin=config.min_margin,
        generator=torch.Generator().manual_seed(seed),
    )
    pairs = [
        TextPair(lines[p.chosen].prompt, lines[p.chosen].joke, lines[p.rejected].joke, p.margin)
        for p in made
        if lines[p.chosen].joke != lines[p.rejected].joke  # one line, rated twice
    ]
    return GivenPairs(pairs, len(lines))
