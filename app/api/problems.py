"""Every error as `application/problem+json`, by one table.

For: turning exceptions of the service, of uploads, of `model` and of the framework into one shape of answer.
Does not know: where an exception came from. Details never quote content, so they may be shown.
Source: RFC 9457. `type` is a relative reference that this service itself answers, with what the type means.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.metrics import Metrics
from app.api.rate_limit import RateLimited
from app.api.schemas import Fault, Problem, ProblemType
from app.engine.errors import (
    DeadlinePassed,
    DeviceLost,
    NothingUsable,
    NotReady,
    QueueFull,
    ReloadRefused,
    ReloadUnderway,
    ServiceError,
    ShortOfMemory,
    Unavailable,
    Unprocessable,
)
from app.uploads.errors import (
    PART_OF,
    BodyTooLarge,
    ClientGone,
    CorruptPart,
    DecoderFailed,
    DuplicatePart,
    EmptyForm,
    MalformedBody,
    NoDecoder,
    NoRoom,
    PartTooLarge,
    SlowBody,
    TextTooLong,
    UnknownPart,
    UnsupportedContentType,
    UnsupportedPart,
    UploadError,
    from_modality,
)
from model.errors import EMMRError, EmptyModality, ModalityError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"

_SERVICE: Final[Mapping[type[Exception], tuple[int, str]]] = {
    NotReady: (503, "Not ready"),
    QueueFull: (429, "Too many requests waiting"),
    RateLimited: (429, "Too many requests"),
    ShortOfMemory: (503, "Short of memory"),
    DeviceLost: (503, "Device lost"),
    DeadlinePassed: (504, "Deadline passed"),
    NothingUsable: (422, "Nothing usable"),
    Unprocessable: (422, "Input not processable"),
    ReloadRefused: (409, "Weights refused"),
    ReloadUnderway: (409, "Weights being loaded"),
}
_UPLOADS: Final[Sequence[type[UploadError]]] = (
    UploadError,
    MalformedBody,
    ClientGone,
    SlowBody,
    BodyTooLarge,
    UnsupportedContentType,
    EmptyForm,
    UnknownPart,
    DuplicatePart,
    PartTooLarge,
    TextTooLong,
    UnsupportedPart,
    CorruptPart,
    DecoderFailed,
    NoRoom,
    NoDecoder,
)
_HTTP: Final[Mapping[int, str]] = {401: "Unauthorized", 404: "Not found", 405: "Method not allowed"}
_CLOSING: Final = (BodyTooLarge, SlowBody, MalformedBody, NoRoom)
"""After these the rest of the body is not worth reading, so the connection is not kept."""


def code_of(kind: type[Exception]) -> str:
    """`QueueFull` → `queue-full`: the last part of `type`, and the metrics' reason."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


def _title(kind: type[Exception]) -> str:
    return code_of(kind).replace("-", " ").capitalize()


