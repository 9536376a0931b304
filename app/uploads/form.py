"""A request's body → the three raw parts, or an error that says what is wrong with it.

For: reading `multipart/form-data` (and `application/x-www-form-urlencoded` with `text` alone) so that nothing a client
sent is lost without an error: no part beyond the three names, none twice, no body cut before its closing boundary.
Does not know: what the parts hold (see `app.decoding.text`, `audio` and `openface`).
Source: RFC 7578 (multipart/form-data) and RFC 2046, section 5.1. The byte-level parser (`app.uploads.boundary`) ignores
what precedes the first boundary and what follows the last, and a missing last one, hence the checks here.

Every limit is counted on the bytes that arrive; a `Content-Length` header can only have a body refused earlier.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from app.uploads.boundary import BoundaryParser
from app.uploads.errors import (
    BodyTooLarge,
    ClientGone,
    DuplicatePart,
    EmptyForm,
    MalformedBody,
    PartTooLarge,
    SlowBody,
    TextTooLong,
    UnknownPart,
    UnsupportedContentType,
    UnsupportedPart,
)
from app.uploads.spool import SpooledFile, finding_room, spooled

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MIB: Final = 2**20
PartName: TypeAlias = Literal["text", "audio", "openface"]
PART_NAMES: Final[tuple[PartName, ...]] = get_args(PartName)
IDENTITY_ENCODINGS: Final = (b"7bit", b"8bit", b"binary")
UTF8_CHARSETS: Final = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
ESCAPED_BYTES: Final = 3  # of one byte, as `%61`
NAME_BYTES: Final = 256  # kept beside an urlencoded text: its name, and enough of another to tell that it is unknown


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What a body may cost. Sizes in bytes.

    Args:
        body_bytes: the whole body.
        body_seconds: from the start of reading to the body's last byte.
        text_bytes: the text part.
        openface_bytes: the OpenFace part.
        spool_bytes: of one file kept in memory; past this it is on disk.
    """

    body_bytes: int = 25 * MIB
    body_seconds: float = 30.0
    text_bytes: int = 64 * 1024
    openface_bytes: int = 8 * MIB
    spool_bytes: int = 1 * MIB


@dataclass(slots=True)
class RawForm:
    """The parts that were sent, untouched. A file stands at its beginning and is gone after `close`."""

    text: bytes | None = None
    audio: SpooledFile | None = None
    openface: SpooledFile | None = None
    _files: ExitStack = field(default_factory=ExitStack, repr=False)

    def open(self, part: Literal["audio", "openface"], spool_bytes: int) -> SpooledFile:
        """Make a file for a part's content."""
        file = self._files.enter_context(spooled(spool_bytes))
        if part == "audio":
            self.audio = file
        else:
            self.openface = file
        return file

    def close(self) -> None:
        """Drop the files that `open` made, from disk too."""
        self._files.close()


@asynccontextmanager
async def read_form(request: Request, limits: UploadLimits) -> AsyncIterator[RawForm]:
    """Read the whole body within its limits; the files live as long as the context.

    Raises:
        UploadError: see `app.uploads.errors`; any of it but the faults of one part's content.
    """
    form = RawForm()
    clock = asyncio.timeout(limits.body_seconds)
    try:
        try:
            async with clock:
                with finding_room():
                    await _fill(form, request, limits)
        except TimeoutError:
            if not clock.expired():
                raise
            raise SlowBody(f"the whole body must arrive within {limits.body_seconds:g} seconds") from None
        except ClientDisconnect:
            raise ClientGone("the connection was closed before the body's end") from None
        yield form
    finally:
        form.close()


async def _fill(form: RawForm, request: Request, limits: UploadLimits) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedContentType("a body with a Content-Encoding is not accepted")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    kinds = request.headers.getlist("content-type")
    kind, options = parse_options_header(kinds[0]) if len(kinds) == 1 else (b"", {})
    if kind == b"multipart/form-data":
        await _read_multipart(form, request, limits, options.get(b"boundary", b""))
    elif kind == b"application/x-www-form-urlencoded":
        if options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
            raise UnsupportedContentType("only the UTF-8 charset is accepted")
        form.text = await _read_urlencoded(request, limits)
    else:
        raise UnsupportedContentType(
            "send multipart/form-data with any of the parts text, audio and openface,"
            " or application/x-www-form-urlencoded with text alone"
        )


