"""Reading a request's form within limits. Source: RFC 7578 (multipart/form-data); urlencoded forms may carry text."""

# `python_multipart` ignores content before the first boundary, content after the last one and a missing last one, so
# all three are checked here.

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from app import errors
from app.settings import Settings
from app.uploads.body import UTF8_CHARSETS, Body, receive, repeats_a_parameter, require_utf8
from app.uploads.spool import SpooledFile, Uploads

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PartName: TypeAlias = Literal["text", "audio", "openface", "transcript"]
PART_NAMES: Final[tuple[PartName, ...]] = ("text", "audio", "openface")
"""Of an utterance."""
RECORDING_PARTS: Final[tuple[PartName, ...]] = ("audio", "transcript", "openface")
IDENTITY_ENCODINGS: Final = (b"7bit", b"8bit", b"binary")
ESCAPED_BYTES: Final = 3  # length of one percent-encoded byte, `%61`
NAME_BYTES: Final = 256  # kept of an urlencoded body beside the text: enough to see that another name is unknown
MAX_BOUNDARY_LENGTH: Final = 70  # bytes, RFC 2046, section 5.1.1

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
    transcript: IO[bytes] | None = None

    @property
    def files(self) -> list[IO[bytes]]:
        """The parts that are files."""
        return [file for file in (self.audio, self.openface, self.transcript) if file is not None]

    def close(self) -> None:
        """Close the files, which deletes those on disk. Closing twice does nothing."""
        for file in self.files:
            close_file(file)


def close_file(file: IO[bytes]) -> None:
    """Close a file that is no longer needed."""
    # Closing flushes the buffer. On a full disk that fails, which must not replace the error the request already has.
    with suppress(OSError):
        file.close()


@asynccontextmanager
async def read_form(
    request: Request,
    settings: Settings,
    uploads: Uploads | None = None,
    names: Sequence[PartName] = PART_NAMES,
) -> AsyncIterator[RawForm]:
    """Read the whole body within the limits of the settings; the files are open as long as the context.

    Args:
        request: whose body has not been read.
        settings: the limits.
        uploads: of the application; None for those of this request alone.
        names: of the parts that are accepted.

    Raises:
        TooManyUploads: as many bodies are arriving from this address as may.
        UploadError: any but those about the content of a part.
    """
    form = RawForm()
    uploads = uploads or Uploads(settings)
    try:
        await receive(request, settings, uploads, lambda body: _fill(_PartWriter(form, settings, uploads, names), body))
        yield form
    finally:
        form.close()


async def _fill(parts: "_PartWriter", body: Body) -> None:
    if body.kind == b"multipart/form-data":
        await _read_multipart(parts, body.chunks, body.options.get(b"boundary", b""))
    elif "text" not in parts.names:
        raise errors.UnsupportedContentType(f"send multipart/form-data with any of the parts {', '.join(parts.names)}")
    elif body.kind == b"application/x-www-form-urlencoded":
        require_utf8(body)
        parts.form.text = await _read_urlencoded(body.chunks, parts.settings)
    else:
        raise errors.UnsupportedContentType(
            "send multipart/form-data or application/json with any of the parts text, audio and openface,"
            " or application/x-www-form-urlencoded with text alone"
        )


def text_too_long(settings: Settings) -> errors.TextTooLong:
    """Return the error of a text past its limit."""
    return errors.TextTooLong(f"the text may hold at most {settings.max_text_bytes} bytes", part="text")


def openface_too_large(settings: Settings) -> errors.PartTooLarge:
    """Return the error of an OpenFace CSV past its limit of bytes."""
    return errors.PartTooLarge(f"an OpenFace CSV may hold at most {settings.max_openface_bytes} bytes", part="openface")


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
            raise errors.UnknownPart("only text can be sent as application/x-www-form-urlencoded", part=part_name(name))
    if len(pairs) > 1:
        raise errors.DuplicatePart("the part may be given only once", part="text")
    text = pairs[0][1].encode("latin-1")
    if len(text) > settings.max_text_bytes or not complete:
        raise text_too_long(settings)
    return text


def part_name(sent: str, names: Sequence[PartName] = PART_NAMES) -> PartName | None:
    """Return a known part's name; any other name is content of the client and must not be repeated in an error."""
    return next((name for name in names if name == sent), None)


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
    for file in form.files:
        file.seek(0)


class _PartWriter:
    """Callbacks of the multipart parser: collects headers, and writes the content of the current part to the form."""

    def __init__(self, form: RawForm, settings: Settings, uploads: Uploads, names: Sequence[PartName]) -> None:
        self.form, self.settings, self._uploads, self.names = form, settings, uploads, names
        self.seen: set[str] = set()
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._part: PartName = "text"
        self._size = 0
        self._refusal: errors.UploadError | None = None
        self._accepted = False
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
        """Write the content of the last chunk."""
        pending, self._pending = self._pending, []
        for file, data in pending:
            await file.append(data)

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
        part = part_name(options[b"name"].decode("latin-1"), self.names)
        if part is None:
            raise errors.UnknownPart(f"only the parts {', '.join(self.names)} are accepted")
        self._part, self._size, self._accepted = part, 0, False
        self._refusal = self._refuse(part)
        if options.get(b"filename") != b"":  # an untouched file input of a page has an empty name, and is not a part
            self._accept()

    def _refuse(self, part: PartName) -> errors.UploadError | None:
        """Return why the part is not accepted; None if it is."""
        if part in self.seen:
            return errors.DuplicatePart("the part may be given only once", part=part)
        if self._header(b"content-transfer-encoding", b"binary")[0] not in IDENTITY_ENCODINGS:
            return errors.UnsupportedPart("a part with a Content-Transfer-Encoding is not accepted", part=part)
        if part == "text":
            kind, options = self._header(b"content-type", b"text/plain")
            if kind != b"text/plain" or options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
                detail = "the text must be a form field or a text/plain file in UTF-8"
                return errors.UnsupportedPart(detail, part=part)
        return None

    def _accept(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._accepted = True
        self.seen.add(self._part)
        if self._part != "text":
            # The declared type of a file is ignored: the decoder looks at its first bytes.
            self._file = SpooledFile(self.settings.spool_bytes, self._uploads)
            setattr(self.form, self._part, self._file)

    def _header(self, field: bytes, default: bytes = b"") -> tuple[bytes, dict[bytes, bytes]]:
        value = self._headers.get(field, default)
        if repeats_a_parameter(value):
            raise errors.MalformedBody("a parameter of a part's header is given twice")
        return parse_options_header(value.decode("latin-1"))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._accepted:
            self._accept()
        self._size += end - start
        if self._part == "text":
            if self._size > self.settings.max_text_bytes:
                raise text_too_long(self.settings)
            self._text += data[start:end]
            return
        if self._part == "openface" and self._size > self.settings.max_openface_bytes:
            raise openface_too_large(self.settings)
        if self._part == "transcript" and self._size > self.settings.recording_max_transcript_bytes:
            detail = f"a transcript may hold at most {self.settings.recording_max_transcript_bytes} bytes"
            raise errors.PartTooLarge(detail, part="transcript")
        self._pending.append((self._file, data[start:end]))

    def _part_end(self) -> None:
        if self._accepted and self._part == "text":
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
