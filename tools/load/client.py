"""A minimal HTTP/1.1 client: request bytes out, status and body in, over kept or new connections.

It shares the machine with the service under load, hence raw protocols instead of an HTTP library.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, cast

HOST: Final = "127.0.0.1"
IDLE_SECONDS: Final = 5.0  # the service closes idle connections after a while: those idle for longer are not reused
OK: Final = frozenset({200})


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        name: its kind, for counting.
        head, body: the bytes on the wire.
        expected: statuses that are correct for it while the service is healthy.
    """

    name: str
    head: bytes
    body: bytes
    expected: frozenset[int] = OK

    @property
    def wire(self) -> bytes:
        """Head and body."""
        return self.head + self.body


@dataclass(frozen=True, slots=True)
class Response:
    """The outcome of a request.

    Args:
        status: 0 where there was no response; `error` then says why.
        seconds: from the first byte sent, including the connection, to the last byte received.
        retry_after: the header.
        body: as received.
        error: `refused` (no connection), `closed` (before the whole response), `timeout`; empty where there is a
            response.
    """

    status: int
    seconds: float
    retry_after: str | None = None
    body: bytes = b""
    error: str = ""

    def json(self) -> Any:
        """Return the parsed body of a 200.

        Raises:
            RuntimeError: any other status.
        """
        if self.status != 200:
            raise RuntimeError(f"{self.status} {self.error}: {self.body[:300]!r}")
        return json.loads(self.body)


Received = tuple[int, dict[str, str], bytes]
"""Status, headers with names in lower case, and body."""


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._response: asyncio.Future[Received] | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports declare no such base

    def send(self, request: Request) -> "asyncio.Future[Received]":
        """Write a request; the body is not waited for, since a response may come before its end."""
        if self._transport is None:
            raise ConnectionResetError("closed before the request")
        self._received.clear()
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request.wire)
        return self._response

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._response is None or self._response.done():
            return
        try:
            status_line, *lines = self._received[:end].decode("latin-1").split("\r\n")
            status = int(status_line.split(" ", 2)[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            size = int(headers.get("content-length", "0"))
        except (ValueError, IndexError) as error:
            self._response.set_exception(ConnectionError(f"not an HTTP response: {error}"))
            return
        if len(self._received) >= end + 4 + size:
            self._response.set_result((status, headers, bytes(self._received[end + 4 : end + 4 + size])))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(exc or ConnectionResetError("closed before the response"))

    @property
    def reusable(self) -> bool:
        """Whether the connection is open and the service does not yet consider it idle."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and time.monotonic() - self.idle_since < IDLE_SECONDS

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """Connections to one service, as many as there are requests in flight.

    Args:
        port: on 127.0.0.1.
        keep: whether connections are reused.
        timeout: seconds for one response.
        addresses: number of loopback addresses that connections come from, since the service limits each of them.
    """

    def __init__(self, port: int, *, keep: bool = True, timeout: float = 60.0, addresses: int = 1) -> None:
        self.port, self.keep, self.timeout = port, keep, timeout
        several = [(f"127.0.0.{1 + number}", 0) for number in range(addresses)]
        self._local = cycle(several if addresses > 1 else [None])
        self._idle: list[_Connection] = []

    async def send(self, request: Request) -> Response:
        """Send a request and wait for its response; failures are returned as a `Response` with an `error`."""
        began = time.perf_counter()
        error = "refused"
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connect()
                error = "closed"
                status, headers, body = await self._exchange(connection, request)
            return Response(status, time.perf_counter() - began, headers.get("retry-after"), body)
        except TimeoutError:
            error = "timeout"
        except OSError:
            pass
        return Response(0, time.perf_counter() - began, error=error)

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        _, made = await asyncio.get_running_loop().create_connection(
            _Connection, HOST, self.port, local_addr=next(self._local)
        )
        return made

    async def _exchange(self, connection: _Connection, request: Request) -> Received:
        try:
            received = await connection.send(request)
        except BaseException:  # cancellation included
            connection.close()
            raise
        if self.keep and received[1].get("connection") != "close":
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return received

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
