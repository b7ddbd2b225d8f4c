"""What a sitting of compare.py compares, from its command line and from the sittings before."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.comparison import MANIFEST, REPORT, SPLITS, Settings, is_code, read_json
from training.presets import SMOKE

BUDGET = "judged_jokes"


def read_settings(options: argparse.Namespace, root: Path) -> Settings:
    """What is compared: the command line, then an earlier sitting, then the defaults.

    Raises:
        ValueError: values out of range, or code named by an earlier sitting alone.
    """
    given: dict[str, Any] = dict(SMOKE) if options.smoke else {}
    file = root / MANIFEST
    if file.exists():
        stored = read_json(file)["settings"]
        named = [stored["options"].get("critic", ""), stored["options"].get("select_critic", "")]
        named += [*stored["critics"], stored["critic"]]
        typed = {options.critic, *(options.critics or ())}
        if options.config is not None:
            typed |= set(map(str, read_config(options.config).values()))
        code = [spec for spec in named if is_code(spec) and spec not in typed]
        if code and not options.trust_critic:
            raise ValueError(
                f"{file} names {code[0]!r}, code or a server that would be used; add "
                "--trust-critic if you trust it"
            )
        given |= {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    told = {
        "study": options.study,
        "algos": options.algos and tuple(options.algos),
        "critics": options.critics and tuple(options.critics),
        "seeds": options.seeds,
        "primary_seeds": options.primary_seeds,
        "budget": None if options.budget is None else read_budget(options.budget),
        "trials": options.trials,
        "pool": options.pool,
        "splits": options.split and _in_order(options.split),
        "reason": options.reason,
        "size": options.size,
        "critic": options.critic,
        "options": None if options.config is None else read_config(options.config),
    }
    given |= {name: value for name, value in told.items() if value is not None}
    if options.jobs > 1:  # two processes of all threads each would wait for each other
        share = {"threads": max(1, (os.cpu_count() or 1) // options.jobs)}
        given["options"] = share | given.get("options", {})
    return Settings(**given)


def _in_order(splits: Sequence[str]) -> tuple[str, ...]:
    """As the tables have them, report always first; then what is to be refused."""
    known = {name: i for i, name in enumerate(SPLITS)}
    return tuple(sorted({REPORT, *splits}, key=lambda s: (known.get(s, len(known)), s)))


def read_budget(text: str) -> int:
    """N of judged_jokes=N.

    Raises:
        ValueError: anything else.
    """
    name, _, value = text.partition("=")
    if name != BUDGET or not value.isascii() or not value.isdecimal():
        raise ValueError(f"--budget is {text!r}, must be {BUDGET}=N")
    return int(value)


def read_config(file: Path) -> dict[str, Any]:
    """Options of train.py for every run.

    Raises:
        ValueError: unreadable, or no JSON object.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"--config {file} must hold one JSON object")
    return {name.replace("-", "_"): value for name, value in content.items()}
