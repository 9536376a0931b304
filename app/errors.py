"""Errors of the service. Each class carries its HTTP status and the title of its problem type (RFC 9457)."""

# The first line of each docstring is the `summary` that `GET /problems` returns, in the order of definition.

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from model.errors import (
    CorruptModality,
    EmptyModality,
    FaceNotFound,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.modality import Modality

PART_OF = {Modality.TEXT: "text", Modality.AUDIO: "audio", Modality.VISUAL: "openface"}
"""Modality → the part of the form that carries it."""


class Fault(BaseModel, frozen=True):
    """One thing wrong with a request."""

    part: str | None = Field(description="The part it is in; null where it is the whole request.")
    place: str | None = Field(description="Where in the part; null where it is the whole part.")
    detail: str = Field(description="What is wrong; never quotes content.")


class ServiceError(Exception):
    """Base class of the errors that a client may see.

    Args:
        detail: the problem's `detail`; never quotes content.
        faults: the problem's `errors`.
        message: of the exception, for logs; `detail` when None.
    """

    status: int
    code: str
    """Last component of the problem's `type`, and the metrics' `reason`; from the class name: `queue-full`."""
    title: str
    """From the class name, "Queue full", unless the class sets another."""
    retry_after: int | None = None
    """Seconds for the Retry-After header; None without the header."""
    closes_connection: ClassVar[bool] = False
    """Whether the rest of the body is not read, so that the connection cannot be kept."""
    problem_types: ClassVar[list[type["ServiceError"]]] = []
    """Every class with a status, in the order of definition."""

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
        cls.title = vars(cls).get("title", cls.code.replace("-", " ").capitalize())
        if hasattr(cls, "status"):
            ServiceError.problem_types.append(cls)

    def __init__(self, detail: str, faults: Sequence[Fault] = (), message: str | None = None) -> None:
        self.detail, self.faults = detail, list(faults)
        self.headers = {"Connection": "close"} if self.closes_connection else {}
        if self.retry_after is not None:
            self.headers["Retry-After"] = str(self.retry_after)
        super().__init__(message or detail)


class Unavailable(ServiceError):
    """The request is valid and may be repeated later.

    Args:
        detail: the problem's `detail`.
        retry_after: seconds after which another attempt makes sense.
    """

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class NotReady(Unavailable):
    """Still starting, or on the way out."""

    status = 503


class QueueFull(Unavailable):
    """As many requests wait as may, or as can be answered soon."""

    status, title = 429, "Too many requests waiting"


class RateLimited(Unavailable):
    """This client has asked as often as it may for now."""

    status, title = 429, "Too many requests"


class TooManyConnections(Unavailable):
    """As many connections are open as may be, in all or from this address."""

    status = 503
    closes_connection = True


class TooManyUploads(Unavailable):
    """As many bodies are arriving from this address as may at the same time."""

    status = 429
    closes_connection = True


class MalformedRequest(ServiceError):
    """The request line, a header or the framing of the body is not valid in HTTP/1.1."""

    status = 400
    closes_connection = True


class UnknownHost(ServiceError):
    """The Host header names another host than this service answers for."""

    status, title = 421, "Misdirected request"
    closes_connection = True


class HeadTooLarge(ServiceError):
    """The request line and the headers are past their limit."""

    status = 431
    closes_connection = True


class SlowHead(ServiceError):
    """The request line and the headers did not arrive in time."""

    status = 408
    closes_connection = True


class ShortOfMemory(Unavailable):
    """There is not enough memory for this request at this moment."""

    status = 503


class NotTranscribed(Unavailable):
    """The words of the voice were asked for, and transcription is not possible at this moment."""

    status = 503


class DeviceLost(Unavailable):
    """The device, or the model on it, no longer computes."""

    status = 503


class DeadlinePassed(ServiceError):
    """An answer would come too late."""

    status = 504


class NothingUsable(ServiceError):
    """Every modality that was given is empty.

    Args:
        empty: modality → why it counts as missing; at least one.
    """

    status = 422

    def __init__(self, empty: Mapping[Modality, EmptyModality]) -> None:
        self.empty = dict(empty)
        super().__init__(
            "Nothing usable remains: " + "; ".join(map(str, empty.values())),
            [Fault(part=PART_OF[modality], place=None, detail=error.detail) for modality, error in empty.items()],
        )


class Unprocessable(ServiceError):
    """The model fails on this item, though not on others."""

    status, title = 422, "Input not processable"


class ReloadRefused(ServiceError):
    """The weights that were to be served next cannot be; those before are served on."""

    status, title = 409, "Weights refused"


class ReloadUnderway(ServiceError):
    """Weights are being loaded already."""

    status, title = 409, "Weights being loaded"


class UploadError(ServiceError):
    """Base of everything below.

    Args:
        detail: the problem's `detail`; never quotes content.
        part: name of the form's part; None for the whole body.
        place: where in the part ("line 7, column AU12_r", "byte 1042"); None for the whole part.
    """

    status = 422

    def __init__(self, detail: str, *, part: str | None = None, place: str | None = None) -> None:
        self.part, self.place = part, place
        fault = Fault(part=part, place=place, detail=detail)
        super().__init__(detail, [fault], ": ".join(filter(None, (part, place, detail))))


class MalformedBody(UploadError):
    """The body's framing is broken."""

    status = 400
    closes_connection = True


class ClientGone(MalformedBody):
    """The client closed the connection before the body's end; nobody is left to read the answer."""


class SlowBody(UploadError):
    """The whole body did not arrive in time. The connection should be closed with the answer."""

    status = 408
    closes_connection = True


class BodyTooLarge(UploadError):
    """Past the body limit. The connection should be closed with the answer."""

    status = 413
    closes_connection = True


class UnsupportedContentType(UploadError):
    """A content type that the route does not accept, or a body that is encoded in a way that is not accepted."""

    status = 415


class EmptyForm(UploadError):
    """No part at all."""


class UnexpectedJson(UploadError):
    """A JSON body of another form than the route accepts: a type, a member, an id that is missing or given twice."""

    title = "Unexpected JSON"


class TooManyItems(UploadError):
    """More items in a batch than may be."""

    status = 413


class UnknownPart(UploadError):
    """A part that is not text, audio or openface."""


class DuplicatePart(UploadError):
    """A part given twice."""


class PartTooLarge(UploadError):
    """One part past a limit of size, duration or rows."""

    status = 413


class TextTooLong(PartTooLarge):
    """The text past its limit."""

    status = 422


class UnsupportedPart(UploadError):
    """A part in a format that is not accepted."""

    status = 415


class CorruptPart(UploadError):
    """A part that is not what it claims to be, or not readable to its end."""


class UnknownFace(UploadError):
    """The query option `face_id` names a face that the OpenFace part does not have."""


class DecoderFailed(UploadError):
    """A part's decoder was stopped: out of time, memory or processor seconds, or it crashed."""


class NoRoom(UploadError):
    """There is no room to keep the upload in at this moment: a disk, a quota or a table of open files is full."""

    status = 503
    closes_connection = True
    retry_after = 5  # time for other uploads to finish and free their files


class NoDecoder(UploadError):
    """There is no process to decode the upload at this moment, or it was killed from outside twice."""

    status = 503
    retry_after = 2  # start-up time of a decoder process on a loaded machine


class InvalidQuery(ServiceError):
    """A query option that is not understood."""

    status = 422


class Internal(ServiceError):
    """A fault of the service, not of the request."""

    status, title = 500, "Internal error"


def from_modality(error: ModalityError) -> UploadError:
    """Translate a modality's error into the error of the form's part that carried it.

    Raises:
        TypeError: `error` is an `EmptyModality`, which makes a modality missing, or of no known class.
    """
    kind: type[UploadError] = CorruptPart
    if isinstance(error, ModalityTooLarge):
        kind = TextTooLong if error.modality is Modality.TEXT else PartTooLarge
    elif isinstance(error, UnsupportedFormat) and error.modality is Modality.AUDIO:
        # Only audio has several formats; a CSV without the required columns is a corrupt CSV.
        kind = UnsupportedPart
    elif isinstance(error, FaceNotFound):
        kind = UnknownFace
    elif not isinstance(error, CorruptModality | UnsupportedFormat):
        raise TypeError(f"no upload error corresponds to {type(error).__name__}")
    return kind(error.detail, part=PART_OF[error.modality], place=error.place)
