"""`POST /predict`: a form or a JSON object → a prediction."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import WithJsonSchema
from starlette.datastructures import State

from app.api.answer_log import AnswerLog
from app.api.metrics import Metrics
from app.api.problems import problem_responses
from app.api.response import compose
from app.api.schemas import ExplainedPrediction, Prediction
from app.decoding.parts import TEXT_PATTERN
from app.engine.engine import Engine
from app.engine.predictor import Options, Result
from app.errors import ClientGone, Fault, InvalidQuery
from app.settings import Settings
from app.uploads.form import read_form
from app.uploads.json_body import MAX_FACE_ID, MEDIA_TYPE, is_json, read_json

V = TypeVar("V")

_TEXT: Final = {"type": "string", "pattern": TEXT_PATTERN, "description": "The text, UTF-8; no NUL, and not blank."}
_PARTS: Final = {
    "text": _TEXT,
    "audio": {
        "type": "string",
        "format": "binary",
        "description": "The voice: WAV, FLAC, OGG (Vorbis, Opus), MP3, WebM (Opus) or MP4, M4A (AAC, Opus).",
    },
    "openface": {"type": "string", "format": "binary", "description": "The face: the CSV that OpenFace 2 writes."},
}
_BASE64: Final = "base64 with padding and without line breaks (RFC 4648, section 4)."
JSON_PARTS: Final[Mapping[str, Any]] = {
    "text": {**_TEXT, "type": ["string", "null"]},
    "audio": {
        "type": ["string", "null"],
        "contentEncoding": "base64",
        "description": f"The voice, a file as in a form: {_BASE64}",
    },
    "openface": {
        "type": ["string", "null"],
        "contentEncoding": "base64",
        "contentMediaType": "text/csv",
        "description": f"The face, the CSV that OpenFace 2 writes: {_BASE64}",
    },
}
"""Properties of an utterance in JSON; null stands for a part that is not sent."""
NO_PART: Final[Mapping[str, Any]] = {"properties": {name: {"type": "null"} for name in JSON_PARTS}}
"""Schema of the utterances without a part."""
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Any of the three parts, each at most once, and at least one of them.",
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": _PARTS, "minProperties": 1, "additionalProperties": False},
            "encoding": {
                # Informative: the reader identifies the format by the first bytes.
                "audio": {"contentType": "audio/wav, audio/flac, audio/ogg, audio/mpeg, audio/webm, audio/mp4"},
                "openface": {"contentType": "text/csv"},
            },
        },
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "properties": JSON_PARTS,
                "not": NO_PART,  # of which generators of clients make one class, unlike of an `anyOf`
                "additionalProperties": False,
            },
            "examples": {
                "text": {"summary": "Text alone", "value": {"text": "What a lovely surprise!"}},
                "openface": {
                    "summary": "Text and a face",
                    "value": {"text": "What a lovely surprise!", "openface": "ZnJhbWUsIHRpbWVzdGFtcA=="},
                },
            },
        },
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "properties": {"text": _TEXT},
                "required": ["text"],
                "additionalProperties": False,
            },
        },
    },
}
PROBLEM_RESPONSES: Final = problem_responses(
    {
        400: "The body's framing is broken.",
        401: "An API key is needed.",
        408: "The body came too slowly.",
        413: "The body or a part is too large.",
        415: "A content type or a sound format that is not accepted.",
        422: "A part is unknown, given twice, corrupt or past a limit, or nothing usable remains.",
        429: "Too many requests are waiting; `Retry-After` says when to come back.",
        500: "A fault of the service.",
        503: "Not ready, on the way out, or short of memory or of disk; `Retry-After` says when to come back.",
        504: "No answer within the deadline.",
    }
)

Explain = Annotated[bool, Query(description="Add every head's vote and the reconstruction figures.")]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Report a key missing modality where `key_missing.score` is at least this; the service's own "
        "setting, or the weights' threshold, when not given.",
    ),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),  # null is not accepted
]
Transcribe = Annotated[
    Literal["never", "auto", "always"] | None,
    Query(
        description="Whether the words of the voice are transcribed. `auto`: where no text is sent and the service "
        "can; `always`: also where text is sent, which then counts, and the request is refused where the service "
        "cannot; the service's own setting when not given.",
    ),
    WithJsonSchema({"type": "string", "enum": ["never", "auto", "always"]}),
]

router = APIRouter(tags=["prediction"])


@router.post(
    "/predict",
    operation_id="predict",
    summary="Polarity of an utterance, with any of its three modalities missing",
    response_model=ExplainedPrediction | Prediction,
    responses=PROBLEM_RESPONSES,
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request,
    explain: Explain = False,
    threshold: Threshold = None,
    face_id: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_FACE_ID,
            description="The face to follow in an OpenFace file with several; the most confident one when not given.",
        ),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_FACE_ID}),
    ] = None,
    transcribe: Transcribe = None,
) -> Response:
    """Answer with the polarity, and with whether a missing modality would have changed it."""
    engine: Engine = request.app.state.engine
    settings: Settings = request.app.state.settings
    with ExitStack() as upload:
        upload.enter_context(engine.uploading())
        start = time.perf_counter()
        read = read_json if is_json(request) else read_form
        async with read(request, settings, request.app.state.uploads) as form:
            parse_seconds = time.perf_counter() - start
            upload.close()
            if face_id is not None and form.openface is None:
                detail = "face_id chooses a face of the part openface, which was not sent"
                raise InvalidQuery(detail, [Fault(part="openface", place="query.face_id", detail=detail)])
            options = Options(
                explain,
                settings.key_threshold if threshold is None else threshold,
                face_id,
                transcribe=transcribe or settings.transcribe,
            )
            result = await cancel_on_disconnect(request, engine.answer(form, options))
    prediction = compose(request.state.request_id, result, parse_seconds)
    metrics: Metrics = request.app.state.metrics
    metrics.stage.labels(stage="parse").observe(parse_seconds)
    record(request.app.state, result, prediction)
    return Response(prediction.model_dump_json(), media_type="application/json")


async def cancel_on_disconnect(request: Request, work: Awaitable[V]) -> V:
    """Await `work`, and cancel it when the client disconnects.

    Raises:
        ClientGone: the client has disconnected.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("not called from a task")
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # A cancellation by the server, at shutdown, takes precedence.
        if not disconnected or task.uncancel():
            raise
        raise ClientGone("the connection was closed before the answer") from None
    finally:
        watcher.cancel()


def record(state: State, result: Result, prediction: Prediction) -> None:
    """Count an answer, and the seconds of its stages but the first; append it to the answer log, if there is one."""
    metrics: Metrics = state.metrics
    answers: AnswerLog | None = state.answers
    if answers is not None:
        answers.record(prediction)
    for stage, seconds in result.timings.items():
        metrics.stage.labels(stage=stage).observe(seconds)
    metrics.subset.labels(subset=result.request.presence.name).inc()
    metrics.polarity.labels(polarity=prediction.polarity).inc()
    for modality in prediction.key_missing.modalities or ():
        metrics.key_missing.labels(modality=modality).inc()
    if prediction.ensemble.used:
        metrics.ensemble_used.inc()
    if (outcome := result.request.transcription_outcome) is not None:
        metrics.transcriptions.labels(outcome=outcome).inc()
