import json
from pathlib import Path

import numpy as np
import pytest

from models.adapters import Merged, add_adapter, read_adapter
from models.format import CHAT, COMPACT, Format
from models.load import base_format, fingerprint, load_base
from models.reader import Reader
from rewards import distil as distil_module
from rewards.distil import Config, CriticRecipe, distil
from rewards.embedded import (
    FOLDER,
    KINDS,
    NOTHING,
    TOKEN_LIMIT,
    backbone_of,
    check_roles,
    cut,
    layers_of,
    load_embedded,
    manifest_of,
)
from rewards.features import PLAIN_NAMES
from rewards.kernel_probe import ProbeRecipe
from rewards.protocols import Scorer
from rewards.types import Rater, Rating

TINY = CriticRecipe(
    "train", "start", (ProbeRecipe((1, 2), plain=PLAIN_NAMES, components=6, ridge=0.1),)
)
PROMPT, JOKE = "I lost my keys again.", "I lost my keys again, and now it wants a raise."


@pytest.fixture(scope="module")
def folder(tiny_labels, tiny_weights, tmp_path_factory):
    base, start = tiny_weights
    out = tmp_path_factory.mktemp("critic") / "embedded"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(distil_module.RECIPES, "embedded", TINY)
        distil(Config("embedded", (tiny_labels,), out, roles=None, base=str(base), start=start))
    return out


@pytest.fixture(scope="module")
def parts(tiny_weights, folder):
    base, start = tiny_weights
    loaded = load_base(str(base))
    config, tensors = read_adapter(start, loaded)
    model = Merged(add_adapter(loaded.model, "start", config, tensors), "start").model
    reader = Reader(model, layers=layers_of("embedded", folder), temperatures=(0.7, 1.0))
    hashes = {"start_sha256": fingerprint(start), "base_sha256": loaded.sha256}
    return reader, base_format(loaded, COMPACT), hashes


@pytest.fixture(scope="module")
def critic(parts, folder):
    reader, format, hashes = parts
    return load_embedded("embedded", reader=reader, format=format, folder=folder, **hashes)


def test_it_scores_and_rates(critic):
    assert isinstance(critic, Scorer)
    assert isinstance(critic, Rater)
    (rating,) = critic.rate([PROMPT], [JOKE])
    assert isinstance(rating, Rating)
    assert critic.score([PROMPT], [JOKE]) == [rating.score]
    assert 0 <= rating.score <= 10
    assert 0 <= rating.amusing <= 1
    assert 0 <= rating.fact <= 1


def test_it_learned_its_labels(critic):
    jokes = [JOKE, "I lost my keys again.", "Blue of the seven and under a lamp."]
    best, copy, gibberish = critic.score(["  I lost my keys again. "] * 3, jokes)
    assert best > copy > gibberish


def test_answers_do_not_depend_on_company(critic):
    alone = critic.score([PROMPT], [JOKE])[0]
    among = critic.score([PROMPT, "The soup boiled over.", PROMPT], ["x", "y", JOKE])[2]
    assert among == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("joke", ["", "   ", "\n\t"])
def test_an_empty_joke_gets_the_lowest_rating(critic, joke):
    assert critic.rate([PROMPT, PROMPT], [joke, JOKE])[0] == NOTHING
    assert NOTHING.score == 0


@pytest.mark.parametrize("joke", ["\ud83d lone", "😀" * 300, "a\x00b", "<b>{a}</b>", "word " * 400])
def test_strange_jokes_are_answered(critic, joke):
    (rating,) = critic.rate([PROMPT], [joke])
    assert 0 <= rating.score <= 10


def test_a_joke_far_away_is_out_of_domain_and_gets_no_credit(critic):
    (rating,) = critic.rate([PROMPT], ["zzqx \u4e2d\u6587 ## 0101 " * 8])
    assert rating.out_of_domain
    limits = critic._fitted.calibration.pessimistic
    assert all(x <= limit for x, limit in zip(rating[:3], limits, strict=True))


