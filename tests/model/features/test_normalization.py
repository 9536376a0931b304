from pathlib import Path

import numpy as np
import pytest
import torch

from model.errors import CheckpointError
from model.features.normalization import CLIP, MIN_STD, Preprocessing, Statistics, reduce_to_slots
from model.modality import Modality
from model.types import FloatArray


def ramp(length: int, size: int = 3) -> FloatArray:
    return np.random.default_rng(length).standard_normal((length, size)).astype(np.float32)


def test_statistics_are_computed_over_all_frames() -> None:
    arrays = [ramp(n) * 5 + 2 for n in (1, 7, 30)]
    frames = np.concatenate(arrays).astype(np.float64)
    measured = Statistics.of(iter(arrays))
    np.testing.assert_allclose(measured.mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(measured.std, frames.std(axis=0), rtol=1e-5)
    assert measured.mean.dtype == measured.std.dtype == np.float32


def test_normalised_training_frames_have_mean_zero_and_deviation_one() -> None:
    array = ramp(500) * 7 - 3
    scores = Statistics.of([array]).normalise(array)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-5)
    assert scores.dtype == np.float32


def test_standard_deviation_of_a_constant_feature_is_bounded() -> None:
    measured = Statistics.of([np.full((10, 2), 4.0, dtype=np.float32)])
    np.testing.assert_allclose(measured.std, MIN_STD)
    np.testing.assert_array_equal(measured.normalise(np.full((1, 2), 4.0, dtype=np.float32)), 0)


def test_scores_are_clipped() -> None:
    measured = Statistics(np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.float32))
    scores = measured.normalise(np.array([[1e9, -1e9], [CLIP - 1, 1 - CLIP]], dtype=np.float32))
    np.testing.assert_array_equal(scores, [[CLIP, -CLIP], [CLIP - 1, 1 - CLIP]])


def test_statistics_of_no_arrays_are_rejected() -> None:
    with pytest.raises(ValueError, match="no array to measure"):
        Statistics.of([])


def test_mixture_weights_parts_equally() -> None:
    parts = [ramp(4000) * 3 + 10, ramp(20) - 1]
    mixed = Statistics.mixture([Statistics.of([part]) for part in parts])
    evened = np.concatenate([parts[0], np.tile(parts[1], (200, 1))]).astype(np.float64)
    np.testing.assert_allclose(mixed.mean, evened.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(mixed.std, evened.std(axis=0), rtol=1e-4)
    assert mixed.mean.dtype == mixed.std.dtype == np.float32


def test_mixture_of_one_part_is_that_part() -> None:
    measured = Statistics.of([ramp(50)])
    mixed = Statistics.mixture([measured])
    np.testing.assert_allclose(mixed.mean, measured.mean, rtol=1e-6)
    np.testing.assert_allclose(mixed.std, measured.std, rtol=1e-5)


def test_empty_mixture_is_rejected_and_constant_one_is_bounded() -> None:
    with pytest.raises(ValueError, match="no statistics to mix"):
        Statistics.mixture([])
    still = Statistics(np.full(2, 4.0, dtype=np.float32), np.zeros(2, dtype=np.float32))
    np.testing.assert_allclose(Statistics.mixture([still, still]).std, MIN_STD)


def test_written_statistics_are_read_bit_for_bit(tmp_path: Path) -> None:
    written = Preprocessing({m: Statistics.of([ramp(20)]) for m in (Modality.AUDIO, Modality.VISUAL)})
    written.write(tmp_path / "preprocessing.json")
    read = Preprocessing.read(tmp_path / "preprocessing.json")
    assert read.statistics.keys() == written.statistics.keys()
    for modality, statistics in written.statistics.items():
        np.testing.assert_array_equal(read.statistics[modality].mean, statistics.mean)
        np.testing.assert_array_equal(read.statistics[modality].std, statistics.std)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"audio": 3}', '{"audio": {"mean": [0]}}', '{"smell": {"mean": [0], "std": [1]}}']
)
def test_other_json_content_is_rejected(tmp_path: Path, content: str) -> None:
    path = tmp_path / "preprocessing.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"preprocessing\.json is not a statistics file"):
        Preprocessing.read(path)


@pytest.mark.parametrize("length", [5, 6, 9, 10, 11, 37, 1000])
@pytest.mark.parametrize("slots", [1, 4, 5])
def test_pooling_equals_adaptive_average_pooling(length: int, slots: int) -> None:
    array = ramp(length)
    pooled = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(array).T, slots).T
    ours = reduce_to_slots(array, slots, "pool")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, pooled, atol=1e-5)


def test_pooling_uses_the_end_of_a_clip_and_truncation_does_not() -> None:
    array, longer = ramp(40), ramp(40)
    longer[30:] += 10
    assert not np.allclose(reduce_to_slots(array, 4, "pool"), reduce_to_slots(longer, 4, "pool"))
    np.testing.assert_array_equal(reduce_to_slots(array, 4, "truncate"), array[:4])
    np.testing.assert_array_equal(reduce_to_slots(longer, 4, "truncate"), longer[:4])


def test_array_that_fits_is_returned_unchanged() -> None:
    array = ramp(4)
    assert reduce_to_slots(array, 4, "pool") is array
    assert reduce_to_slots(array, 5, "truncate") is array
