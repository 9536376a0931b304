import asyncio
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from app.api.response import compose, model_name
from app.api.schemas import Prediction
from app.engine.predictor import Options
from app.errors import CorruptPart, Unprocessable
from app.offline import LocalModel
from app.recordings.schemas import GapLine, Line, RecordingLine, SummaryLine, UtteranceLine
from app.recordings.timeline import Recording, encode, timeline
from app.recordings.transcript import Cue, Transcript
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import EmptyModality
from model.modality import Modality
from model.types import FloatArray
from tests.support.openface import simulate_openface_csv
from tests.support.recordings import make_faces, make_sound
from tests.support.sound import voice_like

pytestmark = pytest.mark.anyio

SECONDS = 12
CUES = [Cue(4.0 * n, 4.0 * (n + 1), f"Sentence {n}.", "Anna") for n in range(SECONDS // 4)]


@pytest.fixture(scope="module")
def local(tiny_weights: Path) -> LocalModel:
    return LocalModel.load(Settings(weights=tiny_weights, device="cpu"))


def recording(
    local: LocalModel,
    cues: Sequence[Cue] | None = None,
    sound: FloatArray | None = None,
    faces: bytes | None = None,
    **settings: float,
) -> Recording:
    return Recording(
        local.predictor.pipeline.config,
        local.settings.model_copy(update=settings),
        sound=None if sound is None else make_sound(sound),
        faces=None if faces is None else make_faces(faces),
        transcript=None if cues is None else Transcript("srt", cues),
    )


async def lines_of(local: LocalModel, found: Recording, *, explain: bool = False) -> list[Line]:
    async def answer(form: RawForm) -> Prediction:
        result = await asyncio.to_thread(local.answer, form, Options(explain=explain))
        return compose(uuid4().hex, result, parsed=0.0)

    return [line async for line in timeline(found, model_name(local.predictor.pipeline.checkpoint), answer)]


def statuses(line: Line) -> list[str]:
    assert isinstance(line, UtteranceLine | GapLine)
    return [use.reason or use.status for _, use in line.modalities]


def voice() -> FloatArray:
    return np.concatenate([voice_like(4.0), np.zeros(64_000, dtype=np.float32), voice_like(4.0)])


def face(lost_from: float = 1e9, lost_until: float = 1e9) -> bytes:
    success = [0 if lost_from <= n / 30 < lost_until else 1 for n in range(30 * SECONDS)]
    return simulate_openface_csv(30 * SECONDS, "action_units", success=success)


async def test_lines_are_recording_then_utterances_in_order_then_summary(local: LocalModel) -> None:
    lines = await lines_of(local, recording(local, CUES, voice(), face()))
    assert [line.type for line in lines] == ["recording", "utterance", "utterance", "utterance", "summary"]
    assert [line.index for line in lines if isinstance(line, UtteranceLine)] == [0, 1, 2]
    first, last = lines[0], lines[-1]
    assert isinstance(first, RecordingLine)
    assert isinstance(last, SummaryLine)
    assert first.duration == SECONDS
    assert last.by_speaker["Anna"].seconds == SECONDS


async def test_silence_and_a_lost_face_are_missing_with_their_reasons(local: LocalModel) -> None:
    lines = await lines_of(local, recording(local, CUES, voice(), face(5.0, 8.0)))
    assert [statuses(line) for line in lines[1:-1]] == [
        ["present", "present", "present"],
        ["present", "silent", "face_lost"],
        ["present", "present", "present"],
    ]
    last = lines[-1]
    assert isinstance(last, SummaryLine)
    for modality, start, end in (("audio", 4.0, 8.0), ("visual", 5.0, 8.0)):
        (span,) = last.missing[modality]
        assert (span.start, span.end) == pytest.approx((start, end), abs=0.3)


async def test_the_least_coverage_of_a_face_is_a_setting(local: LocalModel) -> None:
    found = recording(local, CUES, None, face(5.0, 8.0), recording_min_coverage=0.2)
    lines = await lines_of(local, found)
    assert statuses(lines[2]) == ["present", "not_provided", "present"]
    line = lines[2]
    assert isinstance(line, UtteranceLine)
    assert line.modalities.visual.coverage == pytest.approx(0.25, abs=0.02)


async def test_only_the_beginning_of_a_long_utterance_counts(local: LocalModel) -> None:
    found = recording(local, [Cue(0.0, 12.0, "Hi.")], voice(), face(), max_audio_seconds=4.0)
    line = (await lines_of(local, found))[1]
    assert isinstance(line, UtteranceLine)
    assert line.warnings[-1].code == "utterance_truncated"
    assert (line.modalities.audio.seconds, line.modalities.visual.frames) == (4.0, 120)


async def test_a_cue_without_words_is_missing_them(local: LocalModel) -> None:
    lines = await lines_of(local, recording(local, [Cue(0.0, 4.0, "")], voice()[:64_000]))
    assert statuses(lines[1]) == ["no_words", "present", "not_provided"]


async def test_a_stretch_with_nothing_is_a_gap(local: LocalModel) -> None:
    lines = await lines_of(local, recording(local, [Cue(8.0, 9.0, "Hi.")], np.zeros(16_000 * 8, dtype=np.float32)))
    gap = lines[1]
    assert isinstance(gap, GapLine)
    assert (gap.start, gap.end) == (0.0, 8.0)
    assert gap.reasons == {"text": "no_words", "audio": "silent", "visual": "not_provided"}
    assert statuses(lines[2]) == ["present", "past_end", "not_provided"]


async def test_cues_past_the_end_are_a_warning(local: LocalModel) -> None:
    lines = await lines_of(local, recording(local, [*CUES, Cue(20.0, 21.0, "Late.")], voice()))
    first = lines[0]
    assert isinstance(first, RecordingLine)
    assert [warning.code for warning in first.warnings] == ["cues_past_end"]
    assert "number 4" in first.warnings[0].detail


async def test_a_sound_without_samples_is_missing_everywhere(local: LocalModel) -> None:
    found = recording(local, CUES)
    found.empty = EmptyModality(Modality.AUDIO, "too_short", "the file holds no sample")
    lines = await lines_of(local, found)
    assert statuses(lines[1]) == ["present", "too_short", "not_provided"]


async def test_corrupt_rows_are_named_by_their_line_in_the_whole_file(local: LocalModel) -> None:
    rows = face().splitlines(keepends=True)
    rows[200] = rows[200].rsplit(b",", 1)[0] + b", 1e999\n"
    with pytest.raises(CorruptPart) as caught:
        await lines_of(local, recording(local, CUES, None, b"".join(rows)))
    assert (caught.value.part, caught.value.place) == ("openface", "line 201, column AU45_c")


async def test_warnings_name_lines_of_the_whole_file(local: LocalModel) -> None:
    rows = face().splitlines(keepends=True)
    rows[200] = rows[200].rsplit(b",", 1)[0] + b", 1.5\n"
    line = (await lines_of(local, recording(local, CUES, None, b"".join(rows))))[2]
    assert isinstance(line, UtteranceLine)
    (warning,) = [warning for warning in line.warnings if warning.code == "out_of_scale"]
    assert "line 201, column AU45_c" in warning.detail


async def test_votes_are_sent_on_request_alone(local: LocalModel) -> None:
    line = (await lines_of(local, recording(local, CUES[:1]), explain=True))[1]
    assert isinstance(line, UtteranceLine)
    assert line.votes
    assert b'"votes"' in encode(line, explain=True)
    assert b'"votes"' not in encode(line)


async def test_few_utterances_are_answered_at_the_same_time(local: LocalModel) -> None:
    running = most = 0

    async def answer(form: RawForm) -> Prediction:
        nonlocal running, most
        running += 1
        most = max(most, running)
        result = await asyncio.to_thread(local.answer, form, Options())
        running -= 1
        return compose(uuid4().hex, result, parsed=0.0)

    cues = [Cue(float(n), n + 1.0, "Hi.") for n in range(12)]
    found = recording(local, cues, recording_parallel=3)
    lines = [line async for line in timeline(found, model_name(local.predictor.pipeline.checkpoint), answer)]
    assert [line.start for line in lines if isinstance(line, UtteranceLine)] == list(range(12))
    assert most <= 3


async def test_a_failing_utterance_cancels_those_after_it(local: LocalModel) -> None:
    cancelled: list[bool] = []

    async def answer(form: RawForm) -> Prediction:
        if form.text == b"Sentence 0.":
            raise Unprocessable("The model cannot process this input.")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError("the event is never set")

    lines = timeline(recording(local, CUES), model_name(local.predictor.pipeline.checkpoint), answer)
    assert (await anext(lines)).type == "recording"
    with pytest.raises(Unprocessable) as caught:
        await anext(lines)
    assert caught.value.status == 422
    assert all(cancelled)
