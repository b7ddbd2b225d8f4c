import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.load import load_pretrained
from models.packed import chunks, pack

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [5, 6, 7], [20], [5, 6, 7], [9, 10, 11, 12, 13]]
JOKES = [[30, 31, 1], [40, 1], [32, 33, 34, 35, 1], [50, 51, 52, 1], [1], [41, 42, 43]]


@pytest.fixture(scope="module")
def model(tiny_weights):
    return load_pretrained(tiny_weights[0], dtype=torch.float32)[0].eval()


def packed_logps(model, prompts, jokes, **options):
    """Log-probability of every joke token, joke by joke, from one packed pass."""
    batch = pack(prompts, jokes, pad=0, **options)
    out = model.get_decoder()(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)
    logits = model.get_output_embeddings()(out[batch.predictors])
    logps = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    return [logps[batch.jokes == i] for i in range(len(jokes))]


def alone_logps(model, prompts, jokes):
    """The same from a plain forward of each joke in a row of its own."""
    out = []
    for prompt, joke in zip(prompts, jokes, strict=True):
        ids = torch.tensor([[*prompt, *joke]])
        logps = model(input_ids=ids).logits[0].log_softmax(-1)
        at = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
        out.append(logps[at, ids[0, 1:][at]])
    return out


@pytest.mark.parametrize("limit", [24, 2, 1])
def test_packed_numbers_equal_those_of_separate_rows(model, limit):
    with torch.no_grad():
        packed = packed_logps(model, PROMPTS, JOKES, group_limit=limit)
        alone = alone_logps(model, PROMPTS, JOKES)
    for ours, theirs in zip(packed, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_gradients_equal_those_of_separate_rows(model):
    weights = torch.linspace(-1, 1, sum(map(len, JOKES)))
    gradients = []
    for logps in (packed_logps, alone_logps):
        model.zero_grad()
        (torch.cat(logps(model, PROMPTS, JOKES)) * weights).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    model.zero_grad()
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_group_shares_its_prompt():
    batch = pack([[5, 6, 7]] * 3, [[30, 1]] * 3, pad=0)
    assert batch.ids.tolist() == [[5, 6, 7, 30, 1, 30, 1, 30, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4, 3, 4]]


def test_mask_shows_prompt_and_own_past_only():
    batch = pack([[5, 6]] * 2, [[30, 1], [31, 32]], pad=0)
    seen = batch.mask[0, 0]
    assert seen[3].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert seen[5].nonzero()[:, 0].tolist() == [0, 1, 4, 5]  # not the first joke
    assert seen[0].nonzero()[:, 0].tolist() == [0]


def test_no_real_token_sees_padding_and_no_row_is_all_masked():
    batch = pack([[5, 6], [7]], [[30, 31, 1], [1]], pad=0)
    assert batch.ids[1].tolist() == [7, 1, 0, 0, 0]
    seen = batch.mask[1, 0]
    assert not seen[:2, 2:].any()
    assert seen.any(-1).all()


@pytest.mark.parametrize(
    ("prompts", "jokes"),
    [([[1]], [[2], [3]]), ([], []), ([[]], [[1]]), ([[1]], [[]])],
)
def test_what_cannot_be_packed_is_refused(prompts, jokes):
    with pytest.raises(ValueError, match="pack got"):
        pack(prompts, jokes, pad=0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=40),
    st.integers(10, 80),
)
def test_chunks_hold_every_joke_once_and_keep_to_the_limit(kinds, tokens):
    prompts = [[7] * (k + 1) for k, _ in kinds]
    jokes = [[8] * n for _, n in kinds]
    parts = chunks(prompts, jokes, tokens=tokens, pack_limit=40)
    assert sorted(i for part in parts for i in part) == list(range(len(kinds)))
    for part in parts:
        ids = pack([prompts[i] for i in part], [jokes[i] for i in part], pad=0, group_limit=40).ids
        assert ids.numel() <= tokens or len(ids) == 1