async def _chunks(request: Request, limits: UploadLimits) -> AsyncIterator[bytes]:
    """The body's chunks, none of them empty, refused once their sum passes the limit."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.body_bytes:
            raise _too_large(limits)
        if chunk:
            yield chunk


def _too_large(limits: UploadLimits) -> BodyTooLarge:
    return BodyTooLarge(f"a body may hold at most {limits.body_bytes} bytes")


async def _read_urlencoded(request: Request, limits: UploadLimits) -> bytes:
    kept = ESCAPED_BYTES * limits.text_bytes + NAME_BYTES
    body = bytearray()
    whole = True
    async for chunk in _chunks(request, limits):
        # The rest of a body that is too long already is counted, for its own limit, and not kept.
        whole = whole and len(body) + len(chunk) <= kept
        body += chunk[: kept - len(body)]
    pairs = [pair.partition(b"=")[::2] for pair in bytes(body).split(b"&") if pair]
    names = [_unquote(name) for name, _ in pairs]
    if not names:
        raise EmptyForm("the form holds no part")
    for name in names:
        if name != b"text":
            raise UnknownPart("only text can be sent as application/x-www-form-urlencoded", part=_name(name))
    if len(names) > 1:
        raise DuplicatePart("the part may be given only once", part="text")
    text = _unquote(pairs[0][1])
    if len(text) > limits.text_bytes or not whole:
        raise _text_too_long(limits)
    return text


def _unquote(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"+", b" "))


def _text_too_long(limits: UploadLimits) -> TextTooLong:
    return TextTooLong(f"the text may hold at most {limits.text_bytes} bytes", part="text")


def _name(raw: bytes) -> PartName | None:
    """A part's name when it is one of the three; anything else is the client's content and is not repeated."""
    return next((name for name in PART_NAMES if name.encode() == raw), None)


async def _read_multipart(form: RawForm, request: Request, limits: UploadLimits, boundary: bytes) -> None:
    parts = _Parts(form, limits)
    parser = BoundaryParser(boundary, parts.callbacks())
    first = True
    async for chunk in _chunks(request, limits):
        if first and not chunk.startswith(b"-"):
            raise MalformedBody("the body must begin with its boundary")
        first = False
        if parser.write(chunk).strip(b" \t\r\n"):
            raise MalformedBody("there is content after the closing boundary")
        await parts.flush()
    if not parser.ended:
        raise MalformedBody("the body ends before its closing boundary")
    if not parts.seen:
        raise EmptyForm("the form holds no part")
    for file in (form.audio, form.openface):
        if file is not None:
            file.seek(0)


class _Parts:
    """What the parser's callbacks write to: the headers and the content of the part being read."""

    def __init__(self, form: RawForm, limits: UploadLimits) -> None:
        self.form, self.limits = form, limits
        self.seen: set[str] = set()
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._part: PartName = "text"
        self._size = 0
        self._text = bytearray()
        self._file: SpooledFile
        self._pending: list[tuple[SpooledFile, bytes]] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
        }

    async def flush(self) -> None:
        """Write what the last chunk held; off the event loop where it goes to disk."""
        pending, self._pending = self._pending, []
        for file, data in pending:
            if file.tell() + len(data) > self.limits.spool_bytes:
                await asyncio.to_thread(file.write, data)
            else:
                file.write(data)

    def _begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        field = self._field.lower()
        if field in self._headers:
            raise MalformedBody("a part's header is given twice")
        self._headers[field] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        disposition, options = self._header(b"content-disposition")
        if disposition != b"form-data" or b"name" not in options:
            raise MalformedBody("a part has no Content-Disposition: form-data with a name")
        part = _name(options[b"name"])
        if part is None:
            raise UnknownPart(f"only the parts {', '.join(PART_NAMES)} are accepted")
        if part in self.seen:
            raise DuplicatePart("the part may be given only once", part=part)
        if self._header(b"content-transfer-encoding", b"binary")[0] not in IDENTITY_ENCODINGS:
            raise UnsupportedPart("a part with a Content-Transfer-Encoding is not accepted", part=part)
        if part == "text":
            kind, options = self._header(b"content-type", b"text/plain")
            if kind != b"text/plain" or options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
                raise UnsupportedPart("the text must be a form field or a text/plain file in UTF-8", part=part)
        self.seen.add(part)
        self._part, self._size = part, 0
        # A file's declared type is not looked at: its first bytes decide.
        if part != "text":
            self._file = self.form.open(part, self.limits.spool_bytes)

    def _header(self, field: bytes, default: bytes = b"") -> tuple[bytes, dict[bytes, bytes]]:
        return parse_options_header(self._headers.get(field, default).decode("latin-1"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._part == "text":
            if self._size > self.limits.text_bytes:
                raise _text_too_long(self.limits)
            self._text += data[start:end]
            return
        if self._part == "openface" and self._size > self.limits.openface_bytes:
            raise PartTooLarge(f"an OpenFace CSV may hold at most {self.limits.openface_bytes} bytes", part="openface")
        self._pending.append((self._file, data[start:end]))

    def _end_part(self) -> None:
        if self._part == "text":
            self.form.text = bytes(self._text)
