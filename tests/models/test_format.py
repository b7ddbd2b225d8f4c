import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.format import CHAT, COMPACT, Format, clean
from models.load import base_format, load_base

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<answer>"


@pytest.fixture(scope="module")
def base(tiny_weights):
    return load_base(str(tiny_weights[0]))


@pytest.fixture(scope="module")
def compact(base):
    return base_format(base)


def test_compact_prompt_reads_as_documented(compact):
    ids = compact.encode_prompt(" The cat sat. ")
    assert compact.tokenizer.decode(ids) == "Literal: The cat sat.\nFunny:"


def test_joke_ends_with_its_end_token_and_comes_back(compact):
    ids = compact.encode_joke("It now has a desk — and a “pension” 🐈.")
    assert ids[-1] == compact.eos
    assert ids.count(compact.eos) == 1
    assert compact.decode_joke(ids) == "It now has a desk — and a “pension” 🐈."


def test_empty_joke_is_the_end_token_alone(compact):
    assert compact.encode_joke("  ") == [compact.eos]
    assert compact.decode_joke([compact.eos]) == ""


def test_decoding_stops_at_the_end_token(compact):
    ids = [*compact.encode_joke("One."), *compact.encode_joke("Two.")]
    assert compact.decode_joke(ids) == "One."


@given(st.text(max_size=30))
def test_any_text_can_be_encoded(compact, text):
    assert compact.encode_prompt(text)
    assert compact.encode_joke(text)[-1] == compact.eos


def test_lone_surrogates_are_replaced():
    assert clean(" a\ud800b ") == "a?b"


def test_chat_uses_the_models_own_template(base):
    base.tokenizer.chat_template = TEMPLATE
    try:
        fmt = base_format(base)
        assert fmt.kind == CHAT
        text = base.tokenizer.decode(fmt.encode_prompt("I {prompt} lost my keys."))
        assert text.startswith("<user>Rewrite the sentence")
        assert text.endswith("I {prompt} lost my keys.<answer>")
        assert base_format(base, COMPACT).kind == COMPACT
    finally:
        base.tokenizer.chat_template = None


def test_pad_must_not_be_the_end_token(compact):
    with pytest.raises(ValueError, match="pad and end of text are both token 1"):
        dataclasses.replace(compact, pad=1)


def test_unknown_format_is_refused(compact):
    with pytest.raises(ValueError, match="'prose', allowed are compact, chat"):
        Format("prose", compact.tokenizer, 1, 0)
