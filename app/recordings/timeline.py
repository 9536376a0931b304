"""A recording → its lines: what was given, the answer to each utterance in order, and a summary."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias

from app.api import schemas
from app.engine.predictor import PreparedRequest
from app.errors import Fault, InvalidQuery, NothingUsable, UploadError, from_modality
from app.recordings.faces import Faces
from app.recordings.levels import SpeakerLevels
from app.recordings.schemas import (
    CoveredModalities,
    GapLine,
    Line,
    OpenFaceSource,
    ProblemLine,
    RecordingLine,
    SoundSource,
    Sources,
    TranscriptSource,
    UtteranceLine,
)
from app.recordings.sound import Sound, as_wav, silent_stretches, sounding_share
from app.recordings.summary import Summarizer
from app.recordings.transcript import Transcript, TranscriptLimits, read_transcript
from app.settings import Settings
from app.uploads.body import refuse_without_room
from app.uploads.form import RawForm
from model.config import ModelConfig
from model.errors import EmptyModality, ModalityError
from model.modality import Modality

if TYPE_CHECKING:
    from app.recordings.segmentation import Span

Channels: TypeAlias = Literal["mix", "speakers"]
Prepare: TypeAlias = Callable[[RawForm], Awaitable[PreparedRequest]]
"""Computes the features of the utterance that a form holds, and closes the form; raises as
`app.engine.engine.Engine.prepare_utterance`."""
Answer: TypeAlias = Callable[[PreparedRequest], Awaitable[schemas.Prediction]]
"""Answers a prepared utterance; raises as `app.engine.engine.Engine.answer_utterance`."""

Stretches: TypeAlias = list[tuple[float, float]]

DIGITS: Final = 3  # of seconds and of a coverage
MIN_SOUND: Final = 0.15
"""Seconds louder than silence that an utterance needs; less is the end of another one."""
SILENT_SHARE: Final = 0.1
"""A stretch without speech is silent up to this share of sound."""
SHORTEST_MISSING: Final = 1.0
"""Seconds without sound or face from which the summary lists a stretch."""
LATE: Final = 0.5  # seconds past the end from which a cue is reported
NOT_PROVIDED: Final = "not_provided"
_LINE: Final = re.compile(r"\bline (\d+)")


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a recording, which the caller closes; None for one that is not given.

    `audio` and `openface` have a descriptor and are at any position.
    """

    audio: IO[bytes] | None = None
    transcript: bytes | None = None
    openface: IO[bytes] | None = None


@dataclass(slots=True)
class Recording:
    """What was given of a recording; None where it was not.

    Args:
        config: of the weights that answer.
        settings: limits.
        channels: `speakers` where each channel of the sound is a speaker.
        sound: decoded.
        faces: indexed.
        transcript: read.
        empty: the sound's error, where its file holds no sample.
    """

    config: ModelConfig
    settings: Settings
    channels: Channels = "mix"
    sound: Sound | None = None
    faces: Faces | None = None
    transcript: Transcript | None = None
    empty: EmptyModality | None = None

    @property
    def media_duration(self) -> float:
        """Seconds of sound and face; 0 where there is neither."""
        return max(source.duration if source else 0.0 for source in (self.sound, self.faces))

    @property
    def duration(self) -> float:
        """Seconds of sound and face, or of the transcript where there is neither."""
        cues = () if self.transcript is None else self.transcript.cues
        return self.media_duration or max((cue.end for cue in cues), default=0.0)

    def warnings(self) -> dict[str, str]:
        """Return the warnings about the files."""
        found = dict(self.transcript.warnings) if self.transcript else {}
        end = self.media_duration
        if self.transcript is not None and end:
            late = [number for number, cue in enumerate(self.transcript.cues, start=1) if cue.end > end + LATE]
            if late:
                found["cues_past_end"] = (
                    f"{len(late)} cues end after the recording, which lasts {end:.3f} s; the first is number {late[0]} "
                    "by start."
                )
        if self.empty is not None:
            found[f"{self.empty.modality}_{self.empty.reason}"] = (
                f"The {self.empty.modality} counts as missing: {self.empty.detail}."
            )
        return found | (self.sound.warnings if self.sound else {})


