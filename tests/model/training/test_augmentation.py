import numpy as np
import pytest
from scipy.signal import welch

from model.features.audio import SAMPLE_RATE
from model.training import augmentation
from model.training.augmentation import (
    CROP,
    GAIN_DB,
    LEAST_CROP,
    LOWPASS_HZ,
    SPEED,
    active_level,
    add_noise,
    augment,
    change_speed,
    code,
    crop,
    lowpass,
    reverberate,
    telephone,
    tilt,
    variant,
)
from model.types import FloatArray
from tests.support.corpus import tone
from tests.support.speech import speech_of

CLIP = tone(seconds=1.0)
SPEECH = speech_of(3.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power_between(waveform: FloatArray, low: float, high: float) -> float:
    frequencies, density = welch(waveform, SAMPLE_RATE, nperseg=1024)
    return float(density[(frequencies >= low) & (frequencies < high)].sum())


def test_variant_zero_is_the_recording() -> None:
    assert variant(CLIP, 0) is CLIP


def test_a_variant_depends_on_content_and_number_alone() -> None:
    for index in range(1, 12):  # some of them use a codec
        np.testing.assert_array_equal(variant(CLIP.copy(), index), variant(CLIP, index))
    assert variant(CLIP, 2).shape != variant(CLIP, 1).shape
    other = CLIP.copy()
    other[0] += 0.1
    assert variant(other, 1).shape != variant(CLIP, 1).shape


def test_variants_are_finite_float32_of_bounded_length() -> None:
    sizes = []
    for index in range(1, 60):
        varied = variant(SPEECH, index)
        assert varied.dtype == np.float32
        assert np.isfinite(varied).all()
        sizes.append(varied.size)
    assert LEAST_CROP / SPEED[1] <= min(sizes) < SPEECH.size / 2
    assert SPEECH.size < max(sizes) < SPEECH.size / SPEED[0] + 3 * SAMPLE_RATE


def test_levels_of_variants_differ_mainly_by_the_gain() -> None:
    levels = [20 * np.log10(active_level(variant(SPEECH, index)) / active_level(SPEECH)) for index in range(1, 60)]
    assert np.ptp(levels) > 15
    # Cropped variants start from the conditioned level, 5 dB from this clip's.
    assert GAIN_DB[0] - 12 < min(levels)
    assert max(levels) < GAIN_DB[1] + 12


@pytest.mark.parametrize("size", [1, 2, 3, 50, 200, 512, 1600])
def test_short_clips_pass_every_step(size: int) -> None:
    clip = SPEECH[8_000 : 8_000 + size]
    for seed in range(3):
        for step in (crop, reverberate, telephone, code, augment):
            varied = step(clip, rng(seed))
            assert varied.dtype == np.float32
            assert np.isfinite(varied).all()


def test_digital_silence_stays_nearly_silent() -> None:
    silence = np.zeros(SAMPLE_RATE, dtype=np.float32)
    for seed in range(40):
        assert np.abs(augment(silence, rng(seed))).max() < 2e-5


def test_an_empty_waveform_stays_empty() -> None:
    assert augment(np.zeros(0, dtype=np.float32), rng()).size == 0


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="one-dimensional"):
        augment(np.zeros((2, 100), dtype=np.float32), rng())


def test_a_crop_is_a_part_of_the_speech() -> None:
    padded = np.pad(SPEECH, SAMPLE_RATE)
    for seed in range(10):
        part = crop(padded, rng(seed))
        assert CROP[0] * SPEECH.size * 0.9 <= part.size <= CROP[1] * SPEECH.size * 1.1
        assert part.any()
    assert crop(SPEECH[:4_000], rng()).size <= 4_000


