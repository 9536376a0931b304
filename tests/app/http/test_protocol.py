"""The protocol over a socket, with a minimal application."""

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http import lingering_close, protocol
from app.http.protocol import HEAD_BYTES, ProblemProtocol

GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 2 * 2**20
ANSWER = b'{"status": 413, "request_id": "a"}'


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds 200 to `/`, and 413 to `/early` at once and to `/late` after a delay, without reading the body."""
    if scope["path"] == "/":
        await Response("hello")(scope, receive, send)
        return
    if scope["path"] == "/late":
        await receive()
        await asyncio.sleep(0.3)
    headers = {"Connection": "close", "X-Request-ID": "a"}
    await Response(ANSWER, 413, headers, "application/problem+json")(scope, receive, send)


def post(path: str, length: int = 2 * LARGE) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(application, port=0, http=ProblemProtocol, ws="none", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def connect(server: uvicorn.Server) -> Callable[[], socket.socket]:
    port = server.servers[0].sockets[0].getsockname()[1]
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=30)


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read until the server closes; return the status and the problem."""
    received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    problem: dict[str, Any] = json.loads(body)
    assert b"content-type: application/problem+json" in head
    assert f"x-request-id: {problem['request_id']}".encode() in head
    status = int(head.split()[1])
    assert problem["status"] == status
    return status, problem


def test_malformed_http_is_refused(connect: Callable[[], socket.socket]) -> None:
    with connect() as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert answer(connection)[0] == 400


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000])
def test_a_head_past_its_limit_is_refused_before_it_ends(connect: Callable[[], socket.socket], start: bytes) -> None:
    with connect() as connection:
        connection.sendall(start + b"a" * HEAD_BYTES)
        assert answer(connection)[0] == 431


def test_the_limit_of_the_head_does_not_include_the_body(connect: Callable[[], socket.socket]) -> None:
    size = 3 * HEAD_BYTES
    head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Long: {'a' * (HEAD_BYTES - 1000)}\r\nContent-Length: {size}\r\n\r\n"
    with connect() as connection:
        for _ in range(2):  # on one connection: the limit applies to each request
            connection.sendall(head.encode() + b"b" * size)
            received = b""
            while not received.endswith(b"hello"):
                received += connection.recv(65_536)
            assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_takes_too_long_is_refused(
    connect: Callable[[], socket.socket], start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        began = time.monotonic()
        connection.sendall(start)
        assert answer(connection)[0] == 408
        assert 0.2 < time.monotonic() - began < 10


def test_a_connection_may_be_idle_between_requests(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        for _ in range(2):
            connection.sendall(GOOD)
            assert connection.recv(65_536).endswith(b"hello")
            time.sleep(0.5)


def test_the_time_limit_of_a_head_can_be_set() -> None:
    assert protocol.protocol_within(2.5).head_seconds == 2.5
    assert protocol.ProblemProtocol.head_seconds == protocol.HEAD_SECONDS


# ---- clients that continue to send ----


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (post("/early"), 413),
        (post("/late") + b"b" * 200_000, 413),  # more than is read ahead, so reading is paused at the response
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (b"GET /" + b"a" * HEAD_BYTES, 431),
        (b"NONSENSE\r\n\r\n", 400),
    ],
)
def test_a_client_still_sending_receives_the_whole_response(
    connect: Callable[[], socket.socket], start: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 408:
        monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        connection.sendall(start)
        assert select.select([connection], [], [], 30)[0]  # the response has arrived, and perhaps the close
        for _ in range(LARGE // 2**16):
            connection.sendall(b"a" * 2**16)
        assert answer(connection)[0] == status


def test_a_client_that_sends_everything_first_receives_the_response(connect: Callable[[], socket.socket]) -> None:
    with connect() as connection:
        connection.sendall(post("/early", 4 * LARGE) + b"b" * 4 * LARGE)
        assert answer(connection)[0] == 413


def test_a_client_that_stays_after_its_response_is_disconnected(
    connect: Callable[[], socket.socket], server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 0.3)
    with connect() as connection:
        connection.sendall(post("/early"))
        assert answer(connection)[0] == 413
        assert not server.server_state.connections  # while the connection lingers
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            send_for(connection, 30)


def send_for(connection: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"a")
        time.sleep(0.02)


def test_the_shutdown_does_not_wait_for_lingering_connections(
    connect: Callable[[], socket.socket], server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 300.0)
    with connect() as connection:
        connection.sendall(post("/early"))
        assert answer(connection)[0] == 413  # the fixture fails if the server does not end


def test_a_connection_is_kept_if_the_body_ends_after_the_response(
    connect: Callable[[], socket.socket], server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.config, "timeout_keep_alive", 1)
    with connect() as connection:
        for _ in range(2):
            connection.sendall(post("/", LARGE))
            assert connection.recv(65_536).endswith(b"hello")
            connection.sendall(b"b" * LARGE)
        began = time.monotonic()
        assert connection.recv(65_536) == b""  # the keep-alive timeout applies
        assert 0.5 < time.monotonic() - began < 10


def test_a_body_that_does_not_end_after_the_response_is_refused(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.ProblemProtocol, "head_seconds", 0.3)
    with connect() as connection:
        connection.sendall(post("/"))
        assert connection.recv(65_536).endswith(b"hello")
        connection.settimeout(0.1)
        began = time.monotonic()
        while time.monotonic() - began < 10:
            connection.sendall(b"b")
            try:
                assert connection.recv(65_536) == b""
                break
            except TimeoutError:
                continue
        assert time.monotonic() - began < 10
