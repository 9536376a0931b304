"""`POST /predict`: a multipart form → a prediction."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import WithJsonSchema

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
from model.features.visual.table import MAX_MAGNITUDE

V = TypeVar("V")

_TEXT: Final = {"type": "string", "pattern": TEXT_PATTERN, "description": "The words, UTF-8; no NUL, and not blank."}
_PARTS: Final = {
    "text": _TEXT,
    "audio": {
        "type": "string",
        "format": "binary",
        "description": "The voice: WAV, FLAC, OGG (Vorbis, Opus), MP3, WebM (Opus) or MP4, M4A (AAC, Opus).",
    },
    "openface": {"type": "string", "format": "binary", "description": "The face: the CSV that OpenFace 2 writes."},
}
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

router = APIRouter(tags=["prediction"])


@router.post(
    "/predict",
    summary="Polarity of an utterance, with any of its three modalities missing",
    response_model=ExplainedPrediction | Prediction,
    responses=PROBLEM_RESPONSES,
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request,
    explain: Annotated[bool, Query(description="Add every head's vote and the reconstruction figures.")] = False,
    threshold: Annotated[
        float | None,
        Query(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Report a key missing modality where `key_missing.score` is at least this; the service's own "
            "setting, or the weights' threshold, when not given.",
        ),
        WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),  # null is not accepted
    ] = None,
    face_id: Annotated[
        int | None,
        Query(
            ge=0,
            le=int(MAX_MAGNITUDE),
            description="The face to follow in an OpenFace file with several; the most confident one when not given.",
        ),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": int(MAX_MAGNITUDE)}),
    ] = None,
) -> Response:
    """Answer with the polarity, and with whether a missing modality would have changed it."""
    engine: Engine = request.app.state.engine
    settings: Settings = request.app.state.settings
    with ExitStack() as upload:
        upload.enter_context(engine.uploading())
        start = time.perf_counter()
        async with read_form(request, settings, request.app.state.uploads) as form:
            parse_seconds = time.perf_counter() - start
            upload.close()
            if face_id is not None and form.openface is None:
                detail = "face_id chooses a face of the part openface, which was not sent"
                raise InvalidQuery(detail, [Fault(part="openface", place="query.face_id", detail=detail)])
            options = Options(explain, settings.key_threshold if threshold is None else threshold, face_id)
            result = await _cancel_on_disconnect(request, engine.answer(form, options))
    prediction = compose(request.state.request_id, result, parse_seconds)
    _record(request.app.state.metrics, result, prediction, parse_seconds)
    return Response(prediction.model_dump_json(), media_type="application/json")


async def _cancel_on_disconnect(request: Request, work: Awaitable[V]) -> V:
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


def _record(metrics: Metrics, result: Result, prediction: Prediction, parse_seconds: float) -> None:
    for stage, seconds in {"parse": parse_seconds, **result.timings}.items():
        metrics.stage.labels(stage=stage).observe(seconds)
    metrics.subset.labels(subset=result.request.presence.name).inc()
    metrics.polarity.labels(polarity=prediction.polarity).inc()
    for modality in prediction.key_missing.modalities or ():
        metrics.key_missing.labels(modality=modality).inc()
    if prediction.ensemble.used:
        metrics.ensemble_used.inc()
