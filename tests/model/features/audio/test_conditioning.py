import numpy as np
import pytest

from model.features.audio.conditioning import FRAME, LEVEL_DBFS, MARGIN, condition
from model.features.audio.dsp.stft import SAMPLE_RATE
from model.types import FloatArray
from tests.support.sound import voice_like
from tests.support.speech import SENTENCES, speak

TOLERANCE = 320  # samples, 20 ms


def level(waveform: FloatArray) -> float:
    return 10 * float(np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12))


def recorded(sentence: str) -> FloatArray:
    """Generated speech, a tenth of a second around it, over a floor of noise, as every recording has one."""
    speech = np.pad(np.trim_zeros(speak(sentence)), SAMPLE_RATE // 10)
    return speech + (1e-4 * np.random.default_rng(0).standard_normal(speech.size)).astype(np.float32)


SPEECH = recorded(SENTENCES[1])


def silence(seconds: float, dbfs: float | None, seed: int = 0) -> FloatArray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return (noise * (0.0 if dbfs is None else 10 ** (dbfs / 20))).astype(np.float32)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize(("before", "after"), [(0.5, 0.0), (0.0, 1.003), (2.0, 2.0), (0.317, 1.2)])
@pytest.mark.parametrize("dbfs", [None, -95.0, -80.0])
def test_what_surrounds_the_speech_changes_nothing(
    sentence: str, before: float, after: float, dbfs: float | None
) -> None:
    speech = recorded(sentence)
    alone = condition(speech)
    among = condition(np.concatenate([silence(before, dbfs), speech, silence(after, dbfs, 1)]))
    shift = among.start - round(before * SAMPLE_RATE) - alone.start
    assert abs(shift) <= TOLERANCE
    assert abs(shift + among.waveform.size - alone.waveform.size) <= TOLERANCE
    # The same stretch of both, where they overlap.
    ours, theirs = alone.waveform[max(0, shift) :], among.waveform[max(0, -shift) :]
    size = min(ours.size, theirs.size)
    assert abs(level(ours[:size]) - level(theirs[:size])) < 0.5
    assert np.corrcoef(ours[:size], theirs[:size])[0, 1] > 0.999


def test_a_clip_cut_at_the_speech_differs_by_the_margin_alone() -> None:
    speech = np.trim_zeros(speak(SENTENCES[0]))
    alone, among = condition(speech), condition(np.pad(speech, SAMPLE_RATE))
    assert alone.waveform.size >= speech.size - TOLERANCE
    more = among.waveform.size - alone.waveform.size
    assert -TOLERANCE <= more <= 2 * MARGIN * FRAME + TOLERANCE


@pytest.mark.parametrize("dbfs", [-60.0, -50.0])
def test_speech_in_a_noisy_room_is_found(dbfs: float) -> None:
    speech = np.trim_zeros(speak(SENTENCES[0]))
    room = silence(3.0 + speech.size / SAMPLE_RATE, dbfs)
    room[SAMPLE_RATE : SAMPLE_RATE + speech.size] += speech
    found = condition(room)
    # Sounds under the noise may be lost at the ends, at most a tenth of the speech.
    assert abs(found.start - SAMPLE_RATE) < 0.1 * speech.size
    assert found.waveform.size == pytest.approx(speech.size, rel=0.1)


@pytest.mark.parametrize(
    "waveform", [voice_like(2.0), voice_like(0.5), silence(1.0, -20.0)], ids=["2s", "0.5s", "hiss"]
)
def test_a_clip_without_pauses_is_kept_whole(waveform: FloatArray) -> None:
    conditioned = condition(waveform)
    assert conditioned.start == 0
    assert conditioned.waveform.size == waveform.size
    assert conditioned.active > 0.8


@pytest.mark.parametrize("gain", [0.05, 0.5, 4.0])
def test_gain_makes_no_difference(gain: float) -> None:
    plain, scaled = condition(SPEECH), condition(SPEECH * np.float32(gain))
    assert (plain.start, plain.active) == (scaled.start, scaled.active)
    assert np.abs(plain.waveform - scaled.waveform).max() < 1e-3 * np.abs(plain.waveform).max()


def test_speech_is_brought_to_one_level() -> None:
    pressed = np.concatenate([silence(1.0, None), voice_like(2.0) * np.float32(0.01), silence(1.0, None)])
    assert level(condition(pressed).waveform[MARGIN * FRAME : -MARGIN * FRAME]) == pytest.approx(LEVEL_DBFS, abs=1.5)


@pytest.mark.parametrize("size", [1, 7, FRAME - 1, FRAME, FRAME + 1, 512, 1_000, 16_001])
@pytest.mark.parametrize("kind", ["zeros", "constant", "noise", "impulse", "last"])
def test_any_waveform_gives_finite_samples_and_none_more(size: int, kind: str) -> None:
    waveform = np.zeros(size, dtype=np.float32)
    if kind == "constant":
        waveform += 0.25
    elif kind == "noise":
        waveform = silence(size / SAMPLE_RATE, -30.0)
    elif kind != "zeros":
        waveform[0 if kind == "impulse" else -1] = 1.0
    conditioned = condition(waveform)
    assert conditioned.waveform.dtype == np.float32
    assert np.isfinite(conditioned.waveform).all()
    assert 0 <= conditioned.start < size
    assert min(size, (MARGIN + 1) * FRAME) <= conditioned.waveform.size <= size - conditioned.start
    assert 0 < conditioned.active <= 1
    if kind in {"zeros", "constant"}:
        assert conditioned.waveform.size == size
    if kind == "zeros":
        assert not conditioned.waveform.any()


def test_no_samples_stay_none() -> None:
    assert condition(np.zeros(0, dtype=np.float32)).waveform.size == 0


@pytest.mark.parametrize("milliseconds", [0.1, 2, 10])
@pytest.mark.parametrize("place", [0.0, 0.4])
def test_a_click_before_the_speech_is_not_taken_for_speech(milliseconds: float, place: float) -> None:
    lead = silence(1.0, -80.0)
    first = round(place * SAMPLE_RATE)
    lead[first : first + max(1, round(milliseconds * SAMPLE_RATE / 1000))] = 0.9
    alone, clicked = condition(SPEECH), condition(np.concatenate([lead, SPEECH]))
    assert clicked.start >= SAMPLE_RATE + alone.start - TOLERANCE
    assert abs(level(clicked.waveform) - level(alone.waveform)) < 0.5


def test_the_input_is_left_as_it_was() -> None:
    before = SPEECH.copy()
    condition(SPEECH)
    np.testing.assert_array_equal(SPEECH, before)
