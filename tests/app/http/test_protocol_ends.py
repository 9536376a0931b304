"""The protocol with clients that close their side, or send on after the response."""

import select
import socket
import threading

import pytest
import uvicorn

from app.http import lingering_close, protocol
from app.http.protocol import HEAD_BYTES, ProblemProtocol
from tests.support.protocol import (
    GOOD,
    LARGE,
    RESET,
    Connect,
    answer,
    connector,
    everything,
    post,
    serving,
    until,
    waiting,
)


@pytest.mark.parametrize(
    "sent",
    [b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n", post("/wait", 1) + b"a", b"GET /wait HTTP/1.0\r\n\r\n"],
    ids=["GET", "POST", "HTTP/1.0"],
)
def test_a_client_that_sends_no_more_is_answered(connect_to_either: Connect, sent: bytes) -> None:
    with connect_to_either() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert waiting.started.wait(30)
        waiting.go_on.set()
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"waited")


def test_pipelined_requests_are_answered_after_the_clients_end(connect_to_either: Connect) -> None:
    with connect_to_either() as connection:
        connection.sendall(GOOD * 3)
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection).count(b"HTTP/1.1 200 ") == 3


def test_a_client_still_reading_gets_its_answer_after_probes(
    connect_to_either: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PROBE_SECONDS", 0.01)
    with connect_to_either() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert until(connection, b"\r\n\r\n") == protocol.CONTINUE
        assert not waiting.gone.wait(0.1)
        waiting.go_on.set()
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert protocol.CONTINUE not in received


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_has_gone_is_noticed(
    connect_to_either: Connect, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PROBE_SECONDS", 0.01)
    with connect_to_either() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert waiting.started.wait(30)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    assert waiting.gone.wait(30)


def test_pipelined_requests_of_a_gone_client_log_no_error(
    connect_to_either: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with connect_to_either() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert waiting.started.wait(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    waiting.go_on.set()
    with connect_to_either() as connection:  # the event loop has gone on when this is answered
        connection.sendall(GOOD)
        until(connection, b"hello")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_ends_within_its_body_is_gone(connect_to_either: Connect) -> None:
    with connect_to_either() as connection:
        connection.sendall(post("/echo", 10) + b"a")
        connection.shutdown(socket.SHUT_WR)
        assert waiting.gone.wait(30)
        assert everything(connection) == b""


# ---- clients that continue to send


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
    connect: Connect, start: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 408:
        monkeypatch.setattr(ProblemProtocol, "head_seconds", 0.2)
    with connect() as connection:
        connection.sendall(start)
        assert select.select([connection], [], [], 30)[0]  # the response has arrived, and perhaps the close
        for _ in range(LARGE // 2**16):
            connection.sendall(b"a" * 2**16)
        assert answer(connection)[0] == status


def test_a_client_that_sends_everything_first_receives_the_response(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(post("/early", 4 * LARGE) + b"b" * 4 * LARGE)
        assert answer(connection)[0] == 413


def test_a_client_that_stays_after_its_response_is_disconnected(
    connect: Connect, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()

    class Closing(lingering_close.LingeringTransport):
        def connection_lost(self) -> None:
            super().connection_lost()
            closed.set()

    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "LingeringTransport", Closing)
    with connect() as connection:
        connection.sendall(post("/early"))
        assert answer(connection)[0] == 413
        assert not server.server_state.connections  # while the connection lingers
        assert closed.wait(30)


def test_the_shutdown_does_not_wait_for_lingering_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 300.0)
    with serving() as server, connector(server)() as connection:
        connection.sendall(post("/early"))
        assert answer(connection)[0] == 413
        server.should_exit = True  # `serving` fails if the server does not end


def test_a_connection_is_kept_if_the_body_ends_after_the_response(
    connect: Connect, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.config, "timeout_keep_alive", 1)
    with connect() as connection:
        for _ in range(2):
            connection.sendall(post("/", LARGE))
            until(connection, b"hello")
            connection.sendall(b"b" * LARGE)
        assert connection.recv(65_536) == b""  # the keep-alive timeout applies


@pytest.mark.usefixtures("short_head")
def test_a_body_that_does_not_end_after_the_response_is_refused(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(post("/") + b"b")
        until(connection, b"hello")
        assert connection.recv(65_536) == b""
