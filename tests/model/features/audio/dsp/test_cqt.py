import librosa
import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import harmonic_component
from model.features.audio.dsp.cqt import N_OCTAVES, TUNINGS, chroma, constant_q, estimate_tuning, plan
from model.features.audio.dsp.stft import HOP_LENGTH
from model.types import FloatArray
from tests.support.speech import speech_of

TUNING_VALUES = [float(edge) for edge in np.linspace(-0.5, 0.5, TUNINGS + 1)[:-1]]


def librosa_cqt(y: FloatArray, tuning: float) -> FloatArray:
    response = librosa.cqt(y, sr=SAMPLE_RATE, hop_length=HOP_LENGTH, n_bins=84, bins_per_octave=12, tuning=tuning)
    magnitude: FloatArray = np.abs(response).T
    return magnitude


def test_cache_holds_the_filters_of_every_tuning() -> None:
    assert len(TUNING_VALUES) == TUNINGS == plan.cache_info().maxsize


@pytest.mark.parametrize("tuning", TUNING_VALUES[::9])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_constant_q_equals_librosa_for_every_tuning(tuning: float) -> None:
    speech = speech_of(2.0)
    ours = constant_q(speech, tuning)
    np.testing.assert_allclose(ours, librosa_cqt(speech, tuning), rtol=0, atol=1e-7 * ours.max())


@pytest.mark.parametrize("samples", [512, 513, 1_023, 5_000, 48_001])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_clips_of_any_length_have_one_frame_per_hop(samples: int) -> None:
    speech = speech_of(4.0)[:samples]
    ours = constant_q(speech, 0.1)
    assert ours.shape == (1 + samples // HOP_LENGTH, 84)
    np.testing.assert_allclose(ours, librosa_cqt(speech, 0.1), rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:n_fft")
def test_chroma_equals_librosa() -> None:
    speech = speech_of(3.0)
    theirs = librosa.feature.chroma_cqt(
        y=speech, sr=SAMPLE_RATE, hop_length=HOP_LENGTH, n_chroma=12, bins_per_octave=12, tuning=-0.23
    )
    np.testing.assert_allclose(chroma(speech, -0.23), theirs.T, rtol=0, atol=1e-6)


def test_chroma_maximum_is_one_and_of_silence_zero() -> None:
    np.testing.assert_array_equal(chroma(speech_of(1.0), 0.0).max(axis=1), 1.0)
    assert not chroma(np.zeros(SAMPLE_RATE, dtype=np.float32), 0.0).any()


def test_filters_are_cached_by_tuning() -> None:
    assert plan(-0.5) is plan(-0.5)
    assert len(plan(-0.5).octaves) == N_OCTAVES


def test_chroma_does_not_modify_the_waveform() -> None:
    speech = speech_of(1.0)
    before = speech.copy()
    chroma(speech, 0.0)
    np.testing.assert_array_equal(speech, before)


def chord(cents: float) -> FloatArray:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    notes = 440.0 * 2.0 ** ((np.array([0, 4, 7, 12]) + cents / 100) / 12)
    waves: FloatArray = np.sin(2 * np.pi * notes[:, None] * time).sum(axis=0, dtype=np.float32)
    return waves * np.float32(0.1)


def librosa_tuning(y: FloatArray) -> float:
    return float(librosa.estimate_tuning(y=y, sr=SAMPLE_RATE, bins_per_octave=12))


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.7, 20.0])
@pytest.mark.parametrize("voice", ["en-us", "en+f3"])
def test_tuning_of_speech_equals_librosa(seconds: float, voice: str) -> None:
    speech = harmonic_component(speech_of(seconds, voice))
    assert estimate_tuning(speech) == librosa_tuning(speech)


@pytest.mark.parametrize("cents", [-45, -20, 0, 10, 30, 49])
def test_tuning_of_a_detuned_chord_is_estimated(cents: float) -> None:
    assert estimate_tuning(chord(cents)) == pytest.approx(cents / 100, abs=0.03)
    assert estimate_tuning(chord(cents)) == librosa_tuning(chord(cents))


@pytest.mark.parametrize("hertz", [140.0, 158.0, 3_980.0, 4_020.0, 7_000.0])
def test_only_peaks_within_the_frequency_limits_are_used(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    assert estimate_tuning(tone) == librosa_tuning(tone)


@pytest.mark.parametrize("samples", [512, 16_000, 70_001])
def test_tuning_of_noise_equals_librosa(samples: int) -> None:
    noise = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    with np.errstate(all="raise"):
        ours = estimate_tuning(noise)
    if samples < 2_048:
        with pytest.warns(UserWarning, match="too large"):
            assert ours == librosa_tuning(noise)
    else:
        assert ours == librosa_tuning(noise)


def test_tuning_of_silence_is_zero() -> None:
    assert estimate_tuning(np.zeros(SAMPLE_RATE, dtype=np.float32)) == 0.0