@pytest.mark.parametrize("factor", SPEED)
def test_a_faster_variant_sounds_higher(factor: float) -> None:
    varied = change_speed(CLIP, factor)
    assert varied.size == pytest.approx(CLIP.size / factor, abs=2)
    loudest = np.abs(np.fft.rfft(varied)).argmax() * SAMPLE_RATE / varied.size
    assert loudest == pytest.approx(220.0 * factor, rel=0.01)


def test_tilt_changes_the_balance_of_high_and_low_frequencies() -> None:
    def brightness(coefficient: float) -> float:
        tilted = tilt(SPEECH, coefficient)
        return power_between(tilted, 4_000, 8_000) / power_between(tilted, 0, 1_000)

    assert brightness(0.5) < 0.5 * brightness(0.0) < 0.25 * brightness(-0.5)


def test_reverberation_continues_after_the_sound() -> None:
    click = np.zeros(SAMPLE_RATE, dtype=np.float32)
    click[0] = 1.0
    room = reverberate(click, rng())
    assert room[0] == pytest.approx(1.0, abs=1e-6)
    energy = np.square(room[1:], dtype=np.float64)
    assert energy[:1_000].sum() > 10 * energy[5_000:6_000].sum()
    assert 10 ** (-1.2) * 0.99 <= energy.sum() <= 1.01


def test_a_telephone_passes_its_band_only() -> None:
    for seed in range(4):
        line = telephone(SPEECH, rng(seed))
        assert line.size == pytest.approx(SPEECH.size, abs=2)
        assert power_between(line, 5_000, 8_000) < 1e-3 * power_between(line, 500, 2_500)
        assert power_between(line, 500, 2_500) == pytest.approx(power_between(SPEECH, 500, 2_500), rel=0.2)


def test_a_lowpass_attenuates_frequencies_above_its_cutoff() -> None:
    noise = rng().standard_normal(SAMPLE_RATE).astype(np.float32)
    dull = lowpass(noise, LOWPASS_HZ[0])
    assert power_between(dull, 6_500, 8_000) < 0.01 * power_between(noise, 6_500, 8_000)
    assert power_between(dull, 100, 3_500) == pytest.approx(power_between(noise, 100, 3_500), rel=0.05)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("snr_db", [10.0, 30.0])
def test_noise_levels_are_relative_to_speech_without_pauses(snr_db: float, seed: int) -> None:
    for clip in (SPEECH, np.pad(SPEECH, 2 * SAMPLE_RATE)):
        noise = add_noise(clip, snr_db, rng(seed)) - clip
        level = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
        assert 20 * np.log10(active_level(SPEECH) / level) == pytest.approx(snr_db, abs=0.3)


def test_noise_has_several_spectral_slopes() -> None:
    slopes = []
    for seed in range(20):
        noise = add_noise(SPEECH, 0.0, rng(seed)) - SPEECH
        slopes.append(np.log10(power_between(noise, 200, 400) / power_between(noise, 4_000, 4_200)))
    assert min(slopes) < 0.3
    assert max(slopes) > 1.5


@pytest.mark.parametrize("seed", range(6))
def test_a_codec_changes_speech_only_slightly(seed: int) -> None:
    coded = code(SPEECH, rng(seed))
    assert abs(coded.size - SPEECH.size) <= 2 * 1152
    assert power_between(coded, 100, 2_000) == pytest.approx(power_between(SPEECH, 100, 2_000), rel=0.2)
    assert not np.array_equal(coded[: SPEECH.size], SPEECH[: coded.size])


@pytest.mark.parametrize("end", [0, 1])
def test_a_codec_accepts_both_ends_of_its_range(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VORBIS_COMPRESSION", "MP3_COMPRESSION"):
        monkeypatch.setattr(augmentation, name, (getattr(augmentation, name)[end],) * 2)
    for seed in range(6):
        assert code(SPEECH, rng(seed)).size >= SPEECH.size


def test_a_codec_accepts_clips_of_minutes() -> None:
    assert code(speech_of(120.0), rng(1)).size >= 120 * SAMPLE_RATE
