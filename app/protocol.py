"""What answers when a request is not even HTTP, or its head does not end.

For: giving the errors that no application sees the shape of every other: uvicorn's own 400, and the two limits that it
does not have, on the size of a request's head and on the time it takes to arrive.
Does not know: the application.
"""

import asyncio
import json
from http import HTTPStatus
from typing import ClassVar, Final
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 64 * 2**10  # request line and headers together; browsers and proxies stay under 16 KiB
HEAD_SECONDS: Final = 30.0  # the default

MALFORMED: Final = "The request is not well-formed HTTP, or its method is unknown."
TOO_LARGE: Final = f"The request line and the headers may hold at most {HEAD_BYTES} bytes."
TOO_SLOW: Final = "The request line and the headers must arrive within {:g} seconds."


class ProblemProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, whose refusals are `application/problem+json`, and which does not wait for ever."""

    head_seconds: ClassVar[float] = HEAD_SECONDS
    """From the connection, or from a request's first byte, to the end of its headers."""

    _head_bytes = 0
    _in_head = True  # a connection that says nothing is late, too
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless what it has been fed is already too much of a head."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Count no further: what follows is the body, and its reader's business."""
        self._head_arrived()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what could not be parsed, and close. What uvicorn would say, `msg`, says less."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST, MALFORMED)

    def _await_head(self) -> None:
        self._head_arrived()
        self._in_head = True
        self._late = self.loop.call_later(
            self.head_seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW.format(self.head_seconds)
        )

    def _head_arrived(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._late is not None:
            self._late.cancel()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._head_arrived()
        if self.transport.is_closing():
            return
        request_id = uuid4().hex
        body = json.dumps(
            {
                "type": "about:blank",
                "title": status.phrase,
                "status": status,
                "detail": detail,
                "instance": "",
                "request_id": request_id,
                "errors": [],
            }
        )
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()


def protocol_within(seconds: float) -> type[ProblemProtocol]:
    """The protocol with another time for a request's head. Uvicorn takes a class and makes the instances itself."""
    return type("ProblemProtocolWithin", (ProblemProtocol,), {"head_seconds": seconds})
