"""The limits of every request's body, whatever its type: size, time, memory and disk."""

# Limits count the bytes that arrive; a Content-Length header only refuses a body earlier.

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from app import errors
from app.logging import get_logger
from app.settings import Settings
from app.uploads.spool import Uploads

UTF8_CHARSETS: Final = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOENT})
"""A disk, a quota, a file or the table of open files is full; `tempfile` reports ENOENT for lack of a usable folder."""

_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_PARAMETER: Final = re.compile(rb";\s*([^\s;=]+)\s*=")


@dataclass(frozen=True, slots=True)
class Body:
    """A body that is arriving.

    Args:
        kind: its media type, lower case; empty without exactly one Content-Type.
        options: parameters of the media type.
        chunks: of the body, not empty; beyond the limits they raise `BodyTooLarge` and `SlowBody`.
    """

    kind: bytes
    options: dict[bytes, bytes]
    chunks: AsyncIterator[bytes]


async def receive(
    request: Request, settings: Settings, uploads: Uploads, read: Callable[[Body], Awaitable[None]]
) -> None:
    """Call `read` with the body of a request, within the limits that apply to every body.

    Raises:
        TooManyUploads: as many bodies are arriving from this address as may.
        UploadError: the body is not accepted as a whole, or `read` raises it.
    """
    with uploads.arriving(request.client.host if request.client else ""), refuse_without_room():
        pace = _Pace(settings)
        try:
            async with pace.timeout:
                await read(_body(request, settings, pace))
        except TimeoutError:
            if not pace.timeout.expired():
                raise
            raise pace.error() from None
        except ClientDisconnect:
            raise errors.ClientGone("the connection was closed before the body's end") from None


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


def _body(request: Request, settings: Settings, pace: "_Pace") -> Body:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise errors.UnsupportedContentType("a body with a Content-Encoding is not accepted")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_body_bytes:
        raise _body_too_large(settings)
    kinds = request.headers.getlist("content-type")
    kind, options = parse_options_header(kinds[0]) if len(kinds) == 1 else (b"", {})
    if kinds and repeats_a_parameter(kinds[0].encode("latin-1")):
        raise errors.MalformedBody("a parameter of Content-Type is given twice")
    return Body(kind, options, _chunks(request, settings, pace))


def require_utf8(body: Body) -> None:
    """Refuse another charset in the Content-Type.

    Raises:
        UnsupportedContentType: another charset.
    """
    if body.options.get(b"charset", b"utf-8").lower() not in UTF8_CHARSETS:
        raise errors.UnsupportedContentType("only the UTF-8 charset is accepted")


def repeats_a_parameter(value: bytes) -> bool:
    """Whether a header has two parameters of one name, `name*` being `name`: readers differ in which they take."""
    if value.count(b";") < 2:
        return False
    names = [name.lower().replace(b"name*", b"name") for name in _PARAMETER.findall(_QUOTED.sub(b"", value))]
    names = [name for name in names if name != b"filename"]  # not used, and usually sent in both forms
    return len(names) > len(set(names))


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
