import numpy as np
import pytest

from tests.support.speech import SAMPLE_RATE, SENTENCES, _spoken, speak, speech_of


def test_speech_is_sixteen_kilohertz_mono_and_audible() -> None:
    spoken = speak(SENTENCES[0])
    assert spoken.dtype == np.float32
    assert spoken.ndim == 1
    assert 1.0 < spoken.size / SAMPLE_RATE < 4.0
    assert 0.1 < np.abs(spoken).max() <= 1.0


def test_speech_is_reproducible() -> None:
    first = speak(SENTENCES[1])
    _spoken.cache_clear()
    np.testing.assert_array_equal(speak(SENTENCES[1]), first)


def test_rate_and_voice_change_the_speech() -> None:
    usual = speak(SENTENCES[0])
    assert speak(SENTENCES[0], rate=90).size > usual.size
    assert not np.array_equal(speak(SENTENCES[0], voice="en+f3")[:8000], usual[:8000])


def test_results_are_copies() -> None:
    speak(SENTENCES[0])[:] = 0
    assert np.abs(speak(SENTENCES[0])).max() > 0.1


@pytest.mark.parametrize("seconds", [0.1, 7.25])
def test_speech_has_exactly_the_given_length(seconds: float) -> None:
    assert speech_of(seconds).shape == (round(seconds * SAMPLE_RATE),)


def test_unknown_voices_are_errors() -> None:
    with pytest.raises(RuntimeError, match="no voice 'xx-unknown'"):
        speak(SENTENCES[0], voice="xx-unknown")
