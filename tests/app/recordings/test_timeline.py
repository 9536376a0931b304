import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from app.api.response import compose, model_name
from app.api.schemas import Prediction
from app.engine.predictor import Options, PreparedRequest
from app.errors import CorruptPart, Unprocessable
from app.offline import LocalModel
from app.recordings.levels import SpeakerLevels
from app.recordings.schemas import GapLine, Line, RecordingLine, SummaryLine, UtteranceLine
from app.recordings.timeline import Answer, Prepare, Recording, encode, timeline
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


def lines_from(
    local: LocalModel, found: Recording, prepare: Prepare | None = None, answer: Answer | None = None, **options: bool
) -> AsyncGenerator[Line]:
    """Return the lines with steps of the test's own, or those of the model."""
    model = model_name(local.predictor.pipeline.checkpoint)
    ours = steps(local)
    return timeline(found, model, prepare or ours[0], answer or ours[1], **options)


def steps(local: LocalModel, *, explain: bool = False) -> tuple[Prepare, Answer]:
    async def prepare(form: RawForm) -> PreparedRequest:
        return await asyncio.to_thread(local.prepare, form, Options(explain=explain))

    async def answer(request: PreparedRequest) -> Prediction:
        return compose(uuid4().hex, await asyncio.to_thread(local.decide, request), parsed=0.0)

    return prepare, answer


async def lines_of(local: LocalModel, found: Recording, *, explain: bool = False) -> list[Line]:
    return [line async for line in lines_from(local, found, *steps(local, explain=explain))]


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
    prepare_one, answer_one = steps(local)

    async def prepare(form: RawForm) -> PreparedRequest:
        nonlocal running, most
        running += 1
        most = max(most, running)
        return await prepare_one(form)

    async def answer(request: PreparedRequest) -> Prediction:
        nonlocal running
        prediction = await answer_one(request)
        running -= 1
        return prediction

    cues = [Cue(float(n), n + 1.0, "Hi.") for n in range(12)]
    found = recording(local, cues, recording_parallel=3)
    lines = [line async for line in lines_from(local, found, prepare, answer)]
    assert [line.start for line in lines if isinstance(line, UtteranceLine)] == list(range(12))
    assert most <= 3


async def test_a_failing_utterance_cancels_those_after_it(local: LocalModel) -> None:
    cancelled: list[bool] = []

    async def answer(request: PreparedRequest) -> Prediction:
        if request.text == "Sentence 0.":
            raise Unprocessable("The model cannot process this input.")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError("the event is never set")

    lines = lines_from(local, recording(local, CUES), answer=answer)
    assert (await anext(lines)).type == "recording"
    with pytest.raises(Unprocessable) as caught:
        await anext(lines)
    assert caught.value.status == 422
    assert all(cancelled)


async def test_lines_before_a_part_that_is_not_accepted_are_sent(local: LocalModel) -> None:
    refused = asyncio.Event()
    prepare_one, answer_one = steps(local)

    async def prepare(form: RawForm) -> PreparedRequest:
        if form.text == b"Sentence 1.":
            refused.set()
            raise CorruptPart("a part is not accepted", part="text")
        return await prepare_one(form)

    async def answer(request: PreparedRequest) -> Prediction:
        await refused.wait()
        return await answer_one(request)

    lines = lines_from(local, recording(local, CUES), prepare, answer)
    assert [(await anext(lines)).type, (await anext(lines)).type] == ["recording", "utterance"]
    with pytest.raises(CorruptPart) as caught:
        await anext(lines)
    assert caught.value.place == "utterance at 4.000 s"


def normalized(line: Line) -> tuple[bool, bool]:
    assert isinstance(line, UtteranceLine)
    return line.modalities.audio.speaker_normalized, line.modalities.visual.speaker_normalized


async def faces_given(local: LocalModel, *, speaker_normalization: bool) -> tuple[list[Line], list[FloatArray]]:
    """Return the lines of a recording, and the features of each face that the network was given."""
    faces: list[FloatArray] = []
    prepare, answer_one = steps(local)

    async def answer(request: PreparedRequest) -> Prediction:
        assert request.visual is not None
        faces.append(request.visual.values)
        return await answer_one(request)

    found = recording(local, CUES, voice(), face(), recording_parallel=1)
    lines = lines_from(local, found, prepare, answer, speaker_normalization=speaker_normalization)
    return [line async for line in lines], faces


async def test_voice_and_face_are_relative_to_their_speaker(local: LocalModel) -> None:
    lines, faces = await faces_given(local, speaker_normalization=True)
    plain_lines, plain_faces = await faces_given(local, speaker_normalization=False)
    assert [normalized(line) for line in lines[1:-1]] == [(True, True), (False, True), (True, True)]
    assert [normalized(line) for line in plain_lines[1:-1]] == [(False, False)] * 3
    levels = SpeakerLevels()
    expected = [levels.relative("Anna", Modality.VISUAL, plain) for plain in plain_faces]
    assert np.array_equal(faces, expected)
    assert not np.array_equal(faces, plain_faces)


async def test_an_utterance_without_a_speaker_is_not_normalized(local: LocalModel) -> None:
    cues = [Cue(0.0, 4.0, "Hi.")]
    lines = await lines_of(local, recording(local, cues, voice()[:64_000], face()))
    assert normalized(lines[1]) == (False, False)


async def test_levels_follow_the_order_of_the_recording(local: LocalModel) -> None:
    """Utterances whose preparation ends in another order get the same answers."""
    prepare_one, _ = steps(local)
    ended = {text: asyncio.Event() for text in (b"Sentence 0.", b"Sentence 1.", b"Sentence 2.")}

    async def prepare(form: RawForm) -> PreparedRequest:
        text = form.text or b""
        # The last one first: each waits for its successor.
        if (successor := ended.get(b"Sentence %d." % (int(text[-2:-1]) + 1))) is not None:
            await successor.wait()
        request = await prepare_one(form)
        ended[text].set()
        return request

    def probabilities(lines: list[Line]) -> list[dict[str, float]]:
        return [line.probabilities for line in lines if isinstance(line, UtteranceLine)]

    in_order = await lines_of(local, recording(local, CUES, voice(), face(), recording_parallel=1))
    found = recording(local, CUES, voice(), face(), recording_parallel=4)
    reversed_ = [line async for line in lines_from(local, found, prepare)]
    assert len(probabilities(in_order)) == len(CUES)
    assert probabilities(reversed_) == probabilities(in_order)
