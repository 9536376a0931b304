"""Requests to the service and their answers, without sending them; `emmr.client` does.

Source of the retries: RFC 9110, section 10.2.3 (Retry-After).
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from random import SystemRandom
from typing import IO, Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from app.api.schemas import BatchAnswers, ExplainedPrediction, Health, ModelCard, Prediction, Problem
from app.recordings.schemas import Line, ProblemLine
from emmr.files import File, Transcribe, open_file, read_file

T = TypeVar("T")

BACKOFF: Final = 0.25  # seconds before the first retry at least, doubled with each further one
RETRIED_STATUS: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# Before a connection is made no request is sent, and of a body that is cut off no answer is computed.
RETRIED_ERRORS: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.WriteError)
_RANDOM: Final = SystemRandom()
_PREDICTION: Final[TypeAdapter[ExplainedPrediction | Prediction]] = TypeAdapter(ExplainedPrediction | Prediction)
_LINE: Final[TypeAdapter[Line | ProblemLine]] = TypeAdapter(Line | ProblemLine)

Channels: TypeAlias = Literal["mix", "speakers"]
Part: TypeAlias = tuple[str | None, File, str]
"""File name, content and content type of one part; a part without a file name is a field."""


class Utterance(TypedDict, total=False):
    """The parts of an utterance, at least one of them, and the face of `openface` to follow."""

    text: str
    audio: File
    openface: File
    face_id: int


class ProblemError(Exception):
    """The service answered with a problem.

    Args:
        problem: its body (RFC 9457), or made from the status where another program answered.
        retry_after: seconds after which another attempt makes sense; None if the answer gives none.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        self.problem, self.retry_after = problem, retry_after
        super().__init__(problem, retry_after)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The type of problem, `queue-full` for example: the last component of its `type`."""
        return self.problem.type.rpartition("/")[2]

    def __str__(self) -> str:
        """Status, title, detail, and the places of the errors."""
        places = ", ".join(" ".join(filter(None, (fault.part, fault.place))) for fault in self.problem.errors)
        where = f" ({places})" if places.strip(", ") else ""
        return f"{self.problem.status} {self.problem.title}: {self.problem.detail}{where}"


class IncompleteAnswer(Exception):
    """A timeline ended before its summary: the connection or the service was interrupted."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is sent again: after 429 and 503, and after a connection that failed before the body was sent.

    Args:
        attempts: further ones, at most.
        max_wait: seconds; a longer Retry-After is not waited for.
    """

    attempts: int
    max_wait: float

    def delay(self, attempt: int, outcome: httpx2.Response | httpx2.TransportError) -> float | None:
        """Seconds to wait before the request is sent again, a part of them random; None where the outcome is final.

        Args:
            attempt: number of the attempt, from 0.
            outcome: its response or its error.
        """
        asked = 0.0
        if isinstance(outcome, httpx2.Response):
            if outcome.status_code not in RETRIED_STATUS:
                return None
            asked = retry_after(outcome.headers.get("retry-after")) or 0.0
        if attempt >= self.attempts or asked > self.max_wait:
            return None
        backoff: float = min(BACKOFF * 2.0**attempt, self.max_wait)
        return max(asked, backoff) + _RANDOM.uniform(0.0, backoff)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    Args:
        method: of HTTP.
        path: relative to the service's address.
        read: the body of a successful response → the answer.
        params: of the query.
        parts: of a multipart form.
        json: the body instead of a form.
    """

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    params: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    json: Any = None

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        """The arguments of `httpx2.Client.build_request`; files are open as long as the context."""
        with ExitStack() as stack:
            files: dict[str, tuple[str | None, IO[bytes] | bytes, str]] = {
                name: (file_name, stack.enter_context(open_file(content)) if file_name else read_file(content), kind)
                for name, (file_name, content, kind) in self.parts.items()
            }
            yield {
                "method": self.method,
                "url": self.path,
                "params": dict(self.params),
                **({"files": files} if files else {}),
                **({"json": self.json} if self.json is not None else {}),
            }


