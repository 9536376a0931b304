"""Reads JSON as it arrives, a piece of a string at a time; `app.uploads.json_body` defines what a body may hold."""

# The parsers of libraries collect a whole string, which for base64 is the upload itself. Here the content of a string
# is decoded while it arrives, and goes to disk as that of a multipart form does.

import json
import re
from collections.abc import AsyncIterator
from typing import Final

from app import errors
from app.uploads.form import PartName

MAX_NAME: Final = 64  # bytes of a member's name as written; the longest known name has 8
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
# Without possessive quantifiers, whose matches are wrong in Python 3.11.0 to 3.11.4 (python/cpython#101955).
_CONTENT: Final = re.compile(rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
_BEGUN_ESCAPE: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_OF_NUMBERS: Final = b"0123456789+-.eE"
_OTHER_VALUES: Final = b"[{tf-0123456789"  # first bytes of values that are neither a string nor null


def unescape(written: bytes | bytearray) -> str:
    """Return the text of a string's content; may hold lone surrogates.

    Raises:
        UnicodeDecodeError: not UTF-8.
    """
    text: str = json.loads(f'"{written.decode()}"')
    return text


class JsonReader:
    """Pulls the values of one JSON text (RFC 8259) from the chunks of a body.

    Numbers are read only by `whole_number`, and true and false not at all: no member may have one.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer, self._position = b"", 0
        self._before = 0  # bytes before the buffer

    async def begin(
        self, first: bytes, kind: str, place: str, part: PartName | None = None, *, nullable: bool = False
    ) -> bool:
        """Read the first byte of a value; return False for a null that is accepted.

        Raises:
            UnexpectedJson: a value of another type.
            MalformedBody: not JSON.
        """
        found = await self._next()
        if found == first:
            return True
        if found == b"n":
            for expected in (b"u", b"l", b"l"):
                if await self._byte() != expected:
                    raise self._malformed()
            if nullable:
                return False
        elif found not in b'"' and found not in _OTHER_VALUES:
            raise self._malformed()
        raise errors.UnexpectedJson(f"must be {kind}", part=part, place=place or None)

    async def members(self, pointer: str) -> AsyncIterator[str]:
        """Yield the names of an object that has begun; the caller reads each value before the next name."""
        found = await self._next()
        while found != b"}":
            if found != b'"':
                raise self._malformed()
            name = await self.whole(MAX_NAME, pointer)
            if await self._next() != b":":
                raise self._malformed()
            yield name
            found = await self._next()
            if found == b",":
                found = await self._next()
                if found == b"}":
                    raise self._malformed()
            elif found != b"}":
                raise self._malformed()

    async def elements(self) -> AsyncIterator[int]:
        """Yield the positions of an array that has begun; the caller reads each value before the next position."""
        if await self._next() == b"]":
            return
        self._position -= 1
        position = 0
        while True:
            yield position
            position += 1
            found = await self._next()
            if found == b"]":
                return
            if found != b",":
                raise self._malformed()

    async def string(self) -> AsyncIterator[bytes]:
        """Yield the content of a string that has begun, as it is written; no piece ends within an escape."""
        while True:
            found = _CONTENT.match(self._buffer, self._position)
            assert found is not None  # an empty match is one
            if found[0]:
                self._position = found.end()
                yield found[0]
            if self._position == len(self._buffer) or _BEGUN_ESCAPE.match(self._buffer, self._position):
                await self._fill()
            elif self._buffer[self._position] == ord('"'):
                self._position += 1
                return
            else:
                self._position += 1
                raise self._malformed()

    async def whole(self, most: int, place: str) -> str:
        """Return a short string that has begun.

        Raises:
            UnexpectedJson: more than `most` bytes.
            MalformedBody: not UTF-8, or half of a surrogate pair.
        """
        written = bytearray()
        async for piece in self.string():
            written += piece
            if len(written) > most:
                raise errors.UnexpectedJson("a name or an id is too long", place=place or None)
        try:
            text = unescape(written)
            text.encode()
        except UnicodeError:
            raise errors.MalformedBody("a name or an id is not UTF-8", place=place or None) from None
        return text

    async def whole_number(self, most: int, place: str) -> int | None:
        """Read a whole number from 0 to `most`, written without fraction and exponent; None for null.

        Raises:
            UnexpectedJson: another number, or a value of another type.
            MalformedBody: not JSON.
        """
        kind = f"a whole number from 0 to {most}, or null"
        first = await self._next()
        self._position -= 1
        if not first.isdigit():
            await self.begin(b"", kind, place, nullable=True)
            return None
        written = b""
        while (byte := await self._byte()) in _OF_NUMBERS and len(written) <= len(str(most)):
            written += byte
        self._position -= 1
        if len(written) > 1 and written.startswith(b"0") and written.isdigit():
            raise self._malformed()
        if not written.isdigit() or int(written) > most:
            raise errors.UnexpectedJson(f"must be {kind}", place=place)
        return int(written)

    async def end(self) -> None:
        """Read to the end of the body, where only white space may be.

        Raises:
            MalformedBody: there is more.
        """
        while True:
            self._skip_blanks()
            if self._position < len(self._buffer):
                raise errors.MalformedBody("there is content after the JSON value")
            if not await self._more():
                return

    async def _next(self) -> bytes:
        """Return the next byte that is not white space."""
        self._skip_blanks()
        while self._position == len(self._buffer):
            await self._fill()
            self._skip_blanks()
        return await self._byte()

    async def _byte(self) -> bytes:
        while self._position == len(self._buffer):
            await self._fill()
        self._position += 1
        return self._buffer[self._position - 1 : self._position]

    def _skip_blanks(self) -> None:
        found = _BLANK.match(self._buffer, self._position)
        assert found is not None
        self._position = found.end()

    async def _fill(self) -> None:
        if not await self._more():
            raise errors.MalformedBody("the body ends before its JSON value does")

    async def _more(self) -> bool:
        """Append the next chunk to what is left of the buffer; return False at the end of the body."""
        chunk = await anext(self._chunks, b"")
        self._before += self._position
        self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        return bool(chunk)

    def _malformed(self) -> errors.MalformedBody:
        # Called after the byte at fault has been read.
        return errors.MalformedBody("the body is not JSON", place=f"byte {self._before + self._position - 1}")
