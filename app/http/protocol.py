"""What answers when a request is not even HTTP, or its head does not end.

For: giving the errors that no application sees the shape of every other: uvicorn's own 400, and the two limits that it
does not have, on the size of a request's head and on the time it takes to arrive. And for hearing out, for a while, a
client that sends on after its answer: see `app.http.lingering_close`.
Does not know: the application.
"""

import asyncio
import json
from http import HTTPStatus
from typing import ClassVar, Final
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.http.lingering_close import LingeringTransport

HEAD_BYTES: Final = 64 * 2**10  # request line and headers together; browsers and proxies stay under 16 KiB
HEAD_SECONDS: Final = 30.0  # the default

MALFORMED: Final = "The request is not well-formed HTTP, or its method is unknown."
TOO_LARGE: Final = f"The request line and the headers may hold at most {HEAD_BYTES} bytes."
TOO_SLOW: Final = "The request line and the headers must arrive within {:g} seconds."


class ProblemProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, whose refusals are `application/problem+json`, and which does not wait for ever."""

    head_seconds: ClassVar[float] = HEAD_SECONDS
    """From the connection, or from a request's first byte, to the end of its headers; as long again, after an answer
    that did not need the body, to the end of that."""

    _head_bytes = 0
    _in_head = True  # a connection that says nothing is late, too
    _late: asyncio.TimerHandle | None = None
    _way_out: LingeringTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself has it
        """Begin to wait for a request."""
        self._way_out = LingeringTransport(transport, self.loop, self._sending_in_vain, self._leave)
        super().connection_made(self._way_out)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head_arrived()
        self._way_out.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless what it has been fed is already too much of a head."""
        if self._way_out.lingering:
            self._way_out.drop(len(data))
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Count no further: what follows is the body, and its reader's business."""
        self._head_arrived()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Have the next request wait for what is still to come of this one's body, but not for ever."""
        super().on_response_complete()
        if self._sending_in_vain() and not self.transport.is_closing():
            self._late = self.loop.call_later(self.head_seconds, self.transport.close)

    def on_message_complete(self) -> None:
        """Where the answer came before, begin only now to wait for the next request."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._head_arrived()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what could not be parsed, and close. What uvicorn would say, `msg`, says less."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST, MALFORMED)

    @property
    def _last(self) -> RequestResponseCycle | None:
        """The last request whose head has arrived, and its answer."""
        return self.cycle

    def _sending_in_vain(self) -> bool:
        """Whether a body is still arriving whose request has its answer."""
        last = self._last
        return last is not None and last.response_complete and last.more_body

    def _leave(self) -> None:
        """Belong to the server no longer: whoever ends does not wait for one that only lingers."""
        self._head_arrived()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        last = self._last
        if last is not None and not last.response_complete:
            last.disconnected = True
            last.message_event.set()
        self.flow.resume_writing()

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
        self._way_out.linger()


def protocol_within(seconds: float) -> type[ProblemProtocol]:
    """The protocol with another time for a request's head. Uvicorn takes a class and makes the instances itself."""
    return type("ProblemProtocolWithin", (ProblemProtocol,), {"head_seconds": seconds})
