"""The protocol over a socket, with a minimal application."""

import select
import shutil
import socket
import subprocess

import pytest
import uvicorn

from app.http import protocol
from app.http.connections import Connections
from app.http.protocol import HEAD_BYTES, LOOPBACK_NAMES, ProblemProtocol, configured, host_name
from app.logging import configure_logging
from tests.support.protocol import (
    GOOD,
    Connect,
    answer,
    everything,
    post,
    problem_in,
    until,
)

# ---- heads


def test_malformed_http_is_refused(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging("info")
    with connect() as connection, caplog.at_level("INFO", logger="emmr"):
        connection.sendall(b"NONSENSE\r\n\r\n")
        status, problem = answer(connection)
    assert (status, problem["type"]) == (400, "/problems/malformed-request")
    (logged,) = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    assert (logged["event"], logged["reason"]) == ("request refused", "malformed-request")
    assert logged["request_id"] == problem["request_id"]


REFUSED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "two hosts in 1.0": (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "invalid host": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "invalid host in the target": (b"GET http://a@b/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    "version 0.9": (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 400),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "gzip, chunked": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "gzip": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (b"POST /echo HTTP/1.1\r\nHost: x\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", 400),
    "identity": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    "chunked in 1.0": (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "length and chunked": (post("/echo", 3)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bad chunk size": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400),
    "one large header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 12_000 + b"\r\n", 431),
    "large target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
}


@pytest.mark.parametrize("start", [b"", GOOD], ids=["first", "pipelined"])
@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_head_is_a_problem_after_earlier_responses(
    connect: Connect, start: bytes, sent: bytes, status: int
) -> None:
    with connect() as connection:
        connection.sendall(start + sent)
        received = everything(connection)
    if start:
        first, received = received.split(b"hello", 1)
        assert first.startswith(b"HTTP/1.1 200 ")
    assert problem_in(received)[0] == status


def test_a_large_head_is_refused_where_an_earlier_read_has_its_beginning(connect: Connect) -> None:
    head, status = REFUSED["one large header"]
    with connect() as connection:
        connection.sendall(GOOD + head[:40_000])
        received = b""
        while not received.endswith(b"hello"):
            received += connection.recv(65_536)
        connection.sendall(head[40_000:])
        assert problem_in(everything(connection))[0] == status


ACCEPTED = {
    "1.0 without host": b"GET / HTTP/1.0\r\n\r\n",
    "an absolute target": b"GET http://x:80/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "an IPv6 host": b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    "a leading line break": b"\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "Chunked": b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
def test_an_unusual_valid_head_is_accepted(connect: Connect, sent: bytes) -> None:
    with connect() as connection:
        connection.sendall(sent)
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000])
def test_a_head_past_its_limit_is_refused_before_it_ends(connect: Connect, start: bytes) -> None:
    with connect() as connection:
        connection.sendall(start + b"a" * HEAD_BYTES)
        assert answer(connection)[0] == 431


def test_the_limit_of_the_head_does_not_include_the_body(connect: Connect) -> None:
    size = 3 * HEAD_BYTES
    head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Long: {'a' * (HEAD_BYTES - 1000)}\r\nContent-Length: {size}\r\n\r\n"
    with connect() as connection:
        # On one connection and without a pause: the limit applies to each request.
        connection.sendall((head.encode() + b"b" * size) * 3 + GOOD.replace(b"Host", b"Connection: close\r\nHost"))
        assert everything(connection).count(b"HTTP/1.1 200 ") == 4


@pytest.mark.parametrize("endless", [b"A: b\r\n", b"a" * 100], ids=["many", "one"])
def test_endless_trailers_are_refused(connect: Connect, endless: bytes) -> None:
    with connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ")
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(endless * 100)
        assert answer(connection)[0] == 400


def test_trailers_are_not_headers_of_the_request(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1\r\na\r\n0\r\nX-Late: 1\r\n\r\n")
        assert b"x-seen: host transfer-encoding\r\n" in until(connection, b"\r\n\r\na")


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.usefixtures("short_head")
def test_a_head_that_takes_too_long_is_refused(connect: Connect, start: bytes) -> None:
    with connect() as connection:
        connection.sendall(start)
        assert answer(connection)[0] == 408


@pytest.mark.usefixtures("short_head")
def test_no_time_limit_runs_between_requests(connect: Connect, server: uvicorn.Server) -> None:
    with connect() as connection:
        for _ in range(2):
            connection.sendall(GOOD)
            until(connection, b"hello")
            (open_now,) = server.server_state.connections
            assert isinstance(open_now, ProblemProtocol)
            assert open_now._timer is None


def test_a_class_for_other_limits_leaves_the_first_unchanged() -> None:
    kind = configured(head_seconds=2.5, connections=Connections(), allowed_hosts={"x"})
    assert (kind.head_seconds, kind.allowed_hosts) == (2.5, {"x"})
    assert (ProblemProtocol.head_seconds, ProblemProtocol.allowed_hosts) == (protocol.HEAD_SECONDS, None)


# ---- hosts


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"localhost:8000", "localhost"),
        (b"LocalHost.", "localhost"),
        (b"[::1]:8000", "[::1]"),
        (b"a-b.example", "a-b.example"),
        (b"", ""),
        (b"a b", None),
        (b"a:b", None),
        (b"user@host", None),
        (b"[::1", None),
        (b"\xfc", None),
    ],
)
def test_host_name_drops_port_case_and_final_dot(value: bytes, name: str | None) -> None:
    assert host_name(value) == name


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"Host: localhost:1\r\n", 200),
        (b"Host: 127.0.0.1\r\n", 200),
        (b"Host: [::1]:80\r\n", 200),
        (b"Host: attacker.example:8000\r\n", 421),
        (b"Host: 127.0.0.1.attacker.example\r\n", 421),
        (b"Host: \r\n", 421),
    ],
)
@pytest.mark.parametrize("target", [b"/", b"http://localhost/"])
def test_only_allowed_hosts_are_answered(
    connect: Connect, host: bytes, status: int, target: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProblemProtocol, "allowed_hosts", LOOPBACK_NAMES)
    with connect() as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")
        assert int(everything(connection).split()[1]) == status


