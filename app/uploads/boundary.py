"""The byte-level multipart parser, made to say where a body ends.

For: finding content after the closing boundary, wherever the body happens to be cut into chunks.
Does not know: parts and their names; the callbacks it is given do.
Source: RFC 2046, section 5.1.1. The parser is `python_multipart`'s, which skips what follows the closing boundary and
does not say where that was.
"""

import logging
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from app.uploads.errors import MalformedBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_BOUNDARY_LENGTH: Final = 70  # bytes, RFC 2046, section 5.1.1

# The parser's own warnings quote bytes of the body, which must not reach a log. A filter and not `disabled`, which is
# set back by whoever configures logging afterwards, as uvicorn does.
_SILENT: Final = logging.getLogger(f"{__name__}.silent")
_SILENT.addFilter(lambda _: False)


class BoundaryParser:
    """Reads a multipart body, chunk by chunk, as far as its closing boundary.

    Args:
        boundary: as the content type names it.
        callbacks: told of the parts; what they raise passes through.

    Raises:
        MalformedBody: there can be no such boundary.
    """

    def __init__(self, boundary: bytes, callbacks: "MultipartCallbacks") -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH or b"\r" in boundary or b"\n" in boundary:
            raise MalformedBody(f"Content-Type must name a boundary of 1 to {MAX_BOUNDARY_LENGTH} bytes")
        self.ended = False
        self._parser = MultipartParser(boundary, {**callbacks, "on_end": self._end})
        self._parser.logger = _SILENT
        self._closing = b"\r\n--" + boundary + b"--"
        # The end of what came before, so that a closing boundary cut in two is found whole; a body may begin with one.
        self._tail = b"\r\n"

    def write(self, chunk: bytes) -> bytes:
        """Read on; returns what follows the closing boundary.

        Raises:
            MalformedBody: the body is not well-formed.
        """
        # The parser has ended where a closing boundary is written, but not every one that is written is one: a line of
        # a part may look the same. So it is given the bytes up to each such place, and asked there.
        window, at = self._tail + chunk, len(self._tail)
        self._tail = window[1 - len(self._closing) :]
        search = 0
        while not self.ended and at < len(window):
            found = window.find(self._closing, search)
            search = len(window) if found < 0 else found + len(self._closing)
            self._feed(window[at:search])
            at = search
        return window[at:]

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            # The parser's own words quote the bytes it stumbled on.
            raise MalformedBody("the multipart body is not well-formed") from None

    def _end(self) -> None:
        self.ended = True
