"""`--critic file:critic.yaml`: critics with wrappers, and ensembles of scorers, from a file."""

import importlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewards.ensembles import MeanOfScorers, MinOfScorers, PenalisedMean, Standardised
from rewards.prior import PriorRemoved
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.wrappers import BothOrders, ShuffledRanks

Build = Callable[..., Critic]
"""`rewards.build.build_critic`, handed in: that module imports this one."""

PREFIX = "file:"
ENSEMBLES = ("mean", "min", "penalised")
WRAPPERS: dict[str, tuple[Any, type, str]] = {
    "both_orders": (Judge, BothOrders, "a judge"),
    "prior": (Judge, PriorRemoved, "a judge"),
    "shuffled_ranks": (Ranker, ShuffledRanks, "a ranker"),
}
"""Key -> what it wraps, the wrapper, and its word in errors."""
MEMBER_KEYS = ("weight", "center", "scale")
HERE = Path(__file__).resolve().parent.parent
"""Where a relative path is looked for that the working folder does not have: `examples/`."""


def critic_from_file(
    path: str, args: Mapping[str, str], build: Build, *, option: str, context: Mapping[str, Any]
) -> Critic:
    """Read a YAML or JSON file that describes a critic; `docs/critics.md` has the format.

    Args:
        path: of the file; ``.json`` is read as JSON, anything else as YAML.
        args: must be empty: a file brings its own.
        build: makes the critics that the file names.
        option: named in errors.
        context: passed on to `build`.

    Raises:
        ValueError: file, key or value, and what is allowed. One line.
    """
    where = f"{option} file:{path}"
    if args:
        raise ValueError(f"{where} takes its arguments from the file, got {', '.join(args)}")
    return _described(_content(path, where), where, build, context)


def members(spec: str, option: str = "--critic") -> list[str]:
    """The specs of all critics that one is made of: itself, unless a file describes it.

    Raises:
        ValueError: a file that cannot be read, so that nobody knows.
    """
    if not spec.startswith(PREFIX):
        return [spec]
    return _named(_content(spec.removeprefix(PREFIX), f"{option} {spec}"))


def _named(content: Any) -> list[str]:
    if isinstance(content, list):
        return [name for part in content for name in _named(part)]
    if not isinstance(content, dict):
        return []
    own = [content["critic"]] if isinstance(content.get("critic"), str) else []
    return own + [name for kind in ENSEMBLES for name in _named(content.get(kind))]


def _content(path: str, where: str) -> Any:
    """What the file says.

    Raises:
        ValueError: unreadable, or neither YAML nor JSON.
    """
    try:
        place = Path(path)
        text = (place if place.exists() else HERE / place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    if path.endswith(".json"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
    yaml: Any = importlib.import_module("yaml")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _described(
    content: Any, where: str, build: Build, context: Mapping[str, Any], *, member: bool = False
) -> Critic:
    kinds = ("critic", *ENSEMBLES)
    found = [kind for kind in kinds if isinstance(content, dict) and kind in content]
    if len(found) != 1:
        raise ValueError(
            f"{where} needs a mapping with either 'critic' or 'mean' or 'min' or 'penalised'"
        )
    kind = found[0]
    allowed = [kind, *(MEMBER_KEYS if member else ())]
    allowed += {"critic": ["args", *WRAPPERS], "penalised": ["beta"]}.get(kind, [])
    unknown = sorted(str(key) for key in set(content) - set(allowed))
    if unknown:
        raise ValueError(
            f"{where} has {unknown[0]!r} beside {kind!r}, allowed are {', '.join(allowed)}"
        )
    if kind == "critic":
        return _wrapped(content, where, build, context)
    return _ensemble(kind, content, where, build, context)


def _wrapped(
    content: Mapping[str, Any], where: str, build: Build, context: Mapping[str, Any]
) -> Critic:
    spec = str(content["critic"])
    if spec.startswith(PREFIX):
        raise ValueError(f"{where} names another file, {spec!r}; describe that critic here")
    args = _mapping(content, "args", where)
    critic = build(spec, {k: str(v) for k, v in args.items()}, option=where, **context)
    used = [key for key in WRAPPERS if key in content]
    if {"both_orders", "prior"} <= set(used):
        raise ValueError(f"{where} has both_orders and prior, which do the same: take one")
    for key in used:
        protocol, wrapper, kind = WRAPPERS[key]
        if not isinstance(critic, protocol):
            raise ValueError(f"{where}: {key} wraps {kind}, {spec} is none")
        try:
            critic = wrapper(critic, **_mapping(content, key, where))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {key}: {error}") from error
    return critic


def _ensemble(
    kind: str, content: Mapping[str, Any], where: str, build: Build, context: Mapping[str, Any]
) -> Critic:
    if not isinstance(content[kind], list) or not content[kind]:
        raise ValueError(f"{where}: {kind} needs members, a list")
    members: list[tuple[float, Scorer]] = []
    for item in content[kind]:
        scorer = _described(item, where, build, context, member=True)
        if not isinstance(scorer, Scorer):
            named = item.get("critic", "a member")
            raise ValueError(f"{where}: a {kind} is of scorers, {named} is none")
        if kind == "min" and "weight" in item:
            raise ValueError(f"{where}: a min has no weights; scale makes members comparable")
        try:
            if "center" in item or "scale" in item:
                center, scale = _number(item, "center", 0.0), _number(item, "scale", 1.0)
                scorer = Standardised(scorer, center, scale)
            members.append((_number(item, "weight", 1.0), scorer))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    try:
        if kind == "min":
            return MinOfScorers([scorer for _, scorer in members])
        if kind == "penalised":
            return PenalisedMean(members, _number(content, "beta", 1.0))
        return MeanOfScorers(members)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _mapping(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{where}: {key} is {value!r}, need a mapping of names to values")
    return {str(k): v for k, v in (value or {}).items()}


def _number(content: Mapping[str, Any], key: str, default: float) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, need a finite number")
    return float(value)
