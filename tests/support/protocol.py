"""A server of the HTTP protocol with a minimal application, and clients that read its responses."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.protocol import ProblemProtocol

GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 2 * 2**20
ANSWER = b'{"status": 413, "request_id": "a"}'
LOOPS = ["uvloop", "asyncio"]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a reset instead of an orderly close


class Waiting:
    """What the application reports to a test, and what it waits for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.started, self.gone, self.go_on = threading.Event(), threading.Event(), threading.Event()


waiting = Waiting()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with the body to `/echo`, to `/wait` once `go_on` is set, and with 200 to `/` and health checks.

    Responds 413 to `/early` at once and to `/late` after a delay, without reading the body.
    """
    request = Request(scope, receive)
    started, gone, go_on = waiting.started, waiting.gone, waiting.go_on  # of the test that sends this request
    if scope["path"] == "/echo":
        try:
            body = await request.body()
        except ClientDisconnect:
            gone.set()
            return
        names = " ".join(sorted(request.headers.keys()))
        await Response(body, headers={"X-Seen": names})(scope, receive, send)
    elif scope["path"] == "/wait":
        await request.body()
        started.set()
        disconnected = asyncio.ensure_future(receive())
        released = asyncio.create_task(asyncio.to_thread(go_on.wait, 30))
        await asyncio.wait((disconnected, released), return_when=asyncio.FIRST_COMPLETED)
        if disconnected.done():
            gone.set()
        disconnected.cancel()
        await Response("waited")(scope, receive, send)
    elif scope["path"] in {"/", "/health/live"}:
        await Response("hello")(scope, receive, send)
    else:
        if scope["path"] == "/late":
            await receive()
            await asyncio.sleep(0.1)
        headers = {"Connection": "close", "X-Request-ID": "a"}
        await Response(ANSWER, 413, headers, "application/problem+json")(scope, receive, send)


def post(path: str, length: int = 2 * LARGE) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


class _Server(uvicorn.Server):
    """Sets an event when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(loop: Any = "uvloop", kind: type[ProblemProtocol] = ProblemProtocol) -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(application, port=0, http=kind, ws="none", log_config=None, lifespan="off", loop=loop)
    server = _Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.listening.wait(30)
    yield server
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


Connect = Callable[[], socket.socket]


def connector(server: uvicorn.Server) -> Connect:
    port = server.servers[0].sockets[0].getsockname()[1]
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=30)


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(65_536)
        assert piece, received
        received += piece
    return received


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read until the server closes; return the status and the problem."""
    return problem_in(everything(connection))


def problem_in(received: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = received.partition(b"\r\n\r\n")
    problem: dict[str, Any] = json.loads(body)
    assert b"content-type: application/problem+json" in head
    assert f"x-request-id: {problem['request_id']}".encode() in head
    status = int(head.split()[1])
    assert problem["status"] == status
    return status, problem
