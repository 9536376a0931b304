"""Fixtures of the tests of the HTTP protocol."""

from collections.abc import Iterator

import pytest
import uvicorn

from app.http.protocol import ProblemProtocol
from tests.support.protocol import LOOPS, Connect, connector, serving, waiting


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    with serving() as server:
        yield server


@pytest.fixture
def connect(server: uvicorn.Server) -> Connect:
    return connector(server)


@pytest.fixture(params=LOOPS, scope="module")
def either_server(request: pytest.FixtureRequest) -> Iterator[uvicorn.Server]:
    with serving(request.param) as server:
        yield server


@pytest.fixture
def connect_to_either(either_server: uvicorn.Server) -> Connect:
    return connector(either_server)


@pytest.fixture(autouse=True)
def fresh_events() -> Iterator[None]:
    waiting.reset()
    yield
    waiting.go_on.set()


@pytest.fixture
def short_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProblemProtocol, "head_seconds", 0.2)