@asynccontextmanager
async def open_recording(
    files: Files, config: ModelConfig, settings: Settings, channels: Channels = "mix"
) -> AsyncIterator[Recording]:
    """Read the transcript, decode the sound and index the face, side by side.

    Args:
        files: at least one.
        config: of the weights that answer.
        settings: limits.
        channels: `speakers` to take each channel of the sound as a speaker.

    Raises:
        UploadError, ModalityError: a file is not accepted; names the place.
        InvalidQuery: `speakers` for a sound of one channel.
        NoRoom: no space is left on disk for the samples.
    """
    recording = Recording(config, settings, channels)
    limits = TranscriptLimits(settings.recording_max_cues, settings.max_text_bytes, settings.recording_max_seconds)

    async def read_words(content: bytes) -> None:
        recording.transcript = await asyncio.to_thread(read_transcript, content, limits)

    async def read_sound(file: IO[bytes]) -> None:
        try:
            recording.sound = await Sound.decode(file, settings)
        except EmptyModality as error:
            recording.empty = error

    async def read_faces(file: IO[bytes]) -> None:
        recording.faces = await Faces.read(file, config.visual, settings)

    try:
        with refuse_without_room():
            await _side_by_side(
                read_words(files.transcript) if files.transcript is not None else None,
                read_sound(files.audio) if files.audio is not None else None,
                read_faces(files.openface) if files.openface is not None else None,
            )
        if channels == "speakers" and (recording.sound is None or recording.sound.channels < 2):
            detail = "channels=speakers needs a sound of two or more channels"
            raise InvalidQuery(detail, [Fault(part="audio", place="query.channels", detail=detail)])
        yield recording
    finally:
        if recording.sound is not None:
            recording.sound.close()


