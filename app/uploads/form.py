"""Reading a request's form within limits. Source: RFC 7578 (multipart/form-data); urlencoded forms may carry text."""

# `python_multipart` ignores content before the first boundary, content after the last one and a missing last one, so
# all three are checked here. Limits count the bytes that arrive; a Content-Length header only refuses a body earlier.

import asyncio
import errno
import logging
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from app import errors
from app.logging import get_logger
from app.settings import Settings
from app.uploads.spool import SpooledFile, Uploads

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PartName: TypeAlias = Literal["text", "audio", "openface"]
PART_NAMES: Final[tuple[PartName, ...]] = get_args(PartName)
IDENTITY_ENCODINGS: Final = (b"7bit", b"8bit", b"binary")
UTF8_CHARSETS: Final = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
ESCAPED_BYTES: Final = 3  # length of one percent-encoded byte, `%61`
NAME_BYTES: Final = 256  # kept of an urlencoded body beside the text: enough to see that another name is unknown
MAX_BOUNDARY_LENGTH: Final = 70  # bytes, RFC 2046, section 5.1.1
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOENT})
"""A disk, a quota, a file or the table of open files is full; `tempfile` reports ENOENT for lack of a usable folder."""

_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_PARAMETER: Final = re.compile(rb";\s*([^\s;=]+)\s*=")

# The parser's warnings quote bytes of the body, which must not be logged. A filter rather than `disabled`, because
# `logging.config.dictConfig`, as uvicorn calls it, resets `disabled`.
_SILENT: Final = logging.getLogger(f"{__name__}.silent")
_SILENT.addFilter(lambda _: False)


@dataclass(slots=True)
class RawForm:
    """The parts of one form as they were sent; None for a part that was not sent. Files are at position 0."""

    text: bytes | None = None
    audio: IO[bytes] | None = None
    openface: IO[bytes] | None = None

    def close(self) -> None:
        """Close both files, which deletes those on disk. Closing twice does nothing."""
        for file in (self.audio, self.openface):
            if file is not None:
                close_file(file)


def close_file(file: IO[bytes]) -> None:
    """Close a file that is no longer needed."""
    # Closing flushes the buffer. On a full disk that fails, which must not replace the error the request already has.
    with suppress(OSError):
        file.close()


@asynccontextmanager
async def read_form(request: Request, settings: Settings, uploads: Uploads | None = None) -> AsyncIterator[RawForm]:
    """Read the whole body within the limits of the settings; the files are open as long as the context.

    Args:
        request: whose body has not been read.
        settings: the limits.
        uploads: of the application; None for those of this request alone.

    Raises:
        TooManyUploads: as many bodies are arriving from this address as may.
        UploadError: any but those about the content of a part.
    """
    form = RawForm()
    uploads = uploads or Uploads(settings)
    try:
        with uploads.arriving(request.client.host if request.client else ""), refuse_without_room():
            pace = _Pace(settings)
            try:
                async with pace.timeout:
                    await _fill(_PartWriter(form, settings, uploads), request, settings, pace)
            except TimeoutError:
                if not pace.timeout.expired():
                    raise
                raise pace.error() from None
            except ClientDisconnect:
                raise errors.ClientGone("the connection was closed before the body's end") from None
        yield form
    finally:
        form.close()


