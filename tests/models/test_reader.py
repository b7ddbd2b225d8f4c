import pytest
import torch

from models.load import load_pretrained
from models.reader import Reader

PROMPTS = [(5, 6, 7), (5, 6, 7), (9, 10)]
JOKES = [(30, 31, 1), (32, 1), (40, 41, 42, 1)]


@pytest.fixture(scope="module")
def model(tiny_weights):
    return load_pretrained(tiny_weights[0], dtype=torch.float32)[0].eval()


@pytest.fixture
def passes(model):
    """Counts forward passes of the decoder."""
    seen = []
    handle = model.get_decoder().register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def test_readings_equal_a_plain_forward(model):
    readings = Reader(model, layers=(1, 2), temperatures=(0.7, 1.0)).read(PROMPTS, JOKES)
    for prompt, joke, reading in zip(PROMPTS, JOKES, readings, strict=True):
        ids = torch.tensor([[*prompt, *joke]])
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True)
        at = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
        for row, temperature in enumerate((0.7, 1.0)):
            logps = (out.logits[0] / temperature).log_softmax(-1)[at, ids[0, 1:][at]]
            torch.testing.assert_close(reading.logps[row], logps, atol=1e-5, rtol=0)
        own = torch.stack([out.hidden_states[1][0], out.hidden_states[2][0]], dim=1)[len(prompt) :]
        torch.testing.assert_close(reading.states, own, atol=1e-5, rtol=0)


def test_equal_questions_are_computed_once(model, passes):
    reader = Reader(model)
    twice = reader.read([*PROMPTS, PROMPTS[0]], [*JOKES, JOKES[0]])
    assert twice[0] is twice[3]
    assert len(passes) == 1
    again = reader.read(PROMPTS, JOKES)
    assert len(passes) == 1
    assert all(a is b for a, b in zip(again, twice[:3], strict=True))


def test_only_the_newest_readings_are_kept_but_all_are_answered(model, passes):
    reader = Reader(model, keep=2)
    assert len(reader.read(PROMPTS, JOKES)) == 3
    reader.read(PROMPTS[1:], JOKES[1:])
    assert len(passes) == 1
    reader.read(PROMPTS[:1], JOKES[:1])
    assert len(passes) == 2


def test_forgetting_asks_again_and_answers_the_same(model, passes):
    reader = Reader(model, layers=(1,))
    first = reader.read(PROMPTS, JOKES)
    reader.forget()
    second = reader.read(PROMPTS, JOKES)
    assert len(passes) == 2
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.logps, b.logps)
        assert torch.equal(a.states, b.states)


def test_serving_more_widens_and_serving_the_same_forgets_nothing(model, passes):
    reader = Reader(model, layers=(2,))
    narrow = reader.read(PROMPTS, JOKES)[0]
    reader.serve((2,), (1.0,))
    reader.read(PROMPTS, JOKES)
    assert len(passes) == 1
    reader.serve((1,), (0.7,))
    assert (reader.layers, reader.temperatures) == ((1, 2), (0.7, 1.0))
    wide = reader.read(PROMPTS, JOKES)[0]
    assert len(passes) == 2
    assert wide.states.shape[1] == 2
    assert torch.equal(wide.states[:, 1], narrow.states[:, 0])
    assert torch.equal(wide.logps[1], narrow.logps[0])


def test_without_layers_no_states_are_kept(model):
    assert Reader(model).read(PROMPTS, JOKES)[0].states.shape == (3, 0, 32)


@pytest.mark.parametrize(("prompts", "jokes"), [([(5,)], []), ([()], [(1,)]), ([(5,)], [()])])
def test_impossible_questions_are_refused(model, prompts, jokes):
    with pytest.raises(ValueError, match=r"zip|pack"):
        Reader(model).read(prompts, jokes)
