"""Exceptions → responses of type `application/problem+json` (RFC 9457).

`type` is a relative reference to `GET /problems/{code}`, which describes the problem type.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, HTTPException, Path
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.metrics import Metrics
from app.api.schemas import Problem, ProblemType
from app.errors import Fault, Internal, InvalidQuery, ServiceError, from_modality
from model.errors import EMMRError, EmptyModality, ModalityError

MEDIA_TYPE: Final = "application/problem+json"
VERSION_PREFIX: Final = "/v1"
"""Every path is available after it too."""
_COUNTED: Final = frozenset({"/predict", "/predict/batch", "/recordings"})
"""Paths whose errors the metrics count."""
_TITLES: Final[Mapping[int, str]] = {404: "Not found", 405: "Method not allowed"}
"""Of HTTP statuses without a problem type, where it is not the standard's phrase."""

PROBLEM_TYPES: Final[Mapping[str, ProblemType]] = {
    kind.code: ProblemType(
        code=kind.code, status=kind.status, title=kind.title, summary=(kind.__doc__ or "").splitlines()[0]
    )
    for kind in ServiceError.problem_types
}


class StatusError(ServiceError):
    """An HTTP status without a problem type: the framework's own errors, such as 404."""

    def __init__(self, error: StarletteHTTPException) -> None:
        self.code, self.status = "", error.status_code
        self.title = _TITLES.get(self.status) or HTTPStatus(self.status).phrase
        super().__init__(error.detail or self.title)
        self.headers = dict(error.headers or {})


def as_service_error(error: BaseException) -> ServiceError:
    """Return what `error` means to a client. An unknown exception is an internal error without further detail."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ModalityError) and not isinstance(error, EmptyModality):
        return from_modality(error)
    if isinstance(error, RequestValidationError):
        return InvalidQuery("A query option is not understood.", list(map(_query_fault, error.errors())))
    if isinstance(error, StarletteHTTPException):
        return StatusError(error)
    return Internal("The service failed to answer. The request id finds the cause in its logs.")


def _query_fault(error: Mapping[str, object]) -> Fault:
    location = error.get("loc")
    place = ".".join(map(str, location)) if isinstance(location, Sequence) else None
    return Fault(part=None, place=place, detail=str(error.get("msg", "not understood")))


def problem_body(request: Request, error: ServiceError) -> Problem:
    """Return the body of the problem response to `request`."""
    return Problem(
        type=f"/problems/{error.code}" if error.code else "about:blank",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        errors=error.faults,
    )


def problem_responses(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route, from status → description; `app/api/openapi.py` sets their media type."""
    return {status: {"description": text, "model": Problem} for status, text in descriptions.items()}


async def problem_response(request: Request, error: Exception) -> Response:
    """Return the response to `request` that `error` means, and count it. An exception handler of Starlette's."""
    error = as_service_error(error)
    metrics: Metrics | None = getattr(request.app.state, "metrics", None)
    if metrics is not None and request.url.path.removeprefix(VERSION_PREFIX) in _COUNTED:
        metrics.rejected.labels(reason=error.code or f"http-{error.status}").inc()
    return JSONResponse(problem_body(request, error).model_dump(), error.status, error.headers, MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every exception that reaches the framework with a problem."""
    for kind in (StarletteHTTPException, RequestValidationError, EMMRError, ServiceError):
        app.add_exception_handler(kind, problem_response)


router = APIRouter(tags=["service"])


@router.get("/problems", operation_id="problem_types", summary="Every type of problem this service gives")
async def list_problems() -> list[ProblemType]:
    """The table of problem types."""
    return list(PROBLEM_TYPES.values())


@router.get(
    "/problems/{code}",
    operation_id="problem_type",
    summary="What one type of problem means",
    responses=problem_responses({404: "There is no such type."}),
)
async def show_problem(
    code: Annotated[str, Path(description="Last component of the `type` of a problem.", examples=["queue-full"])],
) -> ProblemType:
    """One entry of the table."""
    if (entry := PROBLEM_TYPES.get(code)) is None:
        raise HTTPException(404, "No such type of problem.")
    return entry
