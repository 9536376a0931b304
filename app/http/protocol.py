"""Uvicorn's HTTP protocol with limits on a request's head, a lingering close, and errors as problem+json."""

# Uvicorn answers a malformed request itself, with plain text, and limits neither the size of a head nor the time it
# takes to arrive. Both happen before any application is called, so they are handled here.

import asyncio
import json
from http import HTTPStatus
from typing import ClassVar, Final
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.http.lingering_close import LingeringTransport

HEAD_BYTES: Final = 64 * 2**10  # request line and headers together; browsers and proxies stay under 16 KiB
HEAD_SECONDS: Final = 30.0  # default

MALFORMED: Final = "The request is not well-formed HTTP, or its method is unknown."
TOO_LARGE: Final = f"The request line and the headers may hold at most {HEAD_BYTES} bytes."
TOO_SLOW: Final = "The request line and the headers must arrive within {:g} seconds."


class ProblemProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with the limits and errors described above."""

    head_seconds: ClassVar[float] = HEAD_SECONDS
    """Time limit of a head, from the connection or the request's first byte; also of the rest of a body whose response
    has been sent already."""

    _head_bytes = 0
    _in_head = True  # from the connection on: the time limit applies to idle new connections too
    _timer: asyncio.TimerHandle | None = None
    _lingering: LingeringTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wrap the transport, and start the time limit of the first head."""
        self._lingering = LingeringTransport(transport, self.loop, self._body_is_unread, self._detach)
        super().connection_made(self._lingering)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer."""
        self._end_head()
        self._lingering.connection_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, and refuse a head that is too large."""
        if self._lingering.lingering:
            self._lingering.discard(len(data))
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)

    def on_message_begin(self) -> None:
        """Start the limits of a head."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._start_head()

    def on_headers_complete(self) -> None:
        """End the limits of the head; the application limits the body."""
        self._end_head()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Start a time limit for the rest of the body, if there is any: the next request follows it."""
        super().on_response_complete()
        if self._body_is_unread() and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def on_message_complete(self) -> None:
        """Start the keep-alive timeout, if the response was complete before the body."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._end_head()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what could not be parsed. Uvicorn's `msg` is not shown."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST, MALFORMED)

    @property
    def _current(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, unlike uvicorn's annotation

    def _body_is_unread(self) -> bool:
        """Whether the response is complete and its request's body is still arriving."""
        current = self._current
        return current is not None and current.response_complete and current.more_body

    def _detach(self) -> None:
        """Remove the lingering connection from the server, whose shutdown does not wait for it."""
        self._end_head()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        current = self._current
        if current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        self.flow.resume_writing()

    def _start_head(self) -> None:
        self._end_head()
        self._in_head = True
        self._timer = self.loop.call_later(
            self.head_seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW.format(self.head_seconds)
        )

    def _end_head(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._timer is not None:
            self._timer.cancel()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        request_id = uuid4().hex
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": detail,
            "instance": "",
            "request_id": request_id,
            "errors": [],
        }
        body = json.dumps(problem)
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self._lingering.linger()


def protocol_within(seconds: float) -> type[ProblemProtocol]:
    """Return the protocol class with another time limit of a head; uvicorn instantiates the class itself."""
    return type("ProblemProtocolWithin", (ProblemProtocol,), {"head_seconds": seconds})