def _summary(kind: type[Exception]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


TABLE: Final[Mapping[str, ProblemType]] = {
    entry.code: entry
    for entry in (
        *(ProblemType(code=code_of(k), status=s, title=t, summary=_summary(k)) for k, (s, t) in _SERVICE.items()),
        *(ProblemType(code=code_of(k), status=k.status, title=_title(k), summary=_summary(k)) for k in _UPLOADS),
        ProblemType(
            code="invalid-query", status=422, title="Invalid query", summary="A query option that is not understood."
        ),
        ProblemType(
            code="internal", status=500, title="Internal error", summary="A fault of the service, not of the request."
        ),
    )
}
"""Every type of problem this service itself gives, by code."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An exception, said as a problem that does not yet know its request.

    Args:
        code: of `TABLE`, or None for a plain HTTP status.
        status, title, detail: as RFC 9457 has them.
        faults: part and place of what is wrong.
        headers: to send along.
    """

    code: str | None
    status: int
    title: str
    detail: str
    faults: tuple[Fault, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """The metrics' label: one of a bounded set."""
        return self.code or f"http-{self.status}"


def trouble(error: BaseException) -> ErrorResponse:
    """Say what an exception means to a client. Anything unknown is an internal error, and says nothing more."""
    if isinstance(error, ModalityError) and not isinstance(error, EmptyModality):
        error = from_modality(error)
    if isinstance(error, UploadError):
        fault = Fault(part=error.part, place=error.place, detail=error.detail)
        headers = [("Connection", "close")] if isinstance(error, _CLOSING) else []
        if error.retry_after is not None:
            headers.append(("Retry-After", str(error.retry_after)))
        return _of(code_of(type(error)), error.detail, (fault,), tuple(headers))
    if isinstance(error, NothingUsable):
        faults = tuple(Fault(part=PART_OF[m], place=None, detail=e.detail) for m, e in error.empty.items())
        return _of(code_of(type(error)), str(error), faults)
    if isinstance(error, Unavailable):
        return _of(code_of(type(error)), str(error), headers=(("Retry-After", str(error.retry_after)),))
    if isinstance(error, ServiceError):
        return _of(code_of(type(error)), str(error))
    if isinstance(error, RequestValidationError):
        return _of("invalid-query", "A query option is not understood.", tuple(map(_query_fault, error.errors())))
    if isinstance(error, StarletteHTTPException):
        title = _HTTP.get(error.status_code) or HTTPStatus(error.status_code).phrase
        return ErrorResponse(
            None, error.status_code, title, error.detail or title, headers=tuple((error.headers or {}).items())
        )
    return _of("internal", "The service failed to answer. The request id finds the cause in its logs.")


def _of(
    code: str, detail: str, faults: tuple[Fault, ...] = (), headers: tuple[tuple[str, str], ...] = ()
) -> ErrorResponse:
    entry = TABLE[code]
    return ErrorResponse(code, entry.status, entry.title, detail, faults, headers)


def _query_fault(error: Mapping[str, object]) -> Fault:
    location = error.get("loc")
    where = ".".join(str(step) for step in location) if isinstance(location, Sequence) else None
    return Fault(part=None, place=where, detail=str(error.get("msg", "not understood")))


def problem_body(request: Request, said: ErrorResponse) -> Problem:
    """The body of a problem about `request`."""
    return Problem(
        type=TYPE_PREFIX + said.code if said.code else "about:blank",
        title=said.title,
        status=said.status,
        detail=said.detail,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        errors=list(said.faults),
    )


def problem_response_of(description: str) -> dict[str, Any]:
    """How a route declares an error it may give; `app.api.openapi` gives it the media type."""
    return {"description": description, "model": Problem}


def problem_response(request: Request, error: BaseException) -> Response:
    """Answer `request` with what `error` means, and count it."""
    said = trouble(error)
    metrics: Metrics | None = getattr(request.app.state, "metrics", None)
    if metrics is not None and request.url.path == "/predict":
        metrics.rejected.labels(reason=said.reason).inc()
    return JSONResponse(
        problem_body(request, said).model_dump(),
        status_code=said.status,
        headers=dict(said.headers),
        media_type=MEDIA_TYPE,
    )


async def _answer(request: Request, error: Exception) -> Response:
    return problem_response(request, error)


def install_problem_handlers(app: FastAPI) -> None:
    """Have every exception that reaches the framework answered as a problem."""
    for kind in (StarletteHTTPException, RequestValidationError, UploadError, EMMRError, ServiceError):
        app.add_exception_handler(kind, _answer)


router = APIRouter(tags=["service"])


@router.get("/problems", summary="Every type of problem this service gives")
async def list_problems() -> list[ProblemType]:
    """The table of problem types."""
    return list(TABLE.values())


@router.get(
    "/problems/{code}",
    summary="What one type of problem means",
    responses={404: problem_response_of("There is no such type.")},
)
async def show_problem(code: str) -> ProblemType:
    """One entry of the table."""
    if (entry := TABLE.get(code)) is None:
        raise HTTPException(404, "No such type of problem.")
    return entry
