"""Connections closed while their client is still sending, on both event loops the server may use."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from app.http import lingering_close
from app.http.lingering_close import LingeringTransport

RESPONSE = b"enough"


class RespondAndClose(asyncio.Protocol):
    """Responds to the first byte, and closes."""

    transport: LingeringTransport

    def __init__(self, sending: bool) -> None:
        self._sending, self.closed = sending, threading.Event()
        self.discarded = self.lingers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed
        loop = asyncio.get_running_loop()
        self.transport = LingeringTransport(transport, loop, lambda: self._sending, self._count_linger)

    def data_received(self, data: bytes) -> None:
        if self.transport.lingering:
            self.discarded += len(data)
            self.transport.discard(len(data))
            return
        self.transport.pause_reading()
        self.transport.write(RESPONSE)
        self.transport.close()
        self.transport.close()
        self.transport.write(b"more")
        assert self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.connection_lost()
        self.closed.set()

    def _count_linger(self) -> None:
        self.lingers += 1


Connect = Callable[[bool], tuple[socket.socket, RespondAndClose]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Connect to a `RespondAndClose`; return both ends."""
    loop = request.param()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    servers = []

    def start(sending: bool) -> tuple[socket.socket, RespondAndClose]:
        protocol = RespondAndClose(sending)
        servers.append(wait(loop.create_server(lambda: protocol, "127.0.0.1", 0)))
        address = servers[-1].sockets[0].getsockname()
        return socket.create_connection(address, timeout=30), protocol

    async def end() -> None:
        for server in servers:
            server.close()

    yield start
    wait(end())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def read(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_data_sent_after_the_close_is_discarded_and_the_response_arrives(connect: Connect) -> None:
    connection, protocol = connect(True)
    with connection:
        connection.sendall(b"a" * 2**21)
        assert read(connection) == RESPONSE
        connection.sendall(b"a" * 2**21)
        assert protocol.lingers == 1
    assert protocol.closed.wait(30)
    assert protocol.discarded > 2**21


def test_lingering_ends_after_its_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 0.3)
    connection, protocol = connect(True)
    with connection:
        began = time.monotonic()
        connection.sendall(b"a")
        assert protocol.closed.wait(30)
        assert time.monotonic() - began > 0.2
        assert read(connection) == RESPONSE


def test_lingering_ends_after_too_many_bytes(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 300.0)
    monkeypatch.setattr(lingering_close, "LINGER_BYTES", 2**20)
    connection, protocol = connect(True)
    with connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        connection.sendall(b"a" * 2**28)
    assert protocol.closed.wait(30)
    assert protocol.discarded <= 2**21


def test_a_client_that_sends_nothing_more_is_closed_at_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 300.0)
    connection, protocol = connect(False)
    with connection:
        connection.sendall(b"a")
        assert read(connection) == RESPONSE
        assert protocol.closed.wait(30)
        assert (protocol.lingers, protocol.transport.lingering) == (0, False)