@contextmanager
def refuse_without_room() -> Iterator[None]:
    """Turn an `OSError` for lack of space or descriptors into a refusal, and log it for the operator.

    Raises:
        NoRoom: there is no room for a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        get_logger().error("no room for an upload", reason=errno.errorcode[error.errno], detail=error.strerror)
        raise errors.NoRoom("there is no room for the upload at this moment") from None


async def _fill(parts: "_PartWriter", request: Request, settings: Settings, pace: "_Pace") -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise errors.UnsupportedContentType("a body with a Content-Encoding is not accepted")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_body_bytes:
        raise _body_too_large(settings)
    kinds = request.headers.getlist("content-type")
    kind, options = parse_options_header(kinds[0]) if len(kinds) == 1 else (b"", {})
    if kinds and _repeats_a_parameter(kinds[0].encode("latin-1")):
        raise errors.MalformedBody("a parameter of Content-Type is given twice")
    if kind == b"multipart/form-data":
        await _read_multipart(parts, _chunks(request, settings, pace), options.get(b"boundary", b""))
    elif kind == b"application/x-www-form-urlencoded":
        if options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
            raise errors.UnsupportedContentType("only the UTF-8 charset is accepted")
        parts.form.text = await _read_urlencoded(_chunks(request, settings, pace), settings)
    else:
        raise errors.UnsupportedContentType(
            "send multipart/form-data with any of the parts text, audio and openface,"
            " or application/x-www-form-urlencoded with text alone"
        )


class _Pace:
    """Time limits of one body: for the whole, and for each stretch of `min_body_rate` × `body_stall_timeout` bytes."""

    def __init__(self, settings: Settings) -> None:
        self._clock = asyncio.get_running_loop().time
        self._settings, self._stall = settings, settings.body_stall_timeout
        self._stretch = settings.min_body_rate * self._stall
        self._bytes = 0
        now = self._clock()
        self._end = now + settings.body_timeout
        self._limit = min(self._end, now + self._stall) if self._stretch else self._end
        self.timeout = asyncio.timeout_at(self._limit)

    def count(self, size: int) -> None:
        """Count bytes that have arrived, and extend the time limit at the end of a stretch."""
        self._bytes += size
        if self._bytes < self._stretch or not self._stretch:
            return
        self._bytes = 0
        limit = min(self._end, self._clock() + self._stall)
        if limit - self._limit > self._stall / 8:  # a timer is not set anew for every chunk of a fast body
            self._limit = limit
            self.timeout.reschedule(limit)

    def error(self) -> errors.SlowBody:
        """Return what the timeout means, and log it."""
        get_logger().warning("upload refused", reason=errors.SlowBody.code)
        if self._limit < self._end:
            return errors.SlowBody(f"a body must arrive at {self._settings.min_body_rate} bytes a second or faster")
        return errors.SlowBody(f"the whole body must arrive within {self._settings.body_timeout:g} seconds")


async def _chunks(request: Request, settings: Settings, pace: _Pace) -> AsyncIterator[bytes]:
    """Yield the non-empty chunks of the body; refuse it once their sum exceeds the limit."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > settings.max_body_bytes:
            raise _body_too_large(settings)
        pace.count(len(chunk))
        if chunk:
            yield chunk


def _body_too_large(settings: Settings) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"a body may hold at most {settings.max_body_bytes} bytes")


def _text_too_long(settings: Settings) -> errors.TextTooLong:
    return errors.TextTooLong(f"the text may hold at most {settings.max_text_bytes} bytes", part="text")


async def _read_urlencoded(chunks: AsyncIterator[bytes], settings: Settings) -> bytes:
    capacity = ESCAPED_BYTES * settings.max_text_bytes + NAME_BYTES
    body = bytearray()
    complete = True
    async for chunk in chunks:
        # Bytes beyond the capacity are not kept, but still count for the limit of the body.
        complete = complete and len(body) + len(chunk) <= capacity
        body += chunk[: capacity - len(body)]
    # Latin-1 maps every byte to one character and back.
    pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    if not pairs:
        raise errors.EmptyForm("the form holds no part")
    for name, _ in pairs:
        if name != "text":
            raise errors.UnknownPart(
                "only text can be sent as application/x-www-form-urlencoded", part=_part_name(name)
            )
    if len(pairs) > 1:
        raise errors.DuplicatePart("the part may be given only once", part="text")
    text = pairs[0][1].encode("latin-1")
    if len(text) > settings.max_text_bytes or not complete:
        raise _text_too_long(settings)
    return text


def _part_name(sent: str) -> PartName | None:
    """Return a known part's name; any other name is content of the client and must not be repeated in an error."""
    return next((name for name in PART_NAMES if name == sent), None)


async def _read_multipart(parts: "_PartWriter", chunks: AsyncIterator[bytes], boundary: bytes) -> None:
    form = parts.form
    parser = _BoundaryParser(boundary, parts.callbacks())
    first = True
    async for received in chunks:
        chunk = received
        if first:
            chunk = received.lstrip(b"\r\n")  # a boundary begins with a line break, RFC 2046, section 5.1.1
            if not chunk:
                continue
            if not chunk.startswith(b"-"):
                raise errors.MalformedBody("the body must begin with its boundary")
            first = False
        if parser.write(chunk).strip(b" \t\r\n"):
            raise errors.MalformedBody("there is content after the closing boundary")
        await parts.flush()
    if not parser.ended:
        raise errors.MalformedBody("the body ends before its closing boundary")
    if not parts.seen:
        raise errors.EmptyForm("the form holds no part")
    for file in (form.audio, form.openface):
        if file is not None:
            file.seek(0)


def _repeats_a_parameter(value: bytes) -> bool:
    """Whether a header has two parameters of one name, `name*` being `name`: readers differ in which they take."""
    if value.count(b";") < 2:
        return False
    names = [name.lower().replace(b"name*", b"name") for name in _PARAMETER.findall(_QUOTED.sub(b"", value))]
    names = [name for name in names if name != b"filename"]  # not used, and usually sent in both forms
    return len(names) > len(set(names))


