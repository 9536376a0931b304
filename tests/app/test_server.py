"""The server process: port, signals and exit statuses."""

import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import server as server_module
from app.engine.lifecycle import Lifecycle, Phase
from app.server import SWITCH_INTERVAL, Server, allowed_hosts, connection_limits, one_of, raise_descriptor_limit, serve
from app.settings import Settings
from model.errors import ConfigError
from tests.support.process import Launch, launching
from tests.support.service import Part


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


def test_on_sigterm_it_serves_during_the_grace_period_and_exits_0(
    launch: Launch, tiny_weights: Path, parts: Mapping[str, Part], canary: str
) -> None:
    process = launch(tiny_weights, EMMR_GRACE_PERIOD="600", EMMR_LOG_LEVEL="debug")
    base = process.base()
    with httpx2.Client(base_url=base, timeout=60) as client:
        assert client.get("/health/live").status_code == 200  # it listens before the weights are loaded
        process.until(lambda e: e["event"] == "ready")
        assert client.get("/health").status_code == 200
        assert client.post("/predict", files=dict(parts)).status_code == 200

        process.popen.send_signal(signal.SIGTERM)
        process.until(lambda e: e["event"] == "leaving")
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["state"]) == (503, "leaving")
        assert client.post("/predict", files=dict(parts)).status_code == 200
        process.popen.send_signal(signal.SIGTERM)  # ends the period
    assert process.exit_status() == 0
    assert canary not in "".join(process.raw)


def assert_malformed_http_is_answered_with_a_problem(base: str) -> None:
    host, _, port = base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == 400
    assert f"x-request-id: {problem['request_id']}".encode() in head


def test_an_accepted_request_is_finished_before_exit(launch: Launch, tiny_weights: Path) -> None:
    # The batch is delayed for three seconds; unless the machine is very slow, the signal arrives meanwhile.
    process = launch(tiny_weights, EMMR_GRACE_PERIOD="0", EMMR_BATCH_DELAY_MS="3000")
    base = process.base()
    process.until(lambda e: e["event"] == "ready")
    assert_malformed_http_is_answered_with_a_problem(base)
    answers: list[int] = []

    def send() -> None:
        answers.append(httpx2.post(f"{base}/predict", data={"text": "Hello."}, timeout=60).status_code)

    sending = threading.Thread(target=send)
    sending.start()
    while not httpx2.get(f"{base}/health").json()["components"]["queue"]["detail"]["depth"] and sending.is_alive():
        time.sleep(0.01)
    process.popen.send_signal(signal.SIGTERM)
    sending.join(60)
    assert answers == [200]
    assert process.exit_status() == 0


# ---- the server in this process ----


