import librosa
import numpy as np
import pytest

from model.features.audio.dsp.cqt import N_OCTAVES, TUNINGS, chroma, constant_q, plan
from model.features.audio.dsp.stft import HOP_LENGTH, SAMPLE_RATE
from model.types import FloatArray
from tests.support.speech import speech_of

TUNING_VALUES = [float(edge) for edge in np.linspace(-0.5, 0.5, TUNINGS + 1)[:-1]]


def librosa_cqt(y: FloatArray, tuning: float) -> FloatArray:
    response = librosa.cqt(y, sr=SAMPLE_RATE, hop_length=HOP_LENGTH, n_bins=84, bins_per_octave=12, tuning=tuning)
    magnitude: FloatArray = np.abs(response).T
    return magnitude


def test_a_recording_s_tuning_has_as_many_values_as_plans_are_kept() -> None:
    assert len(TUNING_VALUES) == TUNINGS == plan.cache_info().maxsize


@pytest.mark.parametrize("tuning", TUNING_VALUES[::9])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_every_note_of_every_tuning_is_librosa_s(tuning: float) -> None:
    speech = speech_of(2.0)
    ours = constant_q(speech, tuning)
    np.testing.assert_allclose(ours, librosa_cqt(speech, tuning), rtol=0, atol=1e-7 * ours.max())


@pytest.mark.parametrize("samples", [512, 513, 1_023, 5_000, 48_001])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_clips_of_every_length_have_a_frame_a_hop(samples: int) -> None:
    speech = speech_of(4.0)[:samples]
    ours = constant_q(speech, 0.1)
    assert ours.shape == (1 + samples // HOP_LENGTH, 84)
    np.testing.assert_allclose(ours, librosa_cqt(speech, 0.1), rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:n_fft")
def test_chroma_is_librosa_s() -> None:
    speech = speech_of(3.0)
    theirs = librosa.feature.chroma_cqt(
        y=speech, sr=SAMPLE_RATE, hop_length=HOP_LENGTH, n_chroma=12, bins_per_octave=12, tuning=-0.23
    )
    np.testing.assert_allclose(chroma(speech, -0.23), theirs.T, rtol=0, atol=1e-6)


def test_the_loudest_note_of_a_frame_is_one_and_silence_is_zero() -> None:
    np.testing.assert_array_equal(chroma(speech_of(1.0), 0.0).max(axis=1), 1.0)
    assert not chroma(np.zeros(SAMPLE_RATE, dtype=np.float32), 0.0).any()


def test_a_tuning_s_filters_are_built_once() -> None:
    assert plan(-0.5) is plan(-0.5)
    assert len(plan(-0.5).octaves) == N_OCTAVES


def test_filters_leave_the_waveform_as_it_was() -> None:
    speech = speech_of(1.0)
    before = speech.copy()
    chroma(speech, 0.0)
    np.testing.assert_array_equal(speech, before)