def test_the_host_of_an_absolute_target_is_checked(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProblemProtocol, "allowed_hosts", LOOPBACK_NAMES)
    with connect() as connection:
        connection.sendall(b"GET http://attacker.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(connection)[0] == 421


# ---- upgrades


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
UPGRADES = {
    "length": post("/echo", 5)[:-2] + UPGRADE + b"\r\nwords",
    "chunked": b"POST /echo HTTP/1.1\r\nHost: x\r\n"
    + UPGRADE
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n",
    "websocket": post("/echo", 5)[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nwords",
    "two upgrades": post("/echo", 5)[:-2] + b"Connection: keep-alive, upgrade\r\nUpgrade: h2c, a/1\r\n\r\nwords",
}
SEEN = {
    "length": b"content-length host",
    "chunked": b"host transfer-encoding",
    "websocket": b"content-length host",
    "two upgrades": b"connection content-length host",
}


@pytest.mark.parametrize("name", UPGRADES)
def test_a_request_for_an_upgrade_is_answered_wherever_it_is_cut(connect: Connect, name: str) -> None:
    sent = UPGRADES[name]
    with connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(sent)):
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            received = until(connection, b"words")
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b"x-seen: " + SEEN[name] + b"\r\n" in received


def test_requests_for_upgrades_may_be_pipelined(connect: Connect) -> None:
    both = UPGRADES["length"] + post("/echo", 5) + b"plain" + UPGRADES["chunked"]
    with connect() as connection:
        connection.sendall(both * 3 + GOOD)
        received = until(connection, b"hello")
    assert received.count(b"HTTP/1.1 200 ") == 10
    assert received.count(b"\r\n\r\nwords") == 6
    assert received.count(b"\r\n\r\nplain") == 3


def test_a_request_for_an_upgrade_keeps_its_other_checks(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        assert answer(connection)[1]["detail"] == protocol.HOST_COUNT


@pytest.mark.parametrize("options", [("--http2",), ("--http2", "-H", "Transfer-Encoding: chunked"), ("--http1.1",)])
def test_curl_may_ask_for_http2(server: uvicorn.Server, options: tuple[str, ...]) -> None:
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in subprocess.run([curl, "-V"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("there is no curl with HTTP/2")
    port = server.servers[0].sockets[0].getsockname()[1]
    body = b"a" * 50_000
    command = [curl, "-sS", "--max-time", "30", *options, "--data-binary", "@-", f"http://127.0.0.1:{port}/echo"]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    assert done.stdout == body
