"""`POST /predict/batch`: several utterances with ids of their own → an answer or a problem for each."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from app.api.metrics import Metrics
from app.api.predict import (
    JSON_PARTS,
    PROBLEM_RESPONSES,
    Explain,
    Threshold,
    Transcribe,
    cancel_on_disconnect,
    record,
)
from app.api.problems import as_service_error, problem_body
from app.api.rate_limit import RateLimit
from app.api.response import compose
from app.api.schemas import AnsweredItem, BatchAnswers, RefusedItem
from app.engine.admission import MIN_QUEUE
from app.engine.engine import Engine
from app.engine.predictor import Options, Result
from app.errors import DeadlinePassed, ServiceError
from app.logging import get_logger
from app.settings import Settings
from app.uploads.json_body import MAX_FACE_ID, MAX_ID, MEDIA_TYPE, Item, read_items
from model.errors import ModalityError

IN_FLIGHT: Final = MIN_QUEUE
"""Items of one batch that wait for their forward pass at the same time: as many as an idle service never refuses."""

_ID: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID,
    "description": "Repeated in the answer; different for each item of a batch.",
}
# Content that `/predict` refuses, and an item without a part, get a problem in the answer to the batch.
_TEXT: Final = {key: value for key, value in JSON_PARTS["text"].items() if key != "pattern"}
_FACE_ID: Final = {
    "type": ["integer", "null"],
    "minimum": 0,
    "maximum": MAX_FACE_ID,
    "description": "The face to follow in an OpenFace file with several; the most confident one when not given.",
}
_ITEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"id": _ID, **JSON_PARTS, "text": _TEXT, "face_id": _FACE_ID},
    "required": ["id"],
    "additionalProperties": False,
}
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Items with an id and any of the three parts; `GET /model` has the largest number of items.",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "properties": {
                    "items": {"type": "array", "items": _ITEM, "minItems": 1, "description": "The utterances."}
                },
                "required": ["items"],
                "additionalProperties": False,
            },
            "examples": {
                "texts": {
                    "summary": "Two sentences",
                    "value": {
                        "items": [
                            {"id": "first", "text": "What a lovely surprise!"},
                            {"id": "second", "text": "I want my money back."},
                        ]
                    },
                }
            },
        }
    },
}

router = APIRouter(tags=["prediction"])


@router.post(
    "/predict/batch",
    operation_id="predict_batch",
    summary="Polarity of several utterances",
    response_model=BatchAnswers,
    responses=PROBLEM_RESPONSES,
    openapi_extra={"requestBody": _BODY},
)
async def predict_batch(
    request: Request, explain: Explain = False, threshold: Threshold = None, transcribe: Transcribe = None
) -> Response:
    """Answer each item as `POST /predict` would: with an answer or a problem, within the limits of a request."""
    engine: Engine = request.app.state.engine
    settings: Settings = request.app.state.settings
    metrics: Metrics = request.app.state.metrics
    key_threshold = settings.key_threshold if threshold is None else threshold
    options = Options(explain, key_threshold, transcribe=transcribe or settings.transcribe)
    with ExitStack() as upload:
        upload.enter_context(engine.uploading())
        with request.app.state.uploads.batch():
            start = time.perf_counter()
            async with read_items(request, settings, request.app.state.uploads) as items:
                parse_seconds = time.perf_counter() - start
                upload.close()
                limit: RateLimit | None = request.app.state.rate_limit
                if limit is not None and len(items) > 1:
                    limit.count(request, len(items) - 1)
                results = await cancel_on_disconnect(request, _answer_all(engine, items, options))
    metrics.stage.labels(stage="parse").observe(parse_seconds)
    answers: list[AnsweredItem | RefusedItem] = []
    for position, (item, result) in enumerate(zip(items, results, strict=True)):
        if isinstance(result, Result):
            prediction = compose(request.state.request_id, result, parse_seconds)
            record(request.app.state, result, prediction)
            answers.append(AnsweredItem(id=item.id, answer=prediction))
        else:
            metrics.rejected.labels(reason=result.code).inc()
            problem = problem_body(request, result)
            instance = f"{problem.instance}#/items/{position}"
            answers.append(RefusedItem(id=item.id, problem=problem.model_copy(update={"instance": instance})))
    body = BatchAnswers(request_id=request.state.request_id, items=answers)
    return Response(body.model_dump_json(), media_type=MEDIA_TYPE)


async def _answer_all(engine: Engine, items: Sequence[Item], options: Options) -> Sequence[Result | ServiceError]:
    """Return the result or the error of each item; closes the items' files."""
    seconds = engine.settings.deadline
    end = time.monotonic() + seconds
    free, log = asyncio.Semaphore(IN_FLIGHT), get_logger()

    async def answer(item: Item) -> Result | ServiceError:
        async with free:
            try:
                if item.error is not None:
                    return item.error
                of_item = replace(options, face_id=item.face_id)
                return await engine.answer(item.form, of_item, max(0.0, end - time.monotonic()))
            except DeadlinePassed:
                return DeadlinePassed(f"No answer within {seconds:g} seconds.")
            except (ServiceError, ModalityError) as error:
                return as_service_error(error)
            except Exception as error:
                log.error("unhandled exception", exc_info=error)
                return as_service_error(error)
            finally:
                item.form.close()

    return await asyncio.gather(*map(answer, items))
