import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from agents import sampling
from agents.sampling import draw, sample
from models.load import load_pretrained

EOS, PAD, LIMIT = 1, 0, 14
PROMPTS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15], [16, 17]]


@pytest.fixture(scope="module")
def model(word_base):
    return load_pretrained(word_base, dtype=torch.float32)[0].eval()


def uniforms(n, seed=0):
    return torch.rand((n, LIMIT), generator=torch.Generator().manual_seed(seed))


def written(model, prompts, k, rows, **options):
    known = {"temperature": 0.7, "max_tokens": LIMIT, "eos": EOS, "pad": PAD}
    return sample(model, prompts, k, uniforms=rows, **(known | options))


@torch.no_grad()
def by_hand(model, prompt, row, temperature):
    """Token by token without a cache, a batch or padding."""
    ids, logps = list(prompt), []
    for u in row.tolist():
        p = (model(input_ids=torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
        token = int(np.searchsorted(p.double().cumsum(-1).numpy(), u, side="right"))
        ids.append(token)
        logps.append(float(p[token].log()))
        if token == EOS:
            break
    return ids[len(prompt) :], logps


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=30),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_drawn_token_is_the_one_whose_slice_holds_u(logits, u):
    logits = torch.tensor([logits])
    edges = np.concatenate([[0], logits.double().softmax(-1)[0].cumsum(-1).numpy()])
    token = int(draw(logits, torch.tensor([u])))
    assert edges[token] - 1e-6 <= u <= edges[token + 1] + 1e-6


def test_tokens_without_probability_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]]).expand(3, 4)
    assert draw(logits, torch.tensor([0.0, 0.4999, 0.5001])).tolist() == [1, 1, 3]


def test_frequencies_match_the_softmax():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0, 0.5, -3.0]])
    n = 20_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(0))
    counts = draw(logits.expand(n, -1), u).bincount(minlength=6)
    expected = n * logits[0].double().softmax(-1)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_jokes_and_logps_equal_decoding_by_hand(model, temperature):
    k = 3
    rows = uniforms(len(PROMPTS) * k)
    ours = written(model, PROMPTS, k, rows, temperature=temperature)
    assert any(s.finished for s in ours)
    assert not all(s.finished for s in ours)
    for i, joke in enumerate(ours):
        ids, logps = by_hand(model, PROMPTS[i // k], rows[i], temperature)
        assert joke.ids == ids
        np.testing.assert_allclose(joke.logps, logps, atol=1e-5)


def test_a_joke_does_not_depend_on_its_companions(model):
    rows = uniforms(12)
    together = written(model, PROMPTS, 3, rows)
    for i, prompt in enumerate(PROMPTS):
        alone = written(model, [prompt], 3, rows[3 * i : 3 * i + 3])
        assert [s.ids for s in alone] == [s.ids for s in together[3 * i : 3 * i + 3]]


def test_batch_size_changes_no_joke(model, monkeypatch):
    rows = uniforms(12)
    large = written(model, PROMPTS, 3, rows)
    monkeypatch.setattr(sampling, "BATCH_ROWS", 4)
    small = written(model, PROMPTS, 3, rows)
    assert [s.ids for s in small] == [s.ids for s in large]


def test_greedy_takes_the_likeliest_token(model):
    ours = written(model, PROMPTS, 1, None, temperature=0.0)
    for prompt, joke in zip(PROMPTS, ours, strict=True):
        ids = list(prompt)
        for token in joke.ids:
            with torch.no_grad():
                assert token == int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_rows_leave_at_their_end_token(model):
    sizes = []
    handle = model.get_decoder().register_forward_hook(
        lambda module, args, out: sizes.append(out.last_hidden_state.shape[:2])
    )
    jokes = written(model, PROMPTS, 4, uniforms(16), temperature=1.0)
    handle.remove()
    for joke in jokes:
        assert joke.finished == (joke.ids[-1] == EOS)
        assert EOS not in joke.ids[:-1]
        assert joke.finished or len(joke.ids) == LIMIT
    lengths = torch.tensor([len(s.ids) for s in jokes])
    steps = int(lengths.max())
    # the prefill has a row a prompt; then only jokes that are still being written cost anything
    assert sizes[0] == (len(PROMPTS), max(map(len, PROMPTS)))
    assert [rows for rows, _ in sizes[1:]] == [int((lengths > t).sum()) for t in range(1, steps)]
    assert all(tokens == 1 for _, tokens in sizes[1:])


def test_limit_of_one_token(model):
    jokes = written(model, PROMPTS, 2, uniforms(8)[:, :1], max_tokens=1)
    assert all(len(s.ids) == 1 for s in jokes)


@pytest.mark.parametrize(
    ("k", "temperature", "rows", "message"),
    [
        (2, 0.0, None, "greedy needs k = 1"),
        (1, -0.1, None, "temperature -0.1"),
        (2, 0.7, None, r"\(8, 14\), got None"),
        (2, 0.7, torch.rand(4, LIMIT), r"\(8, 14\), got \(4, 14\)"),
    ],
)
def test_what_cannot_be_sampled_is_refused(model, k, temperature, rows, message):
    with pytest.raises(ValueError, match=message):
        written(model, PROMPTS, k, rows, temperature=temperature)


def test_draw_never_leaves_the_tokens_that_have_a_probability():
    logits = torch.full((4, 5000), -torch.inf)
    logits[:, 1000:1777] = torch.randn(4, 777, generator=torch.Generator().manual_seed(3))
    edges = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
    token = draw(logits, edges)
    assert bool(((token >= 1000) & (token < 1777)).all())


def test_the_output_matrix_meets_whole_rows_only(model):
    """A view of more than one row is multiplied by one copy of the matrix a row (in bf16)."""
    seen = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    written(model, PROMPTS, 2, uniforms(8))
    hook.remove()
    assert seen[0].shape[:2] == (len(PROMPTS), 1)
    assert all(x.is_contiguous() for x in seen)
