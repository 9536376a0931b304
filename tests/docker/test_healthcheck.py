import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Answer(BaseHTTPRequestHandler):
    """Answers `/200` with 200, and so on."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def status(repository: Path, url: str, **environment: str) -> int:
    script = repository / "docker" / "healthcheck.py"
    ended = subprocess.run(
        [sys.executable, str(script), url], env=os.environ | environment, capture_output=True, check=False, timeout=30
    )
    return ended.returncode


@pytest.mark.parametrize(("answer", "expected"), [(200, 0), (204, 1), (404, 1), (503, 1)])
def test_only_200_is_healthy(repository: Path, service: str, answer: int, expected: int) -> None:
    assert status(repository, f"{service}/{answer}") == expected


def test_a_service_that_does_not_listen_is_not_healthy(repository: Path) -> None:
    assert status(repository, "http://127.0.0.1:9/200") == 1


def test_a_proxy_in_the_environment_is_not_asked(repository: Path, service: str) -> None:
    assert status(repository, f"{service}/200", http_proxy="http://127.0.0.1:9", no_proxy="") == 0
