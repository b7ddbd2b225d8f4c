import json

import numpy as np
import pytest
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from envs.spaces import FreeText

ANY_TEXT = st.text(alphabet=st.characters(codec=None))


@given(ANY_TEXT)
def test_every_short_text_is_a_member(text):
    assert FreeText(10**6).contains(text)
    assert (text in FreeText(5)) == (len(text) <= 5)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", ["a"], np.array("a")])
def test_nothing_else_is_a_member(thing):
    assert thing not in FreeText()


def test_samples_are_members_and_follow_the_seed():
    space, again = FreeText(seed=3), FreeText(seed=3)
    samples = [space.sample() for _ in range(50)]
    assert samples == [again.sample() for _ in range(50)]
    assert all(s in space for s in samples)
    assert any(" " in s for s in samples)
    assert any("\U0001f600" in s for s in samples)
    assert max(len(FreeText(2, seed=0).sample()) for _ in range(20)) <= 2


def test_equality_goes_by_members():
    assert FreeText(5) == FreeText(5, seed=1)
    assert FreeText(5) != FreeText(6)
    assert FreeText(5) != "FreeText"
    assert len({FreeText(5), FreeText(5)}) == 1
    assert repr(FreeText(5)) == "FreeText(max_length=5)"


@given(st.lists(ANY_TEXT, max_size=4))
def test_samples_survive_json(texts):
    space = FreeText()
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(texts)))) == texts


def test_a_batch_is_a_tuple_of_texts():
    batch = batch_space(FreeText(seed=0), 3)
    assert ("a", "", "\ud800") in batch
    assert ("a", "") not in batch


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="max_length"):
        FreeText(0)
    with pytest.raises(ValueError, match="mask"):
        FreeText().sample(mask=1)
