import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.recordings.segmentation import FRAME, Segmentation, Span, SpeechDetector, _network, speech
from app.recordings.transcript import Cue
from model.types import FloatArray
from tests.support.openface import simulate_openface_csv
from tests.support.recordings import make_faces, make_sound
from tests.support.speech import SENTENCES, speak


def silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * 16_000), dtype=np.float32)


@pytest.fixture(scope="module")
def talk() -> tuple[FloatArray, list[tuple[float, float]]]:
    """Three sentences with silence around them, and their times."""
    parts, times = [silence(1.5)], []
    for sentence, pause in zip(SENTENCES[:3], (3.0, 0.2, 4.0), strict=True):
        begin = sum(map(len, parts)) / 16_000
        parts += [speak(sentence), silence(pause)]
        times.append((begin, begin + len(parts[-2]) / 16_000))
    return np.concatenate(parts), times


def spans(*args: Any, speakers: bool = False) -> list[Span]:
    return list(Segmentation(*args, speakers=speakers).spans())


def times(found: list[Span]) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in found]


def test_the_network_computes_as_the_package_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's own program has newer weights; here they are put into this network.
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the format
        program = torch.jit.load(str(Path(spec.submodule_search_locations[0], "data", "silero_vad.jit")))
    parameters = dict(program.named_parameters())
    found = {n.removeprefix("_model."): p.detach() for n, p in parameters.items() if n.startswith("_model.")}
    weights, _ = _network()
    theirs = {"stft_conv.weight": weights["stft_conv.weight"]}
    for number in range(4):
        for kind in ("weight", "bias"):
            theirs[f"conv{number + 1}.{kind}"] = found[f"encoder.{number}.reparam_conv.{kind}"]
    lstm = torch.nn.LSTM(128, 128)
    lstm.load_state_dict({f"{name.removeprefix('decoder.rnn.')}_l0": found[name] for name in found if "rnn" in name})
    theirs |= {f"final_conv.{kind}": found[f"decoder.decoder.2.{kind}"] for kind in ("weight", "bias")}
    monkeypatch.setattr("app.recordings.segmentation._network", lambda: (theirs, lstm))
    waveform = np.concatenate([speak(SENTENCES[0]), silence(0.5)])
    frames = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % FRAME))).reshape(-1, 1, FRAME)
    with torch.no_grad():
        expected = [float(program(frame, 16_000)) for frame in frames]
    assert SpeechDetector()(waveform) == pytest.approx(expected, abs=1e-4)


def test_parts_of_a_sound_give_what_the_whole_gives(talk: tuple[FloatArray, object]) -> None:
    waveform, detector = talk[0], SpeechDetector()
    parts = [detector(waveform[: 50 * FRAME]), detector(waveform[50 * FRAME :])]
    assert np.concatenate(parts) == pytest.approx(SpeechDetector()(waveform), abs=1e-5)


def test_speech_is_found_where_it_is(talk: tuple[FloatArray, list[tuple[float, float]]]) -> None:
    waveform, spoken = talk
    found = [(span.start, span.end) for span in speech(make_sound(waveform), 0.0, 60.0)]
    # The pause of 0.2 s is part of an utterance.
    assert np.array(found) == pytest.approx(np.array([spoken[0], (spoken[1][0], spoken[2][1])]), abs=0.3)


def test_long_speech_is_cut() -> None:
    sound = make_sound(np.concatenate([speak(sentence) for sentence in 4 * SENTENCES]))
    found = list(speech(sound, 0.0, sound.duration))
    assert len(found) >= 2
    assert max(span.end - span.start for span in found) < 15.5
    assert all(first.end <= second.start for first, second in pairwise(found))


def test_cues_become_spans_with_their_words_and_speakers() -> None:
    cues = [Cue(0.0, 1.0, "Hi.", "Anna"), Cue(1.0, 2.0, "")]
    assert spans(2.0, cues, None, None) == [Span(0.0, 1.0, "Hi.", "Anna"), Span(1.0, 2.0, None)]


def test_speech_without_a_cue_fills_the_time_between_cues(talk: tuple[FloatArray, list[tuple[float, float]]]) -> None:
    waveform, spoken = talk
    cues = [Cue(0.0, 1.2, "Hi."), Cue(spoken[0][1] + 0.6, spoken[2][1], "Bye.")]
    found = spans(spoken[2][1], cues, make_sound(waveform), None)
    assert times(found) == [(0.0, 1.2), (1.2, spoken[0][1] + 0.6), cues[1][:2]]
    assert [span.text for span in found] == ["Hi.", None, "Bye."]


def test_long_silence_is_a_gap_or_windows_over_the_face(talk: tuple[FloatArray, object]) -> None:
    sound = make_sound(silence(12.0))
    assert spans(12.0, None, sound, None) == [Span(0.0, 12.0, silent=True)]
    faces = make_faces(simulate_openface_csv(360, "action_units"))
    assert times(spans(12.0, None, sound, faces)) == [(0.0, 4.0), (4.0, 8.0), (8.0, 12.0)]


def test_short_pauses_are_no_spans(talk: tuple[FloatArray, list[tuple[float, float]]]) -> None:
    waveform, spoken = talk
    found = spans(len(waveform) / 16_000, None, make_sound(waveform), None)
    assert [span.silent for span in found] == [False, True, False, True]
    assert found[0].start == pytest.approx(spoken[0][0], abs=0.3)


def test_each_channel_is_a_speaker(talk: tuple[FloatArray, object]) -> None:
    one, two = np.concatenate([speak(SENTENCES[0]), silence(3.0)]), np.concatenate([silence(3.0), speak(SENTENCES[0])])
    sound = make_sound(np.stack([one, two], axis=1))
    found = [span for span in spans(sound.duration, None, sound, None, speakers=True) if not span.silent]
    assert [(span.speaker, span.channel) for span in found] == [("channel 1", 0), ("channel 2", 1)]


def test_cues_are_spoken_by_the_loudest_channel() -> None:
    voice = speak(SENTENCES[0])
    sound = make_sound(np.stack([0.1 * voice, voice], axis=1))
    cues = [Cue(0.0, 0.5, "Kids"), Cue(0.5, 1.0, "talk.", "Anna")]
    found = spans(sound.duration, cues, sound, None, speakers=True)
    assert [(span.speaker, span.channel) for span in found[:2]] == [("channel 2", 1), ("Anna", 1)]