def raise_for_problem(response: httpx2.Response) -> None:
    """Raise `ProblemError` for a response with an error status; its body has been read."""
    if response.status_code < HTTPStatus.BAD_REQUEST:
        return
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:  # of a proxy, for example
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase or str(response.status_code),
            status=response.status_code,
            detail="The answer is not a problem of the service.",
            instance=response.url.path,
            request_id=response.headers.get("x-request-id", ""),
            errors=[],
        )
    raise ProblemError(problem, retry_after(response.headers.get("retry-after")))


def final(outcome: httpx2.Response | httpx2.TransportError) -> httpx2.Response:
    """Return a response, raise an error."""
    if isinstance(outcome, httpx2.TransportError):
        raise outcome
    return outcome


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date; None for no header or another value."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _parts(text: str | None, **files: File | None) -> dict[str, Part]:
    """The parts of a form; the files' own names are not sent."""
    parts: dict[str, Part] = {
        name: (name, file, "application/octet-stream") for name, file in files.items() if file is not None
    }
    if text is not None:
        parts["text"] = (None, text.encode(), "text/plain")
    if not parts:
        raise ValueError("give at least one part")
    return parts


def _query(**options: bool | float | str | None) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if value is not None and value is not False
    }


def predict(
    text: str | None,
    audio: File | None,
    openface: File | None,
    explain: bool,
    threshold: float | None,
    face_id: int | None,
    transcribe: Transcribe | None,
) -> Call[Prediction]:
    """`POST /predict`; raises `ValueError` without any part."""
    return Call(
        "POST",
        "predict",
        lambda response: _PREDICTION.validate_json(response.content),
        _query(explain=explain, threshold=threshold, face_id=face_id, transcribe=transcribe),
        _parts(text, audio=audio, openface=openface),
    )


def predict_batch(
    utterances: Mapping[str, Utterance], explain: bool, threshold: float | None, transcribe: Transcribe | None
) -> Call[BatchAnswers]:
    """`POST /predict/batch`; raises `OSError` where a file cannot be read."""
    items = []
    for name, utterance in utterances.items():
        files = {"audio": utterance.get("audio"), "openface": utterance.get("openface")}
        parts = {part: base64.b64encode(read_file(file)).decode() for part, file in files.items() if file is not None}
        items.append({"id": name, "text": utterance.get("text"), "face_id": utterance.get("face_id"), **parts})
    return Call(
        "POST",
        "predict/batch",
        lambda response: BatchAnswers.model_validate_json(response.content),
        _query(explain=explain, threshold=threshold, transcribe=transcribe),
        json={"items": items},
    )


def timeline(
    audio: File | None,
    transcript: File | None,
    openface: File | None,
    channels: Channels,
    explain: bool,
    threshold: float | None,
    transcribe: Transcribe | None,
    speaker_normalization: bool,
) -> Call[None]:
    """`POST /recordings`; raises `ValueError` without any file."""
    return Call(
        "POST",
        "recordings",
        lambda _: None,
        _query(
            channels=None if channels == "mix" else channels,
            explain=explain,
            threshold=threshold,
            transcribe=transcribe,
            speaker_normalization=None if speaker_normalization else "false",
        ),
        _parts(None, audio=audio, transcript=transcript, openface=openface),
    )


HEALTH: Final = Call("GET", "health", lambda response: Health.model_validate_json(response.content))
MODEL: Final = Call("GET", "model", lambda response: ModelCard.model_validate_json(response.content))


class Lines:
    """Reads the lines of a timeline."""

    def __init__(self) -> None:
        self._complete = False

    def read(self, line: str) -> Line:
        """Return one line.

        Raises:
            ProblemError: answering stopped.
        """
        found = _LINE.validate_json(line)
        if isinstance(found, ProblemLine):
            problem = found.model_dump(exclude={"type", "problem_type"})
            raise ProblemError(Problem(type=found.problem_type, **problem))
        self._complete = found.type == "summary"
        return found

    def end(self) -> None:
        """Raise `IncompleteAnswer` unless the last line was the summary."""
        if not self._complete:
            raise IncompleteAnswer("the answer ended before its summary")
