"""A server whose application is hardly there, asked over a socket."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import protocol
from app.protocol import HEAD_BYTES, ProblemProtocol

GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


@pytest.fixture
def connect() -> Iterator[Callable[[], socket.socket]]:
    config = uvicorn.Config(hello, port=0, http=ProblemProtocol, ws="none", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield lambda: socket.create_connection(("127.0.0.1", port), timeout=30)
    server.should_exit = True
    thread.join()


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and problem of what comes until the server closes."""
    said = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    problem: dict[str, Any] = json.loads(body)
    assert b"content-type: application/problem+json" in head
    assert f"x-request-id: {problem['request_id']}".encode() in head
    status = int(head.split()[1])
    assert problem["status"] == status
    return status, problem


def test_what_is_not_http_is_refused(connect: Callable[[], socket.socket]) -> None:
    with connect() as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert answer(connection)[0] == 400


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000])
def test_a_head_past_its_limit_is_refused_though_it_never_ends(
    connect: Callable[[], socket.socket], start: bytes
) -> None:
    with connect() as connection:
        connection.sendall(start + b"a" * HEAD_BYTES)
        assert answer(connection)[0] == 431


def test_a_head_within_its_limit_is_not_and_a_body_is_not_part_of_it(connect: Callable[[], socket.socket]) -> None:
    size = 3 * HEAD_BYTES
    head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Long: {'a' * (HEAD_BYTES - 1000)}\r\nContent-Length: {size}\r\n\r\n"
    with connect() as connection:
        for _ in range(2):  # on one connection: each request has the limit to itself
            connection.sendall(head.encode() + b"b" * size)
            said = b""
            while not said.endswith(b"hello"):
                said += connection.recv(65_536)
            assert said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_end_in_time_is_refused(
    connect: Callable[[], socket.socket], start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        began = time.monotonic()
        connection.sendall(start)
        assert answer(connection)[0] == 408
        assert 0.2 < time.monotonic() - began < 10


def test_a_connection_that_has_asked_may_stay_and_ask_again(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        for _ in range(2):
            connection.sendall(GOOD)
            assert connection.recv(65_536).endswith(b"hello")
            time.sleep(0.5)


def test_the_time_for_a_head_is_what_the_service_is_told() -> None:
    assert protocol.protocol_within(2.5).head_seconds == 2.5
    assert protocol.ProblemProtocol.head_seconds == protocol.HEAD_SECONDS
