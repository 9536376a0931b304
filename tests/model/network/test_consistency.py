"""The consistency check and the ensemble's weights against formulas evaluated by hand."""

import math

import pytest
import torch

from model.modality import MODALITIES, SUBSETS
from model.network.consistency import (
    BranchWeights,
    agreement,
    available_vote,
    differs,
    key_feature,
    key_modalities,
    key_score,
    pair_weights,
)

T, A, V = MODALITIES


def test_votes_differ_where_their_classes_differ() -> None:
    full = torch.tensor([[0.1, 2.0, 0.3], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    available = torch.tensor([[-4.0, 0.1, 0.0], [1.0, 5.0, 0.0], [0.0, 1.0, 0.0]])
    assert differs(full, available).tolist() == [False, True, True]


def test_single_missing_modality_is_key() -> None:
    assert key_modalities([A], {}) == [A]


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ({A: True, V: False}, [A]),
        ({A: False, V: True}, [V]),
        ({A: True, V: True}, [A, V]),
        ({A: False, V: False}, [A, V]),
    ],
)
def test_of_two_missing_those_that_change_the_vote_are_key(without: dict[str, bool], named: list[str]) -> None:
    assert key_modalities([A, V], {m: without[m] for m in (A, V)}) == named


def test_key_score_is_the_probability_of_other_classes() -> None:
    full = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    available = torch.tensor([[0.3, 0.5, 0.2], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.4, 0.6, 0.0]])
    torch.testing.assert_close(key_score(full, available), torch.tensor([0.9, 1.0, 0.0, 0.7]))


def test_alpha_is_the_softmax_of_largest_probabilities() -> None:
    probabilities = [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]]
    votes = [torch.tensor([p]).log() + 7.0 for p in probabilities]  # logits are shift-invariant
    alpha = pair_weights(votes)
    raised = [math.exp(0.8), math.exp(0.5), math.exp(0.6)]
    torch.testing.assert_close(alpha, torch.tensor([[e / sum(raised) for e in raised]]))


def test_alpha_sums_to_one_for_any_votes() -> None:
    votes = [torch.randn(20, 3, generator=torch.Generator().manual_seed(k)) * 10 for k in range(3)]
    alpha = pair_weights(votes)
    assert alpha.shape == (20, 3)
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(20))


def test_key_feature_is_the_alpha_weighted_sum() -> None:
    features, votes = ([torch.randn(2, size) for _ in range(3)] for size in (16, 3))
    alpha = pair_weights(votes)
    expected = sum(alpha[:, k, None] * feature for k, feature in enumerate(features))
    torch.testing.assert_close(key_feature(features, votes), expected)


@pytest.mark.parametrize("count", [1, 2, 7], ids=lambda count: f"{count} subsets")
def test_available_vote_selects_the_present_subset(count: int) -> None:
    votes = {subset: torch.randn(2 * count, 3) for subset in SUBSETS[:count]}
    present = torch.tensor([subset.mask() for subset in SUBSETS[:count]] * 2)
    selected = available_vote(votes, present)
    for row in range(2 * count):
        assert torch.equal(selected[row], votes[SUBSETS[row % count]][row])


def test_agreement_is_the_mean_cosine_over_slots_and_pairs() -> None:
    a, b = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])  # cosines 1 and 0
    torch.testing.assert_close(agreement([a, a, b]), torch.tensor([(1 + 1 + 1 + 0 + 1 + 0) / 6]))


def test_agreement_of_a_single_branch_is_one() -> None:
    assert agreement([torch.randn(3, 4, 2)]).tolist() == [1.0, 1.0, 1.0]


def test_average_has_equal_weights_and_no_parameter() -> None:
    weights = BranchWeights(2, "average")
    summary, beta = weights(torch.tensor([[[0.5, 0.0], [3.0, 1.0], [-0.5, -4.0]]]))
    torch.testing.assert_close(summary, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(beta, torch.full((1, 3), 1 / 3))
    assert not list(weights.parameters())


def test_maximum_is_taken_of_each_feature() -> None:
    weights = BranchWeights(4, "maximum")
    summary, beta = weights(torch.tensor([[[0.5, 7.0, 0.0, 1.0], [3.0, 1.0, 0.5, 0.0], [-1.0, 2.0, 0.0, 2.0]]]))
    assert summary.tolist() == [[3.0, 7.0, 0.5, 2.0]]
    assert beta.tolist() == [[0.25, 0.5, 0.25]]
    assert not list(weights.parameters())


def test_beta_and_r_follow_equation_12() -> None:
    weights = BranchWeights(2)
    with torch.no_grad():
        weights.w.weight.copy_(torch.tensor([[1.0, -2.0]]))
    keys = torch.tensor([[[0.5, 0.0], [3.0, 1.0], [-1.0, -4.0]]])
    scores = [math.tanh(a) - 2 * math.tanh(b) for a, b in keys[0].tolist()]
    beta = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
    summary, found = weights(keys)
    torch.testing.assert_close(found, torch.tensor([beta]))
    expected = [sum(b * key[i] for b, key in zip(beta, keys[0].tolist(), strict=True)) for i in range(2)]
    torch.testing.assert_close(summary, torch.tensor([expected]))
