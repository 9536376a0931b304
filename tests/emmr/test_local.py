import asyncio
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import emmr
from app.api.schemas import ExplainedPrediction
from app.recordings.schemas import UtteranceLine
from model.errors import CheckpointError
from tests.support.openface import simulate_openface_csv
from tests.support.service import Part

SRT = b"1\n00:00:00,000 --> 00:00:02,000\nWhat a lovely surprise!\n\n2\n00:00:02,500 --> 00:00:04,000\nThank you.\n"


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> emmr.Model:
    return emmr.load(tiny_weights, device="cpu")


def test_name_is_that_of_the_weights(model: emmr.Model) -> None:
    assert (model.name.name, model.name.classes) == ("tiny", ["negative", "neutral", "positive"])


def test_paths_and_contents_get_the_same_answer(model: emmr.Model, parts: Mapping[str, Part], tmp_path: Path) -> None:
    sound, face = parts["audio"][1], parts["openface"][1]
    (tmp_path / "voice.wav").write_bytes(sound)
    (tmp_path / "face.csv").write_bytes(face)
    of_contents = model.predict(text="Hello", audio=sound, openface=face)
    of_paths = model.predict(text="Hello", audio=tmp_path / "voice.wav", openface=str(tmp_path / "face.csv"))
    assert of_contents.probabilities == of_paths.probabilities
    assert [use.status for _, use in of_paths.modalities] == ["present"] * 3


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_samples_get_the_answer_of_their_file(model: emmr.Model, parts: Mapping[str, Part], kind: str) -> None:
    samples, rate = soundfile.read(io.BytesIO(parts["audio"][1]), dtype=kind)
    of_file, of_samples = (model.predict(audio=audio) for audio in (parts["audio"][1], (samples, rate)))
    assert of_samples.probabilities == pytest.approx(of_file.probabilities, abs=1e-5)
    assert of_samples.modalities.audio == of_file.modalities.audio


def test_samples_of_another_type_are_refused(model: emmr.Model) -> None:
    with pytest.raises(TypeError) as refused:
        model.predict(audio=(np.zeros(16_000, dtype=np.uint8), 16_000))
    assert "not uint8" in str(refused.value)


def test_prediction_works_where_an_event_loop_runs(model: emmr.Model) -> None:
    async def predict() -> emmr.Prediction:
        return model.predict(text="Hello", explain=True)

    assert isinstance(asyncio.run(predict()), ExplainedPrediction)


def test_input_that_is_not_accepted_is_a_service_error(model: emmr.Model) -> None:
    with pytest.raises(emmr.ServiceError) as refused:
        model.predict(openface=b"{}")
    assert (refused.value.status, refused.value.title, refused.value.faults[0].part) == (
        422,
        "Corrupt part",
        "openface",
    )


@pytest.mark.parametrize("arguments", [{}, {"text": "Hello", "threshold": 2.0}])
def test_arguments_without_a_meaning_are_refused(model: emmr.Model, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give at least one|not a probability") as refused:
        model.predict(**arguments)
    assert str(refused.value)


def test_weights_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        emmr.load(tmp_path / "none")
    assert "none" in str(refused.value)


def test_timeline_has_a_line_for_each_utterance_and_a_summary(model: emmr.Model) -> None:
    lines = list(model.timeline(transcript=SRT))
    assert [line.type for line in lines] == ["recording", "utterance", "utterance", "summary"]


def test_timeline_reads_sound_from_memory(model: emmr.Model, parts: Mapping[str, Part]) -> None:
    first, *_, last = model.timeline(audio=parts["audio"][1], transcript=SRT)
    assert (first.type, last.type) == ("recording", "summary")


def test_timeline_transcribes_on_demand(
    model: emmr.Model, parts: Mapping[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model._local, "transcriber", None)
    with pytest.raises(emmr.ServiceError) as refused:
        list(model.timeline(audio=parts["audio"][1], transcript=SRT, transcribe="always"))
    assert "the extra asr is not installed" in str(refused.value)


def test_timeline_is_not_relative_to_speakers_if_switched_off(model: emmr.Model) -> None:
    cues, face = b"start,end,text,speaker\n0,2,Hello.,Anna\n", simulate_openface_csv(60, "action_units")
    found = model.timeline(transcript=cues, openface=face, speaker_normalization=False, threshold=0.25)
    line = list(found)[1]
    assert isinstance(line, UtteranceLine)
    assert line.modalities.visual.status == "present"
    assert not line.modalities.visual.speaker_normalized
    assert line.key_missing.threshold == 0.25


def test_timeline_may_be_left_before_its_end(model: emmr.Model) -> None:
    lines = model.timeline(transcript=SRT)
    assert next(lines).type == "recording"
    lines.close()
    assert next(lines, None) is None


def test_timeline_of_a_malformed_transcript_is_a_service_error(model: emmr.Model) -> None:
    with pytest.raises(emmr.ServiceError) as refused:
        list(model.timeline(transcript=b"1\n00:00:02,000 --> 00:00:01,000\nHello\n"))
    assert refused.value.faults[0].part == "transcript"


def test_timeline_of_nothing_is_refused(model: emmr.Model) -> None:
    with pytest.raises(ValueError, match="at least one") as refused:
        next(model.timeline())
    assert str(refused.value)