@pytest.fixture
def on_event() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Call a function when the service logs an event."""
    handlers: list[logging.Handler] = []

    def when(event: str, act: Callable[[], None]) -> None:
        class Watcher(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if isinstance(record.msg, dict) and record.msg.get("event") == event:
                    act()

        handlers.append(Watcher())
        logging.getLogger("emmr").addHandler(handlers[-1])

    yield when
    for handler in handlers:
        logging.getLogger("emmr").removeHandler(handler)
    logging.captureWarnings(False)
    sys.setswitchinterval(0.005)  # Python's default


def test_a_server_lets_its_event_loop_interrupt_threads_that_compute(
    tiny_weights: Path, on_event: Callable[[str, Callable[[], None]], None]
) -> None:
    found = []

    def when_ready() -> None:
        found.append(sys.getswitchinterval())
        os.kill(os.getpid(), signal.SIGTERM)

    on_event("ready", when_ready)
    serve(Settings(port=0, weights=tiny_weights, device="cpu", grace_period=0.05))
    assert found == pytest.approx([SWITCH_INTERVAL])


def test_serving_until_a_signal_returns_0(
    tiny_weights: Path, on_event: Callable[[str, Callable[[], None]], None]
) -> None:
    on_event("ready", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert serve(Settings(port=0, weights=tiny_weights, device="cpu", grace_period=0.05)) == 0


def test_serving_without_weights_returns_1(tmp_path: Path) -> None:
    assert serve(Settings(port=0, weights=tmp_path, device="cpu")) == 1


def test_serving_on_a_port_in_use_is_refused(tiny_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError) as refused:
        serve(Settings(port=(port := taken.getsockname()[1]), weights=tiny_weights, device="cpu"))
    assert f"cannot listen on 127.0.0.1 port {port}" in str(refused.value)


def test_a_second_signal_skips_the_grace_period() -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(Phase.READY)
    server = Server(uvicorn.Config(lambda: None), lifecycle, grace=60)
    server.handle_exit(signal.SIGTERM, None)
    assert (lifecycle.phase, server.should_exit) == (Phase.LEAVING, False)
    server.handle_exit(signal.SIGTERM, None)
    assert (lifecycle.phase, server.should_exit) == (Phase.DRAINING, True)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


def test_a_request_arriving_as_the_server_stops_listening_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_CLOSE_DELAY", 1.5)
    server = Server(uvicorn.Config(hello, port=0, log_config=None, lifespan="off"), Lifecycle(), grace=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, timeout=30) as connection:
        server.should_exit = True
        with pytest.raises(ConnectionRefusedError):
            connect_for(address, 30)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).endswith(b"hello")
    thread.join(30)
    assert not thread.is_alive()


def connect_for(address: tuple[str, int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        socket.create_connection(address, timeout=30).close()
        time.sleep(0.05)


# ---- limits on connections, and hosts


@pytest.mark.parametrize(
    ("descriptors", "limits"),
    [
        (1_048_576, (2048, 512, 2048)),
        (8_192, (2048, 512, 2008)),
        (1_024, (432, 216, 216)),
        (160, (2, 1, 1)),
        (64, (2, 1, 1)),
    ],
)
def test_connections_leave_descriptors_for_the_rest(descriptors: int, limits: tuple[int, int, int]) -> None:
    assert connection_limits(Settings(), descriptors) == limits


def test_the_limit_of_descriptors_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


@pytest.mark.parametrize(
    ("host", "names", "allowed"),
    [
        ("127.0.0.1", (), LOOPBACK),
        ("127.0.0.2", (), {*LOOPBACK, "127.0.0.2"}),
        ("::1", (), LOOPBACK),
        ("localhost", ("Example.org",), {*LOOPBACK, "example.org"}),
        ("0.0.0.0", (), None),
        ("::", (), None),
        ("192.0.2.1", (), None),
        ("192.0.2.1", ("example.org",), {*LOOPBACK, "example.org", "192.0.2.1"}),
        ("127.0.0.1", ("*",), None),
    ],
)
def test_hosts_are_limited_on_loopback_and_where_configured(
    host: str, names: tuple[str, ...], allowed: set[str] | None
) -> None:
    assert allowed_hosts(Settings(host=host, allowed_hosts=names)) == allowed


def test_addresses_are_found_in_networks() -> None:
    trusted = one_of(("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"))
    assert [trusted(host) for host in ("10.1.2.3", "2001:db8::1", "192.0.2.1")] == [True] * 3
    assert [trusted(host) for host in ("11.0.0.1", "::1", "192.0.2.2", "testclient", "")] == [False] * 5


def test_a_refused_request_is_counted_and_another_host_refused(launch: Launch, tiny_weights: Path) -> None:
    process = launch(tiny_weights)
    base = process.base()
    assert httpx2.get(f"{base}/health/live", headers={"Host": "attacker.example"}, timeout=60).status_code == 421
    assert httpx2.get(f"{base}/health/live", headers={"Host": "localhost"}, timeout=60).status_code == 200
    assert_malformed_http_is_answered_with_a_problem(base)
    metrics = httpx2.get(f"{base}/metrics", timeout=60).text
    assert 'emmr_rejected_total{reason="unknown-host"} 1.0' in metrics
    assert 'emmr_rejected_total{reason="malformed-request"} 1.0' in metrics
    assert [event["reason"] for event in process.events if event["event"] == "request refused"] == [
        "unknown-host",
        "malformed-request",
    ]
