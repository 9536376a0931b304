from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.training.missing_patterns import (
    RATES,
    RatePatterns,
    TrainingMix,
    draw_rate_patterns,
    draw_training_patterns,
    subsets_of,
)

N = 20_000
PAIR = ModalitySet.of(Modality.TEXT, Modality.AUDIO)
ALONE = ModalitySet.of(Modality.VISUAL)


@pytest.mark.parametrize("rate", RATES)
def test_at_a_rate_that_share_loses_exactly_one_modality_drawn_uniformly(rate: float) -> None:
    kept = draw_rate_patterns([COMPLETE] * N, rate, np.random.default_rng(0))
    lost = Counter(presence.missing for presence in kept)
    assert set(lost) <= {(), *((modality,) for modality in MODALITIES)}
    for modality in MODALITIES:
        assert lost[modality,] / N == pytest.approx(rate / 3, abs=0.012)  # over four standard deviations


def test_an_item_loses_only_what_it_has_and_never_its_last() -> None:
    kept = draw_rate_patterns([PAIR, ALONE] * N, 1.0, np.random.default_rng(0))
    assert set(kept[1::2]) == {ALONE}
    counts = Counter(kept[::2])
    assert set(counts) == {ModalitySet.of(Modality.TEXT), ModalitySet.of(Modality.AUDIO)}
    assert counts[ModalitySet.of(Modality.TEXT)] / N == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(ValueError, match="a missing rate lies in"):
        draw_rate_patterns([COMPLETE], rate, np.random.default_rng(0))


def test_training_loses_none_one_or_two_in_the_shares_asked_for_uniformly_over_modalities() -> None:
    kept = Counter(draw_training_patterns([COMPLETE] * N, TrainingMix(0.2, 0.5, 0.3), np.random.default_rng(0)))
    assert set(kept) == set(SUBSETS)
    assert kept[COMPLETE] / N == pytest.approx(0.2, abs=0.015)
    for subset in SUBSETS[1:]:
        share = (0.5 if len(subset) == 2 else 0.3) / 3
        assert kept[subset] / N == pytest.approx(share, abs=0.013)


def test_training_leaves_every_item_something_it_has() -> None:
    presences = [PAIR, ALONE] * 500
    for had, kept in zip(
        presences, draw_training_patterns(presences, TrainingMix(0, 0, 1), np.random.default_rng(0)), strict=True
    ):
        assert len(kept) == 1
        assert kept.present <= had.present


def test_training_patterns_differ_between_epochs_and_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(3)
    first, second = (draw_training_patterns([COMPLETE] * 100, TrainingMix(), rng) for _ in range(2))
    assert first != second
    assert draw_training_patterns([COMPLETE] * 100, TrainingMix(), np.random.default_rng(3)) == first


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_of_a_mix_add_up_to_one(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="at least zero and add up to one"):
        TrainingMix(*shares)


def test_subsets_of_a_presence_are_its_own_parts() -> None:
    assert subsets_of(COMPLETE) == SUBSETS
    assert subsets_of(PAIR) == (PAIR, ModalitySet.of(Modality.TEXT), ModalitySet.of(Modality.AUDIO))
    assert subsets_of(ALONE) == (ALONE,)


def test_stored_patterns_come_back_as_they_were_drawn(tmp_path: Path) -> None:
    drawn = RatePatterns.draw(["a", "b", "c"], [COMPLETE, PAIR, ALONE], seed=5)
    drawn.save(tmp_path / "patterns.json")
    assert RatePatterns.load(tmp_path / "patterns.json") == drawn


def test_stored_patterns_repeat_with_the_seed_and_differ_between_rates() -> None:
    ids, presences = [str(n) for n in range(200)], [COMPLETE] * 200
    drawn = RatePatterns.draw(ids, presences, seed=5)
    assert RatePatterns.draw(ids, presences, seed=5) == drawn
    assert RatePatterns.draw(ids, presences, seed=6) != drawn
    assert set(drawn.kept[0.0]) == {COMPLETE}
    assert drawn.kept[0.4] != drawn.kept[0.5]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"seed": 1, "ids": ["a"]}',
        '{"seed": 1, "ids": ["a"], "rates": []}',
        '{"seed": 1, "ids": ["a"], "rates": {"0.1": []}}',
        '{"seed": 1, "ids": ["a"], "rates": {"0.1": ["smell"]}}',
        '{"seed": 1, "ids": ["a"], "rates": {"much": ["text"]}}',
    ],
)
def test_a_file_without_whole_patterns_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "patterns.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match="holds no missing patterns"):
        RatePatterns.load(path)


def test_patterns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.json: cannot be read"):
        RatePatterns.load(tmp_path / "none.json")
