"""Missing patterns of training and of an evaluation."""

from collections import Counter

import numpy as np
import pytest

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.training.missing_patterns import (
    RATES,
    RatePatterns,
    draw_rate_patterns,
    draw_training_patterns,
)

N = 20_000
PAIR = ModalitySet.of(Modality.TEXT, Modality.AUDIO)
ALONE = ModalitySet.of(Modality.VISUAL)


@pytest.mark.parametrize("rate", RATES)
def test_a_rate_is_the_share_that_loses_one_uniform_modality(rate: float) -> None:
    kept = draw_rate_patterns([COMPLETE] * N, rate, np.random.default_rng(0))
    lost = Counter(presence.missing for presence in kept)
    assert set(lost) <= {(), *((modality,) for modality in MODALITIES)}
    for modality in MODALITIES:
        assert lost[modality,] / N == pytest.approx(rate / 3, abs=0.012)  # over four standard deviations


def test_an_item_loses_only_present_modalities_and_never_its_last() -> None:
    kept = draw_rate_patterns([PAIR, ALONE] * N, 1.0, np.random.default_rng(0))
    assert set(kept[1::2]) == {ALONE}
    counts = Counter(kept[::2])
    assert set(counts) == {ModalitySet.of(Modality.TEXT), ModalitySet.of(Modality.AUDIO)}
    assert counts[ModalitySet.of(Modality.TEXT)] / N == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(ValueError, match="a missing rate lies in"):
        draw_rate_patterns([COMPLETE], rate, np.random.default_rng(0))


def test_training_patterns_have_the_given_shares_and_uniform_modalities() -> None:
    kept = Counter(draw_training_patterns([COMPLETE] * N, (0.2, 0.5, 0.3), np.random.default_rng(0)))
    assert set(kept) == set(SUBSETS)
    assert kept[COMPLETE] / N == pytest.approx(0.2, abs=0.015)
    for subset in SUBSETS[1:]:
        share = (0.5 if len(subset) == 2 else 0.3) / 3
        assert kept[subset] / N == pytest.approx(share, abs=0.013)


def test_training_patterns_keep_at_least_one_present_modality() -> None:
    presences = [PAIR, ALONE] * 500
    for had, kept in zip(
        presences, draw_training_patterns(presences, (0, 0, 1), np.random.default_rng(0)), strict=True
    ):
        assert len(kept) == 1
        assert kept.present <= had.present


def test_training_patterns_differ_between_epochs_and_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(3)
    first, second = (draw_training_patterns([COMPLETE] * 100, (0.3, 0.4, 0.3), rng) for _ in range(2))
    assert first != second
    assert draw_training_patterns([COMPLETE] * 100, (0.3, 0.4, 0.3), np.random.default_rng(3)) == first


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_must_be_probabilities(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"[Pp]robabilities"):
        draw_training_patterns([COMPLETE], shares, np.random.default_rng(0))


def test_rate_patterns_repeat_with_the_seed_and_differ_between_rates() -> None:
    ids, presences = [str(n) for n in range(200)], [COMPLETE] * 200
    drawn = RatePatterns.draw(ids, presences, seed=5)
    assert RatePatterns.draw(ids, presences, seed=5) == drawn
    assert RatePatterns.draw(ids, presences, seed=6) != drawn
    assert set(drawn.kept[0.0]) == {COMPLETE}
    assert drawn.kept[0.4] != drawn.kept[0.5]