async def _side_by_side(*work: Coroutine[Any, Any, None] | None) -> None:
    """Await what is not None; the first failure cancels the rest, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in work:
                if part is not None:
                    group.create_task(part)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def timeline(
    recording: Recording,
    model: schemas.ModelName,
    prepare: Prepare,
    answer: Answer,
    *,
    speaker_normalization: bool = True,
) -> AsyncGenerator[Line]:
    """Yield the lines of a recording, each as soon as it and those before it are known.

    At most `recording_parallel` utterances are read and answered at the same time. They are prepared and answered in
    any order, and between the two made relative to their speakers' levels in the order of the recording, so that the
    answers are the same each time.

    Args:
        recording: stays open until the last line.
        model: that answers.
        prepare: called for each utterance.
        answer: called for each utterance of which something is usable.
        speaker_normalization: whether voice and face are made relative to their speaker's level.

    Raises:
        ServiceError: what `prepare` and `answer` raise, but for `NothingUsable`; places are those in the recording's
            files.
    """
    from app.recordings.segmentation import Segmentation  # imports PyTorch

    yield _first_line(recording, model)
    summarizer = Summarizer(recording.duration)
    cues = None if recording.transcript is None else recording.transcript.cues
    speakers = recording.channels == "speakers"
    spans = Segmentation(recording.duration, cues, recording.sound, recording.faces, speakers=speakers).spans()

    def next_span() -> "asyncio.Task[Span | None]":
        return asyncio.create_task(asyncio.to_thread(next, spans, None))

    coming: asyncio.Task[Span | None] | None = next_span()
    preparing: deque[tuple[_Utterance, asyncio.Task[PreparedRequest | None]]] = deque()
    pending: deque[asyncio.Task[UtteranceLine | GapLine]] = deque()
    index = 0
    levels = SpeakerLevels() if speaker_normalization else None
    try:
        while coming is not None or preparing or pending:
            may_add = len(preparing) + len(pending) < recording.settings.recording_parallel
            awaited: list[asyncio.Task[Any]] = [pending[0]] if pending else []
            awaited += [preparing[0][1]] if preparing else []
            awaited += [coming] if coming is not None and may_add else []
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if pending and pending[0].done():
                line = pending.popleft().result()
                summarizer.add(line)
                yield line
            elif preparing and preparing[0][1].done():
                utterance, prepared = preparing.popleft()
                if levels is not None and prepared.exception() is None and (request := prepared.result()) is not None:
                    utterance.normalized = levels.normalize(request, utterance.span.speaker)
                pending.append(asyncio.create_task(utterance.answer(prepared, answer)))
            elif coming is not None and coming.done():
                span = coming.result()
                coming = None if span is None else next_span()
                if span is not None:
                    utterance = _Utterance(recording, span, index)
                    preparing.append((utterance, asyncio.create_task(utterance.prepare(prepare))))
                    index += 1
    finally:
        unfinished: list[asyncio.Task[Any]] = [*pending, *(prepared for _, prepared in preparing)]
        for task in unfinished:
            task.cancel()
        # A thread cannot be cancelled, and it reads from files that are closed next.
        await asyncio.gather(*unfinished, *([coming] if coming is not None else []), return_exceptions=True)
    silent, faceless = await asyncio.to_thread(_missing_stretches, recording)
    summarizer.trim_silent(silent)
    summarizer.add_faceless(faceless)
    yield summarizer.summary()


def _missing_stretches(recording: Recording) -> tuple[Stretches, Stretches]:
    """Return the stretches without a sound, and those without a face."""
    sound, faces = recording.sound, recording.faces
    silence_dbfs = recording.config.audio.silence_dbfs
    silent = [] if sound is None else silent_stretches(sound, silence_dbfs, SHORTEST_MISSING)
    return silent, [] if faces is None else faces.lost(SHORTEST_MISSING)


def encode(line: Line | ProblemLine, *, explain: bool = False) -> bytes:
    """Return a line as it is sent, with its line end; without `explain` an utterance has no votes."""
    left_out = {"votes", "reconstruction"} if isinstance(line, UtteranceLine) and not explain else None
    return line.model_dump_json(exclude=left_out).encode() + b"\n"


def _first_line(recording: Recording, model: schemas.ModelName) -> RecordingLine:
    sources: dict[str, Any] = {"audio": None, "transcript": None, "openface": None}
    if (sound := recording.sound) is not None:
        sources["audio"] = SoundSource(seconds=round(sound.duration, DIGITS), channels=sound.channels)
    if (transcript := recording.transcript) is not None:
        sources["transcript"] = TranscriptSource(format=transcript.format, cues=len(transcript.cues))
    if (faces := recording.faces) is not None:
        sources["openface"] = OpenFaceSource(seconds=round(faces.duration, DIGITS), frames=faces.frames)
    return RecordingLine(
        duration=round(recording.duration, DIGITS),
        channels=recording.channels,
        sources=Sources(**sources),
        model=model,
        warnings=[schemas.InputWarning(code=code, detail=detail) for code, detail in recording.warnings().items()],
    )


class _Utterance:
    """A span of a recording on its way to a line.

    Args:
        recording: stays open until `prepare` has ended.
        span: the span.
        index: from 0.

    Attributes:
        normalized: modalities that were made relative to the speaker's level.
    """

    def __init__(self, recording: Recording, span: "Span", index: int) -> None:
        self.span, self.normalized = span, frozenset[Modality]()
        self._recording, self._index = recording, index
        self._form = RawForm()
        self._coverage: dict[str, float] = dict.fromkeys(map(str, Modality), 0.0)
        self._reasons: dict[str, str] = dict.fromkeys(map(str, Modality), NOT_PROVIDED)
        self._rows_before = 0  # of the OpenFace CSV, before those of the form
        self._warnings: list[schemas.InputWarning] = []
        self._empty: dict[Modality, EmptyModality] = {}

    async def prepare(self, prepare: Prepare) -> PreparedRequest | None:
        """Compute the features of what there is; None where there is nothing usable.

        Raises:
            ServiceError: a part is not accepted; names the place in the recording's files.
        """
        self._collect()
        form = self._form
        if form.text is None and form.audio is None and form.openface is None:
            return None
        try:
            return await prepare(form)
        except NothingUsable as error:
            self._empty = error.empty
            return None
        except (UploadError, ModalityError) as error:
            upload = error if isinstance(error, UploadError) else from_modality(error)
            raise _in_recording(upload, self.span, self._rows_before) from None

    async def answer(self, prepared: asyncio.Task[PreparedRequest | None], answer: Answer) -> UtteranceLine | GapLine:
        """Return the line of what `prepare` returned; raises what it raised, or `answer` does."""
        request, span = prepared.result(), self.span
        place: dict[str, Any] = {
            "index": self._index,
            "start": round(span.start, DIGITS),
            "end": round(span.end, DIGITS),
            "speaker": span.speaker,
            "text": span.text,
        }
        if request is None:
            missing = {str(modality): self._missing(modality) for modality in Modality}
            modalities = self._modalities(missing)
            return GapLine(**place, modalities=modalities, reasons={name: use.reason or "" for name, use in modalities})
        given = (await answer(request)).model_dump(exclude={"request_id", "model", "timings_ms"})
        if given["modalities"]["text"]["status"] == "present":  # perhaps transcribed
            self._coverage["text"] = 1.0
        modalities = self._modalities(given.pop("modalities"))
        for warning in given["warnings"]:
            warning["detail"] = _in_whole_file(warning["detail"], self._rows_before)
        given["warnings"] += self._warnings
        return UtteranceLine(**place, **given, modalities=modalities)

    def _collect(self) -> None:
        """Collect the parts of the form, their coverages, and the reasons of what is missing."""
        recording, span, form = self._recording, self.span, self._form
        sound, faces, coverage, reasons = recording.sound, recording.faces, self._coverage, self._reasons
        longest = recording.settings.max_audio_seconds
        end = min(span.end, span.start + longest)
        if end < span.end and (sound is not None or faces is not None):
            detail = f"Only the first {longest:g} seconds of the sound and the face of this utterance count."
            self._warnings.append(schemas.InputWarning(code="utterance_truncated", detail=detail))
        if span.text is not None:
            form.text, coverage["text"] = span.text.encode(), 1.0
        elif recording.transcript is not None:
            reasons["text"] = "no_words"
        if sound is not None:
            samples = sound.read(span.start, end, span.channel)
            coverage["audio"] = sounding_share(samples, end - span.start, recording.config.audio.silence_dbfs)
            reasons["audio"] = _audio_reason(span, len(samples), coverage["audio"])
            if len(samples) and not span.silent and reasons["audio"] != "silent":
                form.audio = as_wav(samples)
        elif recording.empty is not None:
            reasons["audio"] = recording.empty.reason
        if faces is not None:
            coverage["visual"] = faces.coverage(span.start, end)
            reasons["visual"] = "face_lost" if coverage["visual"] else "no_face"
            if coverage["visual"] and coverage["visual"] >= recording.settings.recording_min_coverage:
                form.openface, self._rows_before = faces.read_rows(span.start, end)

    def _missing(self, modality: Modality) -> dict[str, Any]:
        reason = self._empty[modality].reason if modality in self._empty else NOT_PROVIDED
        return {"status": "missing", "reason": reason}

    def _modalities(self, uses: dict[str, dict[str, Any]]) -> CoveredModalities:
        """Add coverages, the reasons that only the recording gives, and what was made relative to the speaker."""
        for modality, use in uses.items():
            use["coverage"] = round(self._coverage[modality], DIGITS)
            if use["reason"] == NOT_PROVIDED:
                use["reason"] = self._reasons[modality]
            if modality != Modality.TEXT:
                use["speaker_normalized"] = modality in self.normalized
        return CoveredModalities.model_validate(uses)


def _audio_reason(span: "Span", samples: int, coverage: float) -> str:
    """Return why the sound of a span would be missing."""
    if not samples:
        return "past_end"
    least = SILENT_SHARE if span.silent else MIN_SOUND / (span.end - span.start)
    return "silent" if coverage < least else "no_speech"


def _in_whole_file(detail: str, rows_before: int) -> str:
    """Return a message about some rows with their line numbers in the whole file."""
    return _LINE.sub(lambda found: f"line {int(found[1]) + rows_before}", detail) if rows_before else detail


def _in_recording(error: UploadError, span: "Span", rows_before: int) -> UploadError:
    """Return the error of an utterance with its place in the recording's files."""
    if error.part == "openface":
        place = None if error.place is None else _in_whole_file(error.place, rows_before)
        return type(error)(_in_whole_file(error.detail, rows_before), part=error.part, place=place)
    place = ", ".join(filter(None, (f"utterance at {span.start:.3f} s", error.place)))
    return type(error)(error.detail, part="transcript" if error.part == "text" else error.part, place=place)
