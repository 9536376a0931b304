"""`POST /predict`: a form in, an answer out.

For: reading the form, watching for a client that leaves, counting and timing, and documenting all of it.
Does not know: how parts are read (`app.uploads`) or answers found (`app.inference`).
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import WithJsonSchema

from app.api.metrics import Metrics
from app.api.problems import problem_response_of
from app.api.response import compose
from app.api.schemas import ExplainedPrediction, Prediction
from app.decoding.text import VISIBLE
from app.engine.engine import Engine, Reply
from app.engine.limits import upload_limits
from app.engine.predictor import Options
from app.settings import Settings
from app.uploads.errors import ClientGone
from app.uploads.form import read_form

V = TypeVar("V")

_TEXT: Final = {"type": "string", "pattern": VISIBLE, "description": "The words, UTF-8; no NUL, and not blank."}
_PARTS: Final[dict[str, Any]] = {
    "text": _TEXT,
    "audio": {
        "type": "string",
        "format": "binary",
        "description": "The voice: WAV, FLAC, OGG (Vorbis, Opus), MP3, WebM (Opus) or M4A (AAC).",
    },
    "openface": {"type": "string", "format": "binary", "description": "The face: the CSV that OpenFace 2 writes."},
}
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Any of the three parts, each at most once, and at least one of them.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": _PARTS,
                "minProperties": 1,
                "additionalProperties": False,
            },
            "encoding": {
                # What these files usually come as; their first bytes decide.
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
_PROBLEMS: Final[dict[int, str]] = {
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


PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: problem_response_of(description) for status, description in _PROBLEMS.items()
}

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
        WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),  # None is for leaving it out, not for null
    ] = None,
) -> Response:
    """Answer with the polarity, and with whether a missing modality would have changed it."""
    engine: Engine = request.app.state.engine
    metrics: Metrics = request.app.state.metrics
    settings: Settings = request.app.state.settings
    with ExitStack() as upload:
        upload.enter_context(engine.uploading())
        began = time.perf_counter()
        async with read_form(request, upload_limits(settings)) as form:
            parsed = time.perf_counter() - began
            upload.close()
            options = Options(explain, settings.key_threshold if threshold is None else threshold)
            reply = await _while_connected(request, engine.answer(form, options))
    answer = compose(request.state.request_id, reply.checkpoint, reply, parsed)
    _count(metrics, reply, parsed, answer)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _while_connected(request: Request, work: Awaitable[V]) -> V:
    """Wait for `work`, and cancel it when the client leaves.

    Raises:
        ClientGone: it did; there is nobody to answer.
    """
    this = asyncio.current_task()
    if this is None:
        raise RuntimeError("a request is answered by a task")
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        this.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # Where someone else cancels this task too, as a server does that ends, that goes before.
        if not gone or this.uncancel():
            raise
        raise ClientGone("the connection was closed before the answer") from None
    finally:
        watching.cancel()


def _count(metrics: Metrics, reply: Reply, parsed: float, answer: Prediction) -> None:
    for stage, seconds in (
        ("parse", parsed),
        ("decode", reply.decode),
        ("features", reply.features),
        ("queue", reply.queue),
        ("forward", reply.forward),
    ):
        metrics.stage.labels(stage=stage).observe(seconds)
    metrics.subset.labels(subset=reply.prepared.presence.name).inc()
    metrics.polarity.labels(polarity=answer.polarity).inc()
    for modality in answer.key_missing.modalities:
        metrics.key_missing.labels(modality=modality).inc()
    if answer.ensemble.used:
        metrics.ensemble_used.inc()
