import math

import pytest
import torch

from agents.preference import LOSSES, PAIRINGS, PairLogps, make_pairs, preference_loss

NAN = float("nan")


def pairs(rewards, usable=None, groups=None, *, pairing="best-worst", margin=0.0, seed=0):
    rewards = torch.tensor(rewards)
    usable = torch.ones(len(rewards), dtype=torch.bool) if usable is None else torch.tensor(usable)
    groups = (
        torch.zeros(len(rewards), dtype=torch.int64) if groups is None else torch.tensor(groups)
    )
    return make_pairs(
        rewards, usable, groups, pairing=pairing, min_margin=margin,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def test_best_against_worst_within_each_group():
    found = pairs([1.0, 3.0, 2.0, 5.0, 4.0], groups=[0, 0, 0, 1, 1])
    assert [(p.chosen, p.rejected, p.margin) for p in found] == [(1, 0, 2.0), (3, 4, 1.0)]


def test_all_pairs_point_from_higher_to_lower_reward_and_leave_ties_out():
    found = pairs([1.0, 2.0, 1.0], pairing="all")
    assert {(p.chosen, p.rejected) for p in found} == {(1, 0), (1, 2)}


def test_best_against_random_is_the_best_against_every_other_in_time():
    others = {pairs([1.0, 9.0, 2.0, 3.0], pairing="best-random", seed=s)[0][:2] for s in range(40)}
    assert others == {(1, 0), (1, 2), (1, 3)}


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_unusable_jokes_are_in_no_pair_whatever_they_hold(pairing):
    found = pairs(
        [NAN, 1.0, 2.0, 99.0], usable=[False, True, True, False], pairing=pairing
    )  # fmt: skip
    assert [(p.chosen, p.rejected) for p in found] == [(2, 1)]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairs_closer_than_the_margin_are_left_out(pairing):
    assert pairs([1.0, 1.4], pairing=pairing, margin=0.5) == []
    assert len(pairs([1.0, 1.5], pairing=pairing, margin=0.5)) == 1
    assert pairs([1.0, 1.0], pairing=pairing) == []
    assert pairs([1.0], pairing=pairing) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairing": "some"}, "pairing is 'some'"),
        ({"margin": -1.0}, "min_margin is -1.0"),
        ({"groups": [0, 0, 0]}, r"one shape \(B,\)"),
    ],
)
def test_bad_pairings_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        pairs([1.0, 2.0], **change)


# ---- losses

POLICY = PairLogps(torch.tensor([-10.0, -20.0]), torch.tensor([-12.0, -15.0]))
REFERENCE = PairLogps(torch.tensor([-11.0, -21.0]), torch.tensor([-11.0, -18.0]))
TOKENS = PairLogps(torch.tensor([5.0, 10.0]), torch.tensor([4.0, 5.0]))
FLIPPED = torch.tensor([0.1, 0.3])


def loss(kind, policy=POLICY, reference=REFERENCE, beta=0.5, **options):
    return preference_loss(
        policy, reference, beta=beta, kind=kind, tokens=TOKENS, flipped=FLIPPED, **options
    )


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [  # d = (2, -2), d' = (.2 + .25, .1 - .6)
        ("sigmoid", (softplus(-1) + softplus(1)) / 2),
        (
            "cdpo",
            (0.9 * softplus(-1) + 0.1 * softplus(1) + 0.7 * softplus(1) + 0.3 * softplus(-1)) / 2,
        ),
        ("ipo", ((0.45 - 1) ** 2 + (-0.5 - 1) ** 2) / 2),
        ("sigmoid_norm", (softplus(-0.225) + softplus(0.25)) / 2),
    ],
)
def test_closed_forms(kind, expected):
    assert float(loss(kind).loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "cdpo", "sigmoid_norm"])
def test_at_the_reference_the_loss_is_log_2(kind):
    assert float(loss(kind, policy=REFERENCE).loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", LOSSES)
def test_only_differences_of_log_ratios_count(kind):
    shift = torch.tensor([3.0, -7.0])
    moved = [PairLogps(x.chosen + shift, x.rejected - shift) for x in (POLICY, REFERENCE)]
    assert float(loss(kind, *moved).loss) == pytest.approx(float(loss(kind).loss), rel=1e-5)


def test_cdpo_without_doubt_is_dpo_and_in_full_doubt_has_its_least_at_the_reference():
    sure = preference_loss(POLICY, REFERENCE, beta=0.5, kind="cdpo", flipped=torch.zeros(2))
    assert torch.equal(sure.loss, loss("sigmoid").loss)
    policy = PairLogps(*(x.clone().requires_grad_() for x in REFERENCE))
    doubtful = torch.full((2,), 0.5)
    preference_loss(policy, REFERENCE, beta=0.5, kind="cdpo", flipped=doubtful).loss.backward()
    assert torch.allclose(policy.chosen.grad, torch.zeros(2))


def test_rewards_are_beta_times_log_ratios_without_gradient():
    policy = PairLogps(*(x.clone().requires_grad_() for x in POLICY))
    terms = loss("sigmoid", policy)
    assert terms.chosen_reward.tolist() == [0.5, 0.5]
    assert terms.rejected_reward.tolist() == [-0.5, 1.5]
    assert not terms.chosen_reward.requires_grad
    terms.loss.backward()  # d/dd -log sigmoid(beta d) = -beta sigmoid(-beta d), mean of two
    expected = -0.5 / (1 + math.exp(1)) / 2
    assert float(policy.chosen.grad[0]) == pytest.approx(expected)
    assert float(policy.rejected.grad[0]) == pytest.approx(-expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0.0}, "beta > 0"),
        ({"kind": "hinge"}, "kind is 'hinge'"),
        ({"kind": "ipo"}, "means over tokens"),
        ({"kind": "cdpo"}, "flipped"),
        ({"tokens": PairLogps(torch.ones(3), torch.ones(3))}, r"one shape \(N,\)"),
    ],
)
def test_bad_losses_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        preference_loss(POLICY, REFERENCE, **({"beta": 0.5} | options))
