"""The exceptions of reading an upload, each with the HTTP status it answers with.

For: telling a client exactly which part of its request is wrong, and where.
Does not know: problem+json (see `app.api.problems`). `model.errors.EmptyModality` passes through this package
unchanged: it makes a modality missing, not a request wrong.

    UploadError
    ├── MalformedBody              400  framing broken: cut before its closing boundary, bad part header
    │   └── ClientGone             400  the client closed the connection before the body's end
    ├── SlowBody                   408  the whole body did not arrive in time
    ├── BodyTooLarge               413  past the body limit, counted while streaming
    ├── UnsupportedContentType     415  neither multipart/form-data nor application/x-www-form-urlencoded
    ├── EmptyForm                  422  no part at all
    ├── UnknownPart                422  a part that is not text, audio or openface
    ├── DuplicatePart              422  a part given twice
    ├── PartTooLarge               413  one part past a limit of size, duration or rows
    │   └── TextTooLong            422
    ├── UnsupportedPart            415  a part in a format that is not accepted
    ├── CorruptPart                422  a part that is not what it claims to be
    ├── DecoderFailed              422  a part's decoder was stopped: out of time, memory or processor seconds
    └── NoRoom                     503  not the upload's fault: there is no room to keep it in; come back later
"""

from typing import ClassVar

from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.modality import Modality

PART_OF = {Modality.TEXT: "text", Modality.AUDIO: "audio", Modality.VISUAL: "openface"}


class UploadError(Exception):
    """Base of everything below.

    Args:
        detail: what is wrong; never quotes the content.
        part: the part it is in; None where it is the whole body.
        place: where in the part ("line 7, column AU12_r", "byte 1042"); None where it is the whole part.
    """

    status: ClassVar[int] = 422
    retry_after: ClassVar[int | None] = None
    """Seconds after which the same upload may be taken; None where it never will be."""

    def __init__(self, detail: str, *, part: str | None = None, place: str | None = None) -> None:
        self.detail, self.part, self.place = detail, part, place
        super().__init__(": ".join(filter(None, (part, place, detail))))


class MalformedBody(UploadError):
    """The body's framing is broken."""

    status = 400


class ClientGone(MalformedBody):
    """The client closed the connection before the body's end; nobody is left to read the answer."""


class SlowBody(UploadError):
    """The whole body did not arrive in time. The connection should be closed with the answer."""

    status = 408


class BodyTooLarge(UploadError):
    """Past the body limit. The connection should be closed with the answer."""

    status = 413


class UnsupportedContentType(UploadError):
    """Neither multipart/form-data nor application/x-www-form-urlencoded, or encoded in a way that is not accepted."""

    status = 415


class EmptyForm(UploadError):
    """No part at all."""


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


class DecoderFailed(UploadError):
    """A part's decoder was stopped: out of time, memory or processor seconds, or killed from outside."""


class NoRoom(UploadError):
    """There is no room to keep the upload in at this moment: a disk, a quota or a table of open files is full."""

    status = 503
    retry_after = 5  # other uploads have to be answered, or somebody has to make room


class NoDecoder(UploadError):
    """There is no process to decode the upload at this moment: those that ended have not been replaced yet."""

    status = 503
    retry_after = 2  # what a process takes to come up on a loaded machine


def from_modality(error: ModalityError) -> UploadError:
    """Say a modality's fault as a fault of the part it came in.

    Raises:
        TypeError: `EmptyModality`, which is no fault.
    """
    if isinstance(error, EmptyModality):
        raise TypeError("an empty modality is missing, not wrong")
    part = PART_OF[error.modality]
    kind: type[UploadError] = CorruptPart
    if isinstance(error, ModalityTooLarge):
        kind = TextTooLong if error.modality is Modality.TEXT else PartTooLarge
    elif isinstance(error, UnsupportedFormat) and error.modality is Modality.AUDIO:
        # Only sound has formats to choose from; a CSV without the columns needed is a wrong CSV.
        kind = UnsupportedPart
    elif not isinstance(error, CorruptModality | UnsupportedFormat):
        raise TypeError(f"no upload error stands for {type(error).__name__}")
    return kind(error.detail, part=part, place=error.place)
