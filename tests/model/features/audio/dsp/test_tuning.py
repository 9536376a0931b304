import librosa
import numpy as np
import pytest

from model.features.audio.acoustic import SAMPLE_RATE, harmonic_component
from model.features.audio.dsp.tuning import estimate_tuning
from model.types import FloatArray
from tests.support.speech import speech_of


def chord(cents: float) -> FloatArray:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    notes = 440.0 * 2.0 ** ((np.array([0, 4, 7, 12]) + cents / 100) / 12)
    waves: FloatArray = np.sin(2 * np.pi * notes[:, None] * time).sum(axis=0, dtype=np.float32)
    return waves * np.float32(0.1)


def as_librosa(y: FloatArray) -> float:
    return float(librosa.estimate_tuning(y=y, sr=SAMPLE_RATE, bins_per_octave=12))


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.7, 20.0])
@pytest.mark.parametrize("voice", ["en-us", "en+f3"])
def test_the_tuning_of_speech_is_librosa_s(seconds: float, voice: str) -> None:
    speech = harmonic_component(speech_of(seconds, voice))
    assert estimate_tuning(speech) == as_librosa(speech)


@pytest.mark.parametrize("cents", [-45, -20, 0, 10, 30, 49])
def test_a_chord_out_of_tune_is_heard_to_be(cents: float) -> None:
    assert estimate_tuning(chord(cents)) == pytest.approx(cents / 100, abs=0.03)
    assert estimate_tuning(chord(cents)) == as_librosa(chord(cents))


@pytest.mark.parametrize("hertz", [140.0, 158.0, 3_980.0, 4_020.0, 7_000.0])
def test_only_partials_between_the_limits_count(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    assert estimate_tuning(tone) == as_librosa(tone)


@pytest.mark.parametrize("samples", [512, 16_000, 70_001])
def test_noise_of_any_length_has_librosa_s_tuning(samples: int) -> None:
    noise = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    with np.errstate(all="raise"):
        ours = estimate_tuning(noise)
    if samples < 2_048:
        with pytest.warns(UserWarning, match="too large"):
            assert ours == as_librosa(noise)
    else:
        assert ours == as_librosa(noise)


def test_silence_is_in_tune_and_no_warning_is_given() -> None:
    assert estimate_tuning(np.zeros(SAMPLE_RATE, dtype=np.float32)) == 0.0
