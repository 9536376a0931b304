"""Connections that are closed while their peer is still sending, on each event loop that a server may run on."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from app.http import lingering_close as linger
from app.http.lingering_close import LingeringTransport

LAST = b"enough"


class Farewell(asyncio.Protocol):
    """Answers the first byte, and closes."""

    transport: LingeringTransport

    def __init__(self, sending: bool) -> None:
        self._sending, self.gone = sending, threading.Event()
        self.heard = self.noted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one: of a stream
        loop = asyncio.get_running_loop()
        self.transport = LingeringTransport(transport, loop, lambda: self._sending, self._note)

    def data_received(self, data: bytes) -> None:
        if self.transport.lingering:
            self.heard += len(data)
            self.transport.drop(len(data))
            return
        self.transport.pause_reading()
        self.transport.write(LAST)
        self.transport.close()
        self.transport.close()
        self.transport.write(b"and yet")
        assert self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lost()
        self.gone.set()

    def _note(self) -> None:
        self.noted += 1


Meet = Callable[[bool], tuple[socket.socket, Farewell]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def meet(request: pytest.FixtureRequest) -> Iterator[Meet]:
    """Connect to a `Farewell`; both ends."""
    loop = request.param()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    servers = []

    def start(sending: bool) -> tuple[socket.socket, Farewell]:
        protocol = Farewell(sending)
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


def test_what_is_said_after_the_end_is_heard_and_dropped_and_the_last_word_arrives(meet: Meet) -> None:
    connection, protocol = meet(True)
    with connection:
        connection.sendall(b"a" * 2**21)
        assert read(connection) == LAST
        connection.sendall(b"a" * 2**21)
        assert protocol.noted == 1
    assert protocol.gone.wait(30)
    assert protocol.heard > 2**21


def test_it_ends_after_a_while(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_SECONDS", 0.3)
    connection, protocol = meet(True)
    with connection:
        began = time.monotonic()
        connection.sendall(b"a")
        assert protocol.gone.wait(30)
        assert time.monotonic() - began > 0.2
        assert read(connection) == LAST


def test_it_ends_after_too_much(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_SECONDS", 300.0)
    monkeypatch.setattr(linger, "LINGER_BYTES", 2**20)
    connection, protocol = meet(True)
    with connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        connection.sendall(b"a" * 2**28)
    assert protocol.gone.wait(30)
    assert protocol.heard <= 2**21


def test_whoever_has_said_everything_is_not_waited_for(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_SECONDS", 300.0)
    connection, protocol = meet(False)
    with connection:
        connection.sendall(b"a")
        assert read(connection) == LAST
        assert protocol.gone.wait(30)
        assert (protocol.noted, protocol.transport.lingering) == (0, False)
