import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.training.augmentation import GAIN_DB, NOISE_SNR_DB, SPEED, TILT, augment, variant
from tests.support.corpus import tone

CLIP = tone(seconds=1.0)


def test_variant_zero_is_the_recording_itself() -> None:
    assert variant(CLIP, 0) is CLIP


def test_a_variant_depends_on_content_and_number_alone() -> None:
    first = variant(CLIP, 1)
    np.testing.assert_array_equal(variant(CLIP.copy(), 1), first)
    assert variant(CLIP, 2).shape != first.shape
    other = CLIP.copy()
    other[0] += 0.1
    assert variant(other, 1).shape != first.shape


def test_variants_stay_float32_and_finite_within_the_range_of_speeds() -> None:
    for index in range(1, 30):
        varied = variant(CLIP, index)
        assert varied.dtype == np.float32
        assert np.isfinite(varied).all()
        assert CLIP.size / SPEED[1] - 1 <= varied.size <= CLIP.size / SPEED[0] + 1


def test_a_faster_variant_sounds_higher() -> None:
    for index in range(1, 6):
        varied = variant(CLIP, index)
        loudest = np.abs(np.fft.rfft(varied)).argmax() * SAMPLE_RATE / varied.size
        assert loudest == pytest.approx(220.0 * CLIP.size / varied.size, rel=0.02)


def test_levels_stay_within_gain_tilt_and_noise() -> None:
    power = np.mean(CLIP.astype(np.float64) ** 2)
    highest = (1 + TILT[1]) ** 2 * 10 ** (GAIN_DB[1] / 10) * (1 + 10 ** (-NOISE_SNR_DB[0] / 10))
    lowest = (1 + TILT[0]) ** 2 * 10 ** (GAIN_DB[0] / 10)
    ratios = [np.mean(variant(CLIP, index).astype(np.float64) ** 2) / power for index in range(1, 60)]
    assert lowest * 0.9 < min(ratios)
    assert max(ratios) < highest * 1.1
    assert max(ratios) / min(ratios) > 10, "gains differ widely"


def test_digital_silence_stays_all_but_silent() -> None:
    silence = np.zeros(SAMPLE_RATE, dtype=np.float32)
    varied = augment(silence, np.random.default_rng(0))
    assert np.abs(varied).max() < 1e-5


def test_nothing_stays_nothing() -> None:
    assert augment(np.zeros(0, dtype=np.float32), np.random.default_rng(0)).size == 0


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="one-dimensional"):
        augment(np.zeros((2, 100), dtype=np.float32), np.random.default_rng(0))
