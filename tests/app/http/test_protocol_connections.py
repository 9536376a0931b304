"""The protocol with limits on the number of connections."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.http import protocol
from app.http.connections import SPARE_CONNECTIONS, Connections
from app.http.protocol import configured
from app.logging import configure_logging
from tests.support.protocol import Connect, answer, connector, everything, problem_in, serving, until


@contextmanager
def server_in_use(total: int | None, per_address: int | None) -> Iterator[tuple[Connect, list[str]]]:
    """A server with one connection in use on which half a head has been sent."""
    refused: list[str] = []
    limits = Connections(total, per_address, on_refusal=refused.append)
    with serving(kind=configured(head_seconds=30, connections=limits)) as server:
        connect = connector(server)
        with connect() as first:
            first.sendall(b"GET / HTTP/1.1\r\n")
            yield connect, refused
            first.sendall(b"Host: x\r\n\r\n")  # it is served as before
            until(first, b"hello")


@pytest.mark.parametrize(("total", "per_address"), [(1, None), (None, 1)], ids=["total", "address"])
def test_connections_past_the_limit_are_for_health_checks(total: int | None, per_address: int | None) -> None:
    with server_in_use(total, per_address) as (connect, refused):
        for path, status in ((b"/", 503), (b"/health/live", 200), (b"/health/live?a", 200), (b"/health/x", 503)):
            with connect() as connection:
                connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                received = everything(connection)
            assert int(received.split()[1]) == status
            if status == 503:
                assert problem_in(received)[1]["type"] == "/problems/too-many-connections"
                assert b"\r\nretry-after: 1\r\n" in received
        assert refused == ["too-many-connections"] * 2


def test_stalled_connections_past_the_limit_make_room(caplog: pytest.LogCaptureFixture) -> None:
    configure_logging("info")
    with server_in_use(None, 1) as (connect, refused), caplog.at_level("WARNING", logger="emmr"):
        stalled = [connect() for _ in range(2 * SPARE_CONNECTIONS)]
        for connection in stalled:
            connection.sendall(b"GET / HTTP")
        with connect() as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert everything(connection).startswith(b"HTTP/1.1 200 ")
        assert len(refused) == SPARE_CONNECTIONS + 1
        logged = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        assert logged[0]["event"] == "connections closed"
        assert len(logged) <= SPARE_CONNECTIONS / 2
        for connection in stalled:
            connection.close()


def test_a_stalled_head_past_the_limit_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SPARE_HEAD_SECONDS", 0.05)
    with server_in_use(1, None) as (connect, refused), connect() as connection:
        connection.sendall(b"GET /hea")
        assert answer(connection)[0] == 503
        assert refused == ["too-many-connections"]