def test_long_jokes_are_cut_before_the_end_token():
    assert cut([5, 1]) == [5, 1]
    long = cut([*range(2, 500), 1])
    assert len(long) == TOKEN_LIMIT
    assert long[-1] == 1


def test_numbers_that_are_not_finite_give_no_verdict(parts, folder, tiny_weights):
    _, format, hashes = parts
    broken = load_base(str(tiny_weights[0])).model
    broken.get_input_embeddings().weight.data[
        format.tokenizer.encode("q", add_special_tokens=False)
    ] = np.nan
    reader = Reader(broken, layers=layers_of("embedded", folder))
    critic = load_embedded("embedded", reader=reader, format=format, folder=folder, **hashes)
    assert critic.rate([PROMPT], ["a q b"]) == [None]
    assert critic.score([PROMPT, PROMPT], ["", "a q b"]) == [0.0, None]


@pytest.mark.parametrize("name", ["start_sha256", "base_sha256"])
def test_other_weights_are_refused_with_the_command(parts, folder, name):
    reader, format, hashes = parts
    with pytest.raises(ValueError, match=rf"{name}.*python -m rewards\.distil"):
        load_embedded(
            "embedded", reader=reader, format=format, folder=folder, **{**hashes, name: "0" * 64}
        )


def test_a_reader_or_format_that_does_not_fit_is_refused(parts, folder):
    reader, format, hashes = parts
    for wrong in (
        Reader(reader.model, layers=(1,)),
        Reader(reader.model, layers=(1, 2), temperatures=(0.7,)),
    ):
        with pytest.raises(ValueError, match="at temperature 1"):
            load_embedded("embedded", reader=wrong, format=format, folder=folder, **hashes)
    chat = Format(CHAT, format.tokenizer, format.eos, format.pad)
    with pytest.raises(ValueError, match="format 'compact'"):
        load_embedded("embedded", reader=reader, format=chat, folder=folder, **hashes)


def test_unknown_kinds_and_lengths_are_refused(critic):
    with pytest.raises(ValueError, match="allowed are embedded, embedded-select, embedded-report"):
        manifest_of("embeded")
    with pytest.raises(ValueError, match="1 prompts and 2 jokes"):
        critic.rate([PROMPT], ["a", "b"])


def test_roles_that_share_labels_are_refused_with_the_ids():
    train = {"kind": "embedded", "prompt_ids": ["a", "b"]}
    check_roles(train, {"kind": "embedded-select", "prompt_ids": ["c"]})
    with pytest.raises(ValueError, match="'embedded-report'.*1 prompts.*: b$"):
        check_roles(train, {"kind": "embedded-report", "prompt_ids": ["b", "c"]})


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_critics_keep_their_contract(kind):
    manifest = manifest_of(kind)
    assert manifest["kind"] == kind
    assert manifest["start_sha256"] == fingerprint(Path(FOLDER).parent / "start")
    assert layers_of(kind) == tuple(sorted(manifest["layers"]))
    assert (backbone_of(kind) == "base") == (kind == "embedded-report")
    roles = json.loads((Path(FOLDER).parent / "roles.json").read_text())["labels"]
    assert set(manifest["prompt_ids"]) <= set(roles[manifest["role"]])


def test_shipped_critics_share_no_labels_and_are_small():
    manifests = [manifest_of(kind) for kind in KINDS]
    check_roles(manifests[0], manifests[1])
    check_roles(manifests[0], manifests[2])
    check_roles(manifests[1], manifests[2])
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 12e6


def test_a_shared_reader_that_serves_another_temperature_changes_no_rating(parts, folder):
    shared, format, hashes = parts
    reader = Reader(shared.model, layers=layers_of("embedded", folder))
    critic = load_embedded("embedded", reader=reader, format=format, folder=folder, **hashes)
    asked = (["I lost my keys again."], ["I lost my keys again, so we called it a hobby."])
    before = critic.rate(*asked)
    reader.serve((), (0.5,))  # what the reference of PPO asks for; it sorts before 1
    assert critic.rate(*asked) == before