async def _finish(work: Coroutine[Any, Any, object]) -> None:
    """Await work in a thread; if cancelled, only once it has ended, so that it does not write to a closed file."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


class _PartWriter:
    """Callbacks of the multipart parser: collects headers, and writes the content of the current part to the form."""

    def __init__(self, form: RawForm, settings: Settings, uploads: Uploads) -> None:
        self.form, self.settings, self._uploads = form, settings, uploads
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
            "on_part_begin": self._headers.clear,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }

    async def flush(self) -> None:
        """Write the content of the last chunk; in a thread where it goes to disk."""
        pending, self._pending = self._pending, []
        for file, data in pending:
            if file.reserve(len(data)):
                await _finish(asyncio.to_thread(file.write, data))
            else:
                file.write(data)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        field = self._field.lower()
        if field in self._headers:
            raise errors.MalformedBody("a part's header is given twice")
        self._headers[field] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        disposition, options = self._header(b"content-disposition")
        if disposition != b"form-data" or b"name" not in options:
            raise errors.MalformedBody("a part has no Content-Disposition: form-data with a name")
        part = _part_name(options[b"name"].decode("latin-1"))
        if part is None:
            raise errors.UnknownPart(f"only the parts {', '.join(PART_NAMES)} are accepted")
        if part in self.seen:
            raise errors.DuplicatePart("the part may be given only once", part=part)
        if self._header(b"content-transfer-encoding", b"binary")[0] not in IDENTITY_ENCODINGS:
            raise errors.UnsupportedPart("a part with a Content-Transfer-Encoding is not accepted", part=part)
        self.seen.add(part)
        self._part, self._size = part, 0
        if part == "text":
            kind, options = self._header(b"content-type", b"text/plain")
            if kind != b"text/plain" or options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
                raise errors.UnsupportedPart("the text must be a form field or a text/plain file in UTF-8", part=part)
        else:
            # The declared type of a file is ignored: the decoder looks at its first bytes.
            self._file = SpooledFile(self.settings.spool_bytes, self._uploads)
            setattr(self.form, part, self._file)

    def _header(self, field: bytes, default: bytes = b"") -> tuple[bytes, dict[bytes, bytes]]:
        value = self._headers.get(field, default)
        if _repeats_a_parameter(value):
            raise errors.MalformedBody("a parameter of a part's header is given twice")
        return parse_options_header(value.decode("latin-1"))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._part == "text":
            if self._size > self.settings.max_text_bytes:
                raise _text_too_long(self.settings)
            self._text += data[start:end]
            return
        if self._part == "openface" and self._size > self.settings.max_openface_bytes:
            raise errors.PartTooLarge(
                f"an OpenFace CSV may hold at most {self.settings.max_openface_bytes} bytes", part="openface"
            )
        self._pending.append((self._file, data[start:end]))

    def _part_end(self) -> None:
        if self._part == "text":
            self.form.text = bytes(self._text)


class _BoundaryParser:
    """Parses a multipart body chunk by chunk, up to its closing boundary.

    Args:
        boundary: from the Content-Type header.
        callbacks: of `python_multipart`; their exceptions propagate.

    Raises:
        MalformedBody: the boundary is not valid.
    """

    def __init__(self, boundary: bytes, callbacks: "MultipartCallbacks") -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH or b"\r" in boundary or b"\n" in boundary:
            raise errors.MalformedBody(f"Content-Type must name a boundary of 1 to {MAX_BOUNDARY_LENGTH} bytes")
        self.ended = False
        self._parser = MultipartParser(boundary, {**callbacks, "on_end": self._end})
        self._parser.logger = _SILENT
        self._closing = b"\r\n--" + boundary + b"--"
        # The end of the previous chunk, to find a closing boundary that two chunks share. A body may begin with one.
        self._tail = b"\r\n"

    def write(self, chunk: bytes) -> bytes:
        """Parse a chunk; return what follows the closing boundary.

        Raises:
            MalformedBody: the body is not well-formed.
        """
        # A line inside a part may look like the closing boundary. The parser decides: it is given the bytes up to the
        # end of each candidate, and calls `on_end` where the candidate is the closing boundary.
        window, position = self._tail + chunk, len(self._tail)
        self._tail = window[1 - len(self._closing) :]
        search = 0
        while not self.ended and position < len(window):
            found = window.find(self._closing, search)
            search = len(window) if found < 0 else found + len(self._closing)
            try:
                self._parser.write(window[position:search])
            except FormParserError:  # its message quotes the body
                raise errors.MalformedBody("the multipart body is not well-formed") from None
            position = search
        return window[position:]

    def _end(self) -> None:
        self.ended = True
