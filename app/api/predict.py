"""`POST /predict`: a form in, an answer out.

For: reading the form, watching for a client that leaves, counting and timing, and documenting all of it.
Does not know: how parts are read (`app.uploads`) or answers found (`app.inference`).
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request, Response

from app.api.answer import compose
from app.api.metrics import Metrics
from app.api.problems import MEDIA_TYPE
from app.api.schemas import ExplainedPrediction, Prediction, Problem
from app.inference.engine import Engine, Reply
from app.inference.limits import upload_limits
from app.settings import Settings
from app.uploads.errors import ClientGone
from app.uploads.form import read_form

V = TypeVar("V")

_TEXT: Final = {"type": "string", "minLength": 1, "description": "The words, UTF-8."}
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
    503: "Not ready or on the way out; `Retry-After` says when to come back.",
    504: "No answer within the deadline.",
}
PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for status, description in _PROBLEMS.items()
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
) -> Response:
    """Answer with the polarity, and with whether a missing modality would have changed it."""
    engine: Engine = request.app.state.engine
    metrics: Metrics = request.app.state.metrics
    settings: Settings = request.app.state.settings
    engine.admit()
    began = time.perf_counter()
    async with read_form(request, upload_limits(settings)) as form:
        parsed = time.perf_counter() - began
        reply = await _while_connected(request, engine.answer(form, explain))
    answer = compose(request.state.request_id, engine.checkpoint, reply, parsed)
    _count(metrics, reply, parsed, answer)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _while_connected(request: Request, work: Awaitable[V]) -> V:
    """Wait for `work`, and cancel it when the client leaves.

    Raises:
        ClientGone: it did; there is nobody to answer.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the connection was closed before the answer")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
