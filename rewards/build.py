"""From `--critic KIND[:TARGET]` to a critic, and from weights by name to the training reward."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from rewards.control import ControlConfig, LabelledJoke
from rewards.ensembles import MeanOfScorers
from rewards.fakes import FAKES
from rewards.from_file import critic_from_file
from rewards.gates import TeacherIndex
from rewards.ledger import Ledger
from rewards.lift import Lifted
from rewards.options import check_args, parse_critic_args, parse_terms
from rewards.prior import PriorRemoved
from rewards.protocols import Critic, Judge, Ranker, Scorer
from rewards.reward import HUMOR, CompositeReward
from rewards.terms import Brevity, FactKept, Novelty, Overlap, SharedRatings, Stateful
from rewards.text import recall, words
from rewards.types import Rater
from rewards.wrappers import BothOrders, ShuffledRanks

__all__ = [
    "GROUP",
    "MeanOfScorers",
    "build_critic",
    "build_reward",
    "critic_kinds",
    "embedded_context",
    "parse_critic_args",
    "parse_terms",
]

GROUP = "punchline.critics"
"""Entry-point group of installed plug-in critics."""
EMBEDDED = ("embedded", "embedded-select", "embedded-report")
CONTROL_CRITIC = "likelihood-recall"
"""Knows no humor: what `embedded` has to beat (`rewards.likelihood`)."""
LATER = ("self",)
HANDED_OVER = {"base", "ledger", "embedded"}
"""What a run may hand to every critic; those that ask a language model take it."""
START = Path(__file__).resolve().parent.parent / "data" / "start"


def critic_kinds() -> list[str]:
    """What `--critic` takes, entry points of installed packages included."""
    plugged = sorted(entry_points(group=GROUP).names)
    fakes = [f"fake:{name}" for name in FAKES]
    models = ["local:MODEL", "openai:MODEL"]
    return [*EMBEDDED, CONTROL_CRITIC, *models, *fakes, "file:PATH", *plugged, "MODULE:FACTORY"]


def build_critic(
    spec: str,
    args: Mapping[str, str] | None = None,
    *,
    option: str = "--critic",
    **context: Any,
) -> Critic:
    """Make the critic that `spec` names.

    Args:
        spec: ``embedded``, ``embedded-select``, ``embedded-report``, ``local:MODEL``,
            ``openai:MODEL``, ``fake:NAME``, ``file:PATH`` (YAML or JSON), the name of an entry
            point, or ``module:factory``, found from the working directory too.
        args: strings for the factory (`--critic-arg`).
        option: named in errors.
        context: for embedded critics: reader, format and hashes, or `embedded`, a function that
            gives them for a kind (as `embedded_context`); for local ones `base`, loaded weights to
            share; `ledger`, where outside critics' answers are kept. Others are ignored.

    Raises:
        ValueError: unknown spec, bad arguments, secrets in them, or what the factory returned has
            none of the methods score, compare and rank. One line.
    """
    args = dict(args or {})
    kind, colon, target = spec.partition(":")
    check_args(option, spec, args)
    plugged = entry_points(group=GROUP)
    if spec in EMBEDDED:
        return _embedded(spec, args, option, context)
    if spec == CONTROL_CRITIC:
        from rewards.likelihood import LikelihoodRecall

        if not {"reader", "format"} <= set(context):
            raise ValueError(f"{option} {spec} needs a student to read with; a run has one")
        return LikelihoodRecall(context["reader"], context["format"])
    if kind in ("local", "openai") and target:
        return _language_model(kind, target, args, option, context)
    if kind in LATER:
        raise ValueError(f"{option} {spec}: the kind {kind!r} arrives with the next release")
    if kind == "fake":
        if target not in FAKES:
            raise ValueError(f"{option} {spec}: the fakes are {', '.join(FAKES)}")
        return _call(FAKES[target], args, option, spec)
    if kind == "file":
        return critic_from_file(target, args, build_critic, option=option, context=context)
    if spec in plugged.names:
        critic = _call(_loaded(plugged[spec].load, option, spec), args, option, spec)
        return _kept(critic, spec, args, context.get("ledger"))
    if colon and kind and target:
        with _working_directory():
            critic = _call(_factory(kind, target, option, spec), args, option, spec)
        return _kept(critic, spec, args, context.get("ledger"))
    raise ValueError(f"{option} {spec!r} is not known; allowed are {', '.join(critic_kinds())}")


def _embedded(
    kind: str, args: Mapping[str, str], option: str, context: Mapping[str, Any]
) -> Critic:
    from rewards.embedded import load_embedded  # torch and the shipped files only when asked for

    own = {name: part for name, part in context.items() if name not in HANDED_OVER}
    if "embedded" in context:
        own = dict(context["embedded"](kind))
    known: dict[str, Any] = {**own, **args}
    if "folder" in args:
        known["folder"] = Path(args["folder"])
    try:
        inspect.signature(load_embedded).bind(kind, **known)
    except TypeError as error:
        raise ValueError(f"{option} {kind}: {error}") from None
    return load_embedded(kind, **known)


def _language_model(
    kind: str, model: str, args: Mapping[str, str], option: str, context: Mapping[str, Any]
) -> Critic:
    spec = f"{kind}:{model}"
    if HANDED_OVER & set(args):
        raise ValueError(f"{option} {spec}: base and ledger are not arguments of yours")
    if kind == "local":
        from rewards.local_lm import local_critic  # torch only when asked for

        critic = _call(partial(local_critic, model, base=context.get("base")), args, option, spec)
        return _kept(critic, spec, args, context.get("ledger"))
    from rewards.openai_critic import openai_critic  # an optional dependency

    return _call(partial(openai_critic, model, ledger=context.get("ledger")), args, option, spec)


def _kept(critic: Critic, spec: str, args: Mapping[str, str], ledger: Ledger | None) -> Critic:
    """The critic with its answers in the ledger.

    A wrapper asks more than once a question and counts, a critic with a state answers by it: they
    stay as they are.
    """
    if ledger is None or isinstance(critic, BothOrders | ShuffledRanks | PriorRemoved | Stateful):
        return critic
    from rewards.recorded import Recorded

    # The run is part of the identity where none is known: a user's code may change between runs.
    identity = [spec, sorted(args.items()), getattr(critic, "identity", ledger.run)]
    return cast(Critic, Recorded(critic, ledger, identity=identity))  # it has the same methods


def _call(factory: Callable[..., Any], args: Mapping[str, str], option: str, spec: str) -> Critic:
    try:
        inspect.signature(factory).bind(**args)
    except TypeError as error:
        wanted = ", ".join(inspect.signature(factory).parameters) or "none"
        raise ValueError(f"{option} {spec}: {error}; its arguments are: {wanted}") from None
    try:
        critic = factory(**args)
    except ValueError as error:
        raise ValueError(f"{option} {spec}: {error}") from error
    if isinstance(critic, type) or not isinstance(critic, Scorer | Judge | Ranker):
        raise ValueError(
            f"{option} {spec} made a {type(critic).__name__}, need an object with one of the "
            "methods score, compare and rank"
        )
    return critic


@contextmanager
def _working_directory() -> Iterator[None]:
    """Modules of the working directory can be imported, as with `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _loaded(load: Callable[[], Any], option: str, spec: str) -> Any:
    try:
        return load()
    except (ImportError, SyntaxError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(
            f"{option} {spec}: importing failed, {type(error).__name__}: {reason}"
        ) from error


def _factory(module: str, name: str, option: str, spec: str) -> Callable[..., Any]:
    found: Any = _loaded(lambda: importlib.import_module(module), option, spec)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{option} {spec}: module {module} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{option} {spec}: {name} is a {type(found).__name__}, need a function")
    factory: Callable[..., Any] = found
    return factory


def build_reward(
    critic: Critic,
    weights: Mapping[str, float],
    *,
    control: ControlConfig | None = None,
    calibration: Sequence[LabelledJoke] = (),
    teacher_jokes: Sequence[str] = (),
    start_lines: Sequence[tuple[str, str]] = (),
    anchors: Mapping[str, Sequence[str]] | None = None,
    group_size: int | None = None,
    clip: str = "none",
    rater: Rater | None = None,
) -> CompositeReward:
    """Join a critic and the terms named in `weights` into the training reward.

    Args:
        critic: what `build_critic` returned. A judge is asked in both orders unless it is
            already, or its prior over slots is removed.
        weights: as `parse_terms` returns; ``fact`` needs a rater, ``novelty``, ``brevity``
            and ``overlap`` start lines, any other name is a spec of `build_critic` that gives a
            scorer.
        control: length and overlap control; None: none. An embedded critic's scores are taken to
            be on the labels' scale.
        calibration: frozen jokes with labels.
        teacher_jokes: jokes that must not be copied.
        start_lines: (prompt, joke) of the start student.
        anchors: frozen jokes of each prompt, for a critic that compares.
        group_size: jokes a prompt, where it is known.
        clip: ``none`` or ``literal``, see `Lifted`.
        rater: who says fact kept and out of domain; the critic itself where it can.

    Raises:
        ValueError: a term lacks what it needs, or anything `CompositeReward` and `Lifted` refuse.
    """
    if isinstance(critic, Judge) and not isinstance(critic, Scorer | BothOrders | PriorRemoved):
        critic = BothOrders(critic)
    if rater is None and isinstance(critic, Rater):
        rater = critic
    shared = SharedRatings(rater) if rater is not None else None
    terms: dict[str, tuple[float, Scorer]] = {}
    for name, weight in weights.items():
        if name == HUMOR:
            continue
        if name == "fact":
            if shared is None:
                raise ValueError(
                    "--reward fact needs a critic that rates (embedded); this does not"
                )
            terms[name] = (weight, FactKept(shared))
        elif name == "novelty":
            terms[name] = (weight, Novelty(start_lines))
        elif name == "brevity":
            lengths = [len(words(joke)) for _, joke in start_lines]
            terms[name] = (weight, Brevity(sum(lengths) / max(len(lengths), 1)))
        elif name == "overlap":
            kept = sorted(recall(prompt, joke) for prompt, joke in start_lines)
            terms[name] = (weight, Overlap(kept[len(kept) * 3 // 4] if kept else 0.0))
        else:
            term = build_critic(name, option="--reward")
            if not isinstance(term, Scorer):
                raise ValueError(f"--reward {name} has no method score; a term is a scorer")
            terms[name] = (weight, term)
    if control is not None and isinstance(critic, Rater):
        control = replace(control, same_scale=True)
    return CompositeReward(
        Lifted(critic, anchors=anchors, group_size=group_size, clip=clip),
        humor=weights[HUMOR],
        terms=terms,
        control=control,
        calibration=calibration,
        teacher_index=TeacherIndex(teacher_jokes) if teacher_jokes else None,
        rater=shared,
    )


def embedded_context(
    kind: str = "embedded",
    *,
    base: str = "smollm2-135m",
    start: Path = START,
    download: bool = False,
) -> dict[str, Any]:
    """Load what an embedded critic reads with: the reader of its backbone, format and hashes.

    For environments made without a student; a run shares its own student's weights instead.

    Raises:
        WeightsError: the weights are not on this machine; the message has the command.
    """
    from models.adapters import Merged, add_adapter, read_adapter
    from models.format import COMPACT
    from models.load import base_format, fingerprint, load_base
    from models.reader import Reader
    from rewards.embedded import START as ON_START
    from rewards.embedded import backbone_of, layers_of

    loaded = load_base(base, download=download)
    model = loaded.model
    if backbone_of(kind) == ON_START:
        config, tensors = read_adapter(start, loaded)
        model = Merged(add_adapter(model, "start", config, tensors), "start").model
    return {
        "reader": Reader(model, layers=layers_of(kind), pad=loaded.pad),
        "format": base_format(loaded, COMPACT),
        "start_sha256": fingerprint(start),
        "base_sha256": loaded.sha256,
    }
