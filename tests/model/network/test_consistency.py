"""The check and the ensemble's weights, against the formulas worked out by hand."""

import math

import pytest
import torch

from model.modality import MODALITIES
from model.network.consistency import (
    BranchWeights,
    differs,
    key_modalities,
    key_score,
    pair_weights,
)

T, A, V = MODALITIES


def test_votes_differ_where_they_name_different_classes() -> None:
    full = torch.tensor([[0.1, 2.0, 0.3], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    available = torch.tensor([[-4.0, 0.1, 0.0], [1.0, 5.0, 0.0], [0.0, 1.0, 0.0]])
    assert differs(full, available).tolist() == [False, True, True]


def test_nothing_is_key_while_the_votes_agree() -> None:
    assert key_modalities(False, [V], {}) == []
    assert key_modalities(False, [A, V], {A: True, V: True}) == []


def test_the_one_missing_modality_is_key_when_they_do_not() -> None:
    assert key_modalities(True, [A], {}) == [A]


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ({A: True, V: False}, [A]),
        ({A: False, V: True}, [V]),
        ({A: True, V: True}, [A, V]),
        ({A: False, V: False}, [A, V]),
    ],
)
def test_of_two_missing_those_are_key_that_change_the_vote_alone_and_both_if_none_does(
    without: dict[str, bool], named: list[str]
) -> None:
    assert key_modalities(True, [A, V], {m: without[m] for m in (A, V)}) == named


def test_the_score_is_the_chance_that_draws_from_the_two_votes_are_not_both_the_available_ones_first_choice() -> None:
    full = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    available = torch.tensor([[0.3, 0.5, 0.2], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.4, 0.6, 0.0]])
    torch.testing.assert_close(key_score(full, available), torch.tensor([0.9, 1.0, 0.0, 0.7]))


def test_alpha_is_the_softmax_of_each_pairs_largest_probability() -> None:
    probabilities = [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]]
    votes = [torch.tensor([p]).log() + 7.0 for p in probabilities]  # logits may lie anywhere
    alpha = pair_weights(votes)
    raised = [math.exp(0.8), math.exp(0.5), math.exp(0.6)]
    torch.testing.assert_close(alpha, torch.tensor([[e / sum(raised) for e in raised]]))


def test_alpha_sums_to_one_for_any_votes() -> None:
    votes = [torch.randn(20, 3, generator=torch.Generator().manual_seed(k)) * 10 for k in range(3)]
    alpha = pair_weights(votes)
    assert alpha.shape == (20, 3)
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(20))


def test_beta_is_the_softmax_of_w_on_tanh_and_r_sums_the_raw_features() -> None:
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
