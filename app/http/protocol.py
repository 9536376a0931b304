"""Uvicorn's HTTP protocol with limits on connections and heads, checks of a head, and errors as problem+json."""

# Uvicorn answers a malformed request itself, with plain text, accepts what RFC 9112 tells a server to refuse, and
# limits neither the size of a head nor the time it takes to arrive. All of it happens before any application is called,
# so it is handled here. `httptools` ends its input at a request that asks for an upgrade; an upgrade is optional (RFC
# 9110, section 7.8), so such a request is parsed again without the fields that ask for it.

import asyncio
import json
import re
import socket
from collections.abc import Collection
from functools import lru_cache
from http import HTTPStatus
from typing import ClassVar, Final
from uuid import uuid4

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import HeadTooLarge, MalformedRequest, ServiceError, SlowHead, UnknownHost
from app.http.connections import Connections
from app.http.lingering_close import LingeringTransport
from app.logging import get_logger

HEAD_BYTES: Final = 64 * 2**10  # request line and headers together; browsers and proxies stay under 16 KiB
HEAD_SECONDS: Final = 30.0  # default
SPARE_HEAD_SECONDS: Final = 2.0  # on a spare connection: a health check sends its head at once
PROBE_SECONDS: Final = 0.5
"""After a client has closed its side of the connection: between checks whether it still reads."""

HEALTH_CHECKS: Final = tuple(
    prefix + path for prefix in (b"", b"/v1") for path in (b"/health", b"/health/live", b"/health/ready")
)
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
UPGRADE_TOKENS: Final = (b"upgrade", b"http2-settings")
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

MALFORMED: Final = "The request is not well-formed HTTP, or its method is unknown."
HOST_COUNT: Final = "A request must have one Host header."
HOST_NAME: Final = "The Host header is not a name or an address, with or without a port."
WRONG_HOST: Final = "The service does not answer for the host that the request names (EMMR_ALLOWED_HOSTS)."
VERSION: Final = "The request's version must be HTTP/1.1 or HTTP/1.0."
ENCODING: Final = "The only transfer coding accepted is chunked, in HTTP/1.1."
TOO_LARGE: Final = f"The request line and the headers may hold at most {HEAD_BYTES} bytes."
TOO_MUCH_FRAMING: Final = f"Between two pieces of a body there may be at most {HEAD_BYTES} bytes."
TOO_SLOW: Final = "The request line and the headers must arrive within {:g} seconds."

_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")


@lru_cache(maxsize=256)
def host_name(value: bytes) -> str | None:
    """Return the name in a Host header, in lower case and without port; None if the header is not valid."""
    match = _HOST.fullmatch(value)
    return None if match is None else match[1].decode("ascii").lower().rstrip(".")


class ProblemProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with the limits and errors described above. The class attributes are for all connections."""

    head_seconds: ClassVar[float] = HEAD_SECONDS
    """Time limit of a head, from the connection or the request's first byte; also of the rest of a body whose response
    has been sent already."""
    allowed_hosts: ClassVar[Collection[str] | None] = None
    """Names that a request's Host may have; None for any."""
    open_connections: ClassVar[Connections] = Connections()

    _error: ServiceError | None = None  # of every request but a health check, on a spare connection
    _deferred: ServiceError | None = None  # to be sent after the responses to earlier requests of this connection
    _since_progress = 0  # bytes of the reads since the last one with the end of a head, a piece or the end of a body
    _in_head = True  # from the connection on: the time limit applies to idle new connections too
    _timer: asyncio.TimerHandle | None = None
    _lingering: LingeringTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Count the connection, wrap the transport, and start the time limit of the first head."""
        self._lingering = LingeringTransport(transport, self.loop, self._body_is_unread, self._detach)
        super().connection_made(self._lingering)
        self._error = self.open_connections.open(self, self.client[0] if self.client else None)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer, and drop the requests that wait for the responses to earlier ones."""
        self.open_connections.close(self)
        self.pipeline.clear()
        self._end_head()
        self._lingering.connection_lost()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection without sending what is still to be sent."""
        self._lingering.abort()

    def eof_received(self) -> bool:  # type: ignore[override]  # None in uvicorn
        """Keep the connection for its responses if the client has sent whole requests and sends no more."""
        current = self._current
        if current is None or current.response_complete or current.more_body or self._lingering.lingering:
            return False
        current.keep_alive = False
        if self._timer is None and current.scope["http_version"] == "1.1":  # 1.0 has no 100 Continue
            self._timer = self.loop.call_later(PROBE_SECONDS, self._probe, CONTINUE)
        return True

    def data_received(self, data: bytes) -> None:
        """Parse data, and refuse a head that is too large."""
        if self._lingering.lingering:
            self._lingering.discard(len(data))
            return
        if self._deferred is not None:
            return
        self._unset_keepalive_if_required()
        self._since_progress += len(data)
        pieces: list[bytes | memoryview] = [data]  # the first at the end
        while pieces:
            piece = pieces.pop()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(MalformedRequest(MALFORMED))
                    return
                pieces += [memoryview(piece)[upgrade.args[0] :], self._head_without_upgrade()]
            except httptools.HttpParserError as error:  # also for an exception in a callback
                cause = error.__context__
                self._refuse(cause if isinstance(cause, ServiceError) else MalformedRequest(MALFORMED))
                return
        if self._since_progress > HEAD_BYTES:
            self._refuse(HeadTooLarge(TOO_LARGE) if self._in_head else MalformedRequest(TOO_MUCH_FRAMING))

    def on_message_begin(self) -> None:
        """Start the time limit of a head."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._start_head()

    def on_headers_complete(self) -> None:
        """Check the head, and end its limits; the application limits the body.

        Raises:
            ServiceError: the request is refused; the parser passes it on to `data_received`.
        """
        if self.parser.should_upgrade():
            return  # `data_received` parses the head again
        self._check_head()
        self._end_head()
        self._since_progress = 0
        super().on_headers_complete()
        self.headers = []  # for trailers, which no application expects among the headers
        if self._error is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._since_progress = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Start a time limit for the rest of the body, if there is any: the next request follows it."""
        was_last = not self.pipeline
        super().on_response_complete()
        if self._body_is_unread() and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)
        if self._deferred is not None and was_last:
            self._send_problem(self._deferred)

    def on_message_complete(self) -> None:
        """Start the keep-alive timeout, if the response was complete before the body."""
        if self.parser.should_upgrade():
            return
        self._since_progress = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._end_head()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    @property
    def _current(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, unlike uvicorn's annotation

    def _body_is_unread(self) -> bool:
        """Whether the response is complete and its request's body is still arriving."""
        current = self._current
        return current is not None and current.response_complete and current.more_body

    def _check_head(self) -> None:
        """Refuse a head that RFC 9112 tells a server to refuse, and one for another host.

        Raises:
            ServiceError: the request is refused.
        """
        size = len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        if size > HEAD_BYTES:
            raise HeadTooLarge(TOO_LARGE)
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise MalformedRequest(VERSION)
        hosts, host, encodings = 0, b"", 0
        for name, value in self.headers:
            if name == b"host":
                hosts, host = hosts + 1, value
            elif name == b"transfer-encoding":
                encodings += 1
                if encodings > 1 or version == "1.0" or value.lower() != b"chunked":
                    raise MalformedRequest(ENCODING)
        if hosts > 1 or (not hosts and version == "1.1"):  # section 3.2; optional in HTTP/1.0
            raise MalformedRequest(HOST_COUNT)
        if hosts:
            self._check_host(host)
        if not self.url.startswith((b"/", b"*")):  # an absolute URL, whose host counts instead
            self._check_host(httptools.parse_url(self.url).host or b"")
        if self._error is not None and self.url.partition(b"?")[0] not in HEALTH_CHECKS:
            raise self._error

    def _check_host(self, value: bytes) -> None:
        name = host_name(value)
        if name is None:
            raise MalformedRequest(HOST_NAME)
        if self.allowed_hosts is not None and name not in self.allowed_hosts:
            raise UnknownHost(WRONG_HOST)

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was parsed last, without what asks for an upgrade; a new parser has to parse it."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() not in UPGRADE_TOKENS)
            if name not in UPGRADE_TOKENS and (kept or not value):
                lines.append(b"%s: %s" % (name, kept))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        return b"\r\n".join([*lines, b"", b""])

    def _probe(self, message: bytes) -> None:
        """Check whether a client that sends no more still reads.

        The end of file of one that has gone looks the same, but it resets the connection once something is sent to it.
        A read does not report a reset after the end of file.
        """
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            return
        if not self.pipeline and not self.cycle.response_started:
            self.transport.write(message)
            message = b""
        self._timer = self.loop.call_later(PROBE_SECONDS, self._probe, message)

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
        seconds = self.head_seconds if self._error is None else min(self.head_seconds, SPARE_HEAD_SECONDS)
        self._timer = self.loop.call_later(seconds, self._refuse_slow_head, seconds)

    def _refuse_slow_head(self, seconds: float) -> None:
        self._refuse(self._error or SlowHead(TOO_SLOW.format(seconds)))

    def _end_head(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Send an error and close the connection, after the responses to earlier requests."""
        self._end_head()
        if self.transport.is_closing():
            return
        current = self._current
        if current is None or current.response_complete:
            self._send_problem(error)
        elif not current.more_body:
            self._deferred = error
        elif self.pipeline:
            self.pipeline.popleft()  # the request at fault is the last one, and has not been passed on yet
            self._deferred = error
        elif not current.response_started:
            self._send_problem(error)
        else:  # the response cannot be replaced any more
            self._lingering.linger()

    def _send_problem(self, error: ServiceError) -> None:
        if self.transport.is_closing():
            return
        request_id = uuid4().hex
        get_logger().info("request refused", reason=error.code, status=error.status, request_id=request_id)
        self.open_connections.on_refusal(error.code)
        problem = {
            "type": f"/problems/{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": error.detail,
            "instance": "",
            "request_id": request_id,
            "errors": [],
        }
        body = json.dumps(problem)
        headers = {
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
            "X-Request-ID": request_id,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **error.headers,
        }
        head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        head += [f"{name.lower()}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*head, "", body]).encode("ascii"))
        self._lingering.linger()


def configured(
    *, head_seconds: float, connections: Connections, allowed_hosts: Collection[str] | None = None
) -> type[ProblemProtocol]:
    """Return the protocol class with other class attributes; uvicorn instantiates the class itself."""
    attributes = {"head_seconds": head_seconds, "open_connections": connections, "allowed_hosts": allowed_hosts}
    return type("ConfiguredProtocol", (ProblemProtocol,), attributes)
