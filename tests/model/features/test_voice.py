import numpy as np
import numpy.typing as npt
import pytest

from model.errors import EmptyModality
from model.features.audio import MIN_SAMPLES, SAMPLE_RATE
from model.features.voice import listen, loudest_frame_dbfs, raw_audio_features
from tests.support.speech import speech_of

FloatArray = npt.NDArray[np.float32]
SPEECH = speech_of(1.0)
FRAMES = 1 + SPEECH.size // 512


def raw(waveform: FloatArray, *, dynamics: bool = False, silence_dbfs: float = -60.0) -> FloatArray:
    return raw_audio_features(waveform, dynamics=dynamics, silence_dbfs=silence_dbfs)


def tone_at(dbfs: float, samples: int = SAMPLE_RATE) -> FloatArray:
    """A tone whose every hop has this root mean square: 312.5 Hz fits ten whole periods in a hop."""
    time = np.arange(samples) / SAMPLE_RATE
    tone: FloatArray = (10 ** (dbfs / 20) * np.sqrt(2) * np.sin(2 * np.pi * 312.5 * time)).astype(np.float32)
    return tone


@pytest.mark.parametrize("dbfs", [-61.0, -80.0])
def test_what_stays_under_the_threshold_is_silent(dbfs: float) -> None:
    with pytest.raises(EmptyModality) as caught:
        raw(tone_at(dbfs))
    assert caught.value.reason == "silent"


def test_what_passes_the_threshold_is_not() -> None:
    assert raw(tone_at(-59.0)).shape == (32, 33)


def test_one_loud_moment_makes_a_clip_audible() -> None:
    waveform = np.zeros(SAMPLE_RATE, dtype=np.float32)
    waveform[8192 : 8192 + 512] = tone_at(-40.0, 512)
    assert raw(waveform).shape == (32, 33)


@pytest.mark.parametrize("dbfs", [-6.0, -30.0])
def test_loudness_is_measured_against_full_scale(dbfs: float) -> None:
    assert loudest_frame_dbfs(tone_at(dbfs)) == pytest.approx(dbfs, abs=0.01)


def test_a_clip_of_one_hop_is_long_enough() -> None:
    assert raw(tone_at(-10.0, MIN_SAMPLES)).shape == (2, 33)


def test_dynamics_add_how_much_each_feature_changed() -> None:
    plain = raw(SPEECH)
    with_change = raw(SPEECH, dynamics=True)
    assert with_change.shape == (FRAMES, 66)
    np.testing.assert_array_equal(with_change[:, :33], plain)
    np.testing.assert_array_equal(with_change[0, 33:], 0)
    np.testing.assert_array_equal(with_change[1:, 33:], np.abs(plain[1:] - plain[:-1]))


def test_the_threshold_is_the_callers() -> None:
    with pytest.raises(EmptyModality, match="-20 dBFS"):
        raw(tone_at(-25.0), silence_dbfs=-20.0)


def test_listening_says_how_long_the_clip_is_and_how_long_it_took() -> None:
    voice = listen(SPEECH, dynamics=True, silence_dbfs=-60.0)
    np.testing.assert_array_equal(voice.features, raw(SPEECH, dynamics=True))
    assert voice.seconds == 1.0
    assert 0 < voice.spent < 60
