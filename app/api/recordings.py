"""`POST /recordings`: a recording's sound, transcript and face → lines of JSON, each sent as soon as it is known."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.metrics import Metrics
from app.api.predict import Explain, Threshold, Transcribe, cancel_on_disconnect, record
from app.api.problems import as_service_error, problem_body, problem_responses
from app.api.response import compose, model_name
from app.api.schemas import Prediction
from app.engine.engine import Engine
from app.engine.predictor import Options, PreparedRequest
from app.errors import DeadlinePassed, QueueFull, ServiceError
from app.logging import get_logger
from app.recordings.schemas import GapLine, Line, ProblemLine, RecordingLine, SummaryLine, UtteranceLine
from app.recordings.timeline import Files, encode, open_recording, timeline
from app.settings import Settings
from app.uploads.form import RECORDING_PARTS, RawForm, read_form
from app.uploads.spool import Uploads
from model.errors import EMMRError

MEDIA_TYPE: Final = "application/x-ndjson"
TRANSCRIBED_PARALLEL: Final = 2
"""Utterances at a time where every voice is transcribed: one process transcribes all, and a voice that waits for it too
long, or finds its queue full, is not transcribed."""
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Any of the three files, each at most once, and at least one of them.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "audio": {
                        "type": "string",
                        "format": "binary",
                        "description": "The sound: as for `/predict`, and longer.",
                    },
                    "transcript": {
                        "type": "string",
                        "format": "binary",
                        "description": "SRT, WebVTT, Whisper's JSON, or CSV of start, end, text, speaker.",
                    },
                    "openface": {
                        "type": "string",
                        "format": "binary",
                        "description": "The face: the CSV that OpenFace 2 writes, with timestamps.",
                    },
                },
                "minProperties": 1,
                "additionalProperties": False,
            },
        }
    },
}
_RESPONSES: Final = problem_responses(
    {
        400: "The body's framing is broken.",
        401: "An API key is needed.",
        408: "The body came too slowly.",
        413: "The body or a file is too large.",
        415: "A content type or a format that is not accepted.",
        422: "A file is unknown, given twice, corrupt or past a limit.",
        429: "Too many recordings are being answered; `Retry-After` says when to come back.",
        500: "A fault of the service.",
        503: "Not ready, on the way out, or short of memory or of disk; `Retry-After` says when to come back.",
    }
)


_LINES: Final[dict[str, Any]] = {
    "description": "One of these objects a line: a recording, then utterances and gaps, then a summary or a problem.",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                # The whole answer is no JSON, so it is a string for generators of clients.
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "oneOf": [
                        {"$ref": f"#/components/schemas/{kind.__name__}"}
                        for kind in (RecordingLine, UtteranceLine, GapLine, SummaryLine, ProblemLine)
                    ]
                },
            }
        }
    },
}


class Recordings:
    """The recordings that are being received or answered; used on the event loop only.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.running = 0

    @cached_property
    def settings(self) -> Settings:
        """The settings with the limits of a recording's body."""
        settings = self._settings
        return settings.model_copy(
            update={
                "max_body_bytes": settings.recording_max_body_bytes,
                "max_openface_bytes": settings.recording_max_openface_bytes,
                "max_spooled_bytes": settings.max_recordings * settings.recording_max_body_bytes,
                "body_timeout": settings.recording_body_timeout,
            }
        )

    @cached_property
    def uploads(self) -> Uploads:
        """The files of all recordings."""
        return Uploads(self.settings)

    def begin(self) -> None:
        """Count a recording.

        Raises:
            QueueFull: as many are being answered as may.
        """
        if self.running >= self._settings.max_recordings:
            detail = f"{self._settings.max_recordings} recordings are being answered already."
            raise QueueFull(detail, self._settings.retry_after)
        self.running += 1

    def end(self) -> None:
        """Count the end of a recording."""
        self.running -= 1


router = APIRouter(tags=["prediction"])


