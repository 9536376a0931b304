"""Batches that are decided in another process: what is sent, and what comes back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, cast

from app.engine.predictor import Predictor, PreparedRequest, Result, is_out_of_memory
from app.logging import get_logger

Outcome: TypeAlias = Sequence[Result] | Exception
"""Results without their requests, or the error."""


def detach(batch: Sequence[PreparedRequest]) -> list[PreparedRequest]:
    """Return the requests without their predictor, to be sent."""
    return [replace(request, predictor=cast("Predictor", None)) for request in batch]


def decide(predictor: Predictor, batch: Sequence[PreparedRequest]) -> Outcome:
    """Decide on requests that were sent.

    An error is logged here, where its traceback is.
    """
    for request in batch:
        request.predictor = predictor
    try:
        results = predictor.decide(batch)
    except Exception as error:
        log = get_logger()
        log.warning("batch failed", exc_info=error)
        # The type of an accelerator's exception may not exist where the batch comes from; a message may quote content.
        return MemoryError() if is_out_of_memory(error) else RuntimeError(f"{type(error).__name__} in another process")
    return [replace(result, request=cast("PreparedRequest", None)) for result in results]


def attach(outcome: Outcome, batch: Sequence[PreparedRequest]) -> list[Result]:
    """Return the results with their requests.

    Raises:
        MemoryError, RuntimeError: the batch failed.
    """
    if isinstance(outcome, Exception):
        raise outcome
    return [replace(result, request=request) for result, request in zip(outcome, batch, strict=True)]
