import numpy as np
import pytest

from model.features.audio import SAMPLE_RATE
from model.features.audio.conditioning import FRAME, LEVEL_DBFS, MARGIN, condition, speech_span
from model.types import FloatArray
from tests.support.sound import voice_like
from tests.support.speech import SENTENCES, speak

TOLERANCE = 320  # samples, 20 ms


def level(waveform: FloatArray) -> float:
    return 10 * float(np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12))


def recorded(sentence: str) -> FloatArray:
    """Generated speech with a tenth of a second of silence around it, and noise."""
    speech = np.pad(np.trim_zeros(speak(sentence)), SAMPLE_RATE // 10)
    return speech + (1e-4 * np.random.default_rng(0).standard_normal(speech.size)).astype(np.float32)


SPEECH = recorded(SENTENCES[1])


def silence(seconds: float, dbfs: float | None, seed: int = 0) -> FloatArray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return (noise * (0.0 if dbfs is None else 10 ** (dbfs / 20))).astype(np.float32)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize(("before", "after"), [(0.5, 0.0), (0.0, 1.003), (2.0, 2.0), (0.317, 1.2)])
@pytest.mark.parametrize("dbfs", [None, -95.0, -80.0])
def test_surrounding_silence_does_not_change_the_result(
    sentence: str, before: float, after: float, dbfs: float | None
) -> None:
    speech = recorded(sentence)
    padded = np.concatenate([silence(before, dbfs), speech, silence(after, dbfs, 1)])
    alone, among = condition(speech), condition(padded)
    shift = speech_span(padded)[0] - round(before * SAMPLE_RATE) - speech_span(speech)[0]
    assert abs(shift) <= TOLERANCE
    assert abs(shift + among.size - alone.size) <= TOLERANCE
    # The overlapping part of both.
    ours, theirs = alone[max(0, shift) :], among[max(0, -shift) :]
    size = min(ours.size, theirs.size)
    assert abs(level(ours[:size]) - level(theirs[:size])) < 0.5
    assert np.corrcoef(ours[:size], theirs[:size])[0, 1] > 0.999


def test_silence_around_speech_is_trimmed_up_to_the_margin() -> None:
    speech = np.trim_zeros(speak(SENTENCES[0]))
    alone, among = condition(speech), condition(np.pad(speech, SAMPLE_RATE))
    assert alone.size >= speech.size - TOLERANCE
    more = among.size - alone.size
    assert -TOLERANCE <= more <= 2 * MARGIN * FRAME + TOLERANCE


@pytest.mark.parametrize("dbfs", [-60.0, -50.0])
def test_speech_in_noise_is_found(dbfs: float) -> None:
    speech = np.trim_zeros(speak(SENTENCES[0]))
    room = silence(3.0 + speech.size / SAMPLE_RATE, dbfs)
    room[SAMPLE_RATE : SAMPLE_RATE + speech.size] += speech
    begin, end = speech_span(room)
    # Sounds below the noise may be lost at the ends, at most a tenth of the speech.
    assert abs(begin - SAMPLE_RATE) < 0.1 * speech.size
    assert end - begin == pytest.approx(speech.size, rel=0.1)


@pytest.mark.parametrize(
    "waveform", [voice_like(2.0), voice_like(0.5), silence(1.0, -20.0)], ids=["2s", "0.5s", "hiss"]
)
def test_clip_without_pauses_is_not_trimmed(waveform: FloatArray) -> None:
    assert speech_span(waveform) == (0, waveform.size)
    assert condition(waveform).size == waveform.size


@pytest.mark.parametrize("gain", [0.05, 0.5, 4.0])
def test_gain_does_not_change_the_result(gain: float) -> None:
    louder = SPEECH * np.float32(gain)
    plain, scaled = condition(SPEECH), condition(louder)
    assert speech_span(SPEECH) == speech_span(louder)
    assert np.abs(plain - scaled).max() < 1e-3 * np.abs(plain).max()


def test_speech_is_scaled_to_the_level() -> None:
    pressed = np.concatenate([silence(1.0, None), voice_like(2.0) * np.float32(0.01), silence(1.0, None)])
    assert level(condition(pressed)[MARGIN * FRAME : -MARGIN * FRAME]) == pytest.approx(LEVEL_DBFS, abs=1.5)


@pytest.mark.parametrize("size", [1, 7, FRAME - 1, FRAME, FRAME + 1, 512, 1_000, 16_001])
@pytest.mark.parametrize("kind", ["zeros", "constant", "noise", "impulse", "last"])
def test_any_waveform_gives_finite_samples_of_the_span(size: int, kind: str) -> None:
    waveform = np.zeros(size, dtype=np.float32)
    if kind == "constant":
        waveform += 0.25
    elif kind == "noise":
        waveform = silence(size / SAMPLE_RATE, -30.0)
    elif kind != "zeros":
        waveform[0 if kind == "impulse" else -1] = 1.0
    conditioned = condition(waveform)
    begin, end = speech_span(waveform)
    assert conditioned.dtype == np.float32
    assert np.isfinite(conditioned).all()
    assert 0 <= begin < end <= size
    assert conditioned.size == end - begin >= min(size, (MARGIN + 1) * FRAME)
    if kind in {"zeros", "constant"}:
        assert conditioned.size == size
    if kind == "zeros":
        assert not conditioned.any()


def test_empty_waveform_stays_empty() -> None:
    assert condition(np.zeros(0, dtype=np.float32)).size == 0


@pytest.mark.parametrize("milliseconds", [0.1, 2, 10])
@pytest.mark.parametrize("place", [0.0, 0.4])
def test_click_before_the_speech_is_trimmed(milliseconds: float, place: float) -> None:
    lead = silence(1.0, -80.0)
    first = round(place * SAMPLE_RATE)
    lead[first : first + max(1, round(milliseconds * SAMPLE_RATE / 1000))] = 0.9
    clicked = np.concatenate([lead, SPEECH])
    assert speech_span(clicked)[0] >= SAMPLE_RATE + speech_span(SPEECH)[0] - TOLERANCE
    assert abs(level(condition(clicked)) - level(condition(SPEECH))) < 0.5


def test_condition_does_not_modify_its_input() -> None:
    before = SPEECH.copy()
    condition(SPEECH)
    np.testing.assert_array_equal(SPEECH, before)