@router.post(
    "/recordings",
    operation_id="analyze_recording",
    summary="Polarity of each utterance of a recording, as lines of JSON",
    response_model=RecordingLine | UtteranceLine | GapLine | SummaryLine | ProblemLine,
    response_class=Response,
    responses={**_RESPONSES, 200: _LINES},
    openapi_extra={"requestBody": _BODY},
)
async def answer_recording(
    request: Request,
    explain: Explain = False,
    threshold: Threshold = None,
    transcribe: Transcribe = None,
    channels: Annotated[
        Literal["mix", "speakers"], Query(description="`speakers`: each channel of the sound is a speaker.")
    ] = "mix",
    speaker_normalization: Annotated[
        bool,
        Query(description="Make voice and face relative to their speaker's level, where the speaker is known."),
    ] = True,
) -> Response:
    """Answer with a line for the recording, one for each utterance in order, and a summary.

    An error after the first line is the last line, of the type `problem`.
    """
    state = request.app.state
    engine: Engine = state.engine
    settings: Settings = state.settings
    recordings: Recordings = state.recordings
    engine.admit()
    predictor = engine.predictor
    assert predictor is not None  # as the service admits requests
    options = Options(
        explain,
        settings.key_threshold if threshold is None else threshold,
        transcribe=transcribe or settings.transcribe,
    )

    async def prepare(form: RawForm) -> PreparedRequest:
        return await engine.prepare_utterance(form, options, predictor)

    async def answer(prepared: PreparedRequest) -> Prediction:
        result = await engine.answer_utterance(prepared)
        prediction = compose(request.state.request_id, result, parsed=0.0)
        record(state, result, prediction)
        return prediction

    async with AsyncExitStack() as stack:
        recordings.begin()
        stack.callback(recordings.end)
        form = await stack.enter_async_context(
            read_form(request, recordings.settings, recordings.uploads, RECORDING_PARTS)
        )
        deadline = time.monotonic() + settings.recording_deadline
        checkpoint = predictor.pipeline.checkpoint
        transcript = None if form.transcript is None else form.transcript.read()
        files = Files(form.audio, transcript, form.openface)
        if options.transcribe == "always" or (options.transcribe == "auto" and transcript is None):
            few = min(settings.recording_parallel, TRANSCRIBED_PARALLEL)
            settings = settings.model_copy(update={"recording_parallel": few})
        opening = stack.enter_async_context(open_recording(files, checkpoint.config, settings, channels))
        recording = await cancel_on_disconnect(request, opening)
        model = model_name(checkpoint)
        lines = timeline(recording, model, prepare, answer, speaker_normalization=speaker_normalization)
        stack.push_async_callback(lines.aclose)
        held = stack.pop_all()
    return _LinesResponse(_encoded(request, lines, deadline, explain=explain), held)


async def _encoded(
    request: Request, lines: AsyncIterator[Line], deadline: float, *, explain: bool
) -> AsyncIterator[bytes]:
    """Yield the encoded lines; an error becomes the last one."""
    metrics: Metrics = request.app.state.metrics
    try:
        while (line := await _next_line(lines, deadline)) is not None:
            metrics.recording_lines.labels(type=line.type).inc()
            yield encode(line, explain=explain)
        return
    except (ServiceError, EMMRError) as error:
        problem = as_service_error(error)
    except Exception as error:
        log = get_logger()
        log.error("recording broken off", exc_info=error)
        problem = as_service_error(error)
    metrics.recording_lines.labels(type="problem").inc()
    body = problem_body(request, problem)
    yield encode(ProblemLine(**body.model_dump(exclude={"type"}), problem_type=body.type))


async def _next_line(lines: AsyncIterator[Line], deadline: float) -> Line | None:
    """Return the next line, None at the end.

    Raises:
        DeadlinePassed: the deadline, on the `time.monotonic` clock, has passed.
    """
    timeout = asyncio.timeout(max(0.0, deadline - time.monotonic()))
    try:
        async with timeout:
            return await anext(lines, None)
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlinePassed("The recording was not answered to its end in time.") from None


class _LinesResponse(StreamingResponse):
    """Lines that are sent as they are yielded, and what is released at the end, however that comes.

    Args:
        lines: with their line ends.
        stack: closed at the end.
    """

    media_type = MEDIA_TYPE

    def __init__(self, lines: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(lines, headers={"X-Accel-Buffering": "no"})  # a proxy would hold lines back
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one response."""
        async with self._stack:
            await super().__call__(scope, receive, send)
