"""`emmr serve --engine ray`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.app.ray.conftest import ENVIRONMENT, free_port, until
from tests.support.process import EMMR, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]


def is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health/ready", timeout=30).status_code == 200
    except httpx2.TransportError:
        return False


def test_only_a_cluster_that_answers_is_joined(tmp_path: Path) -> None:
    from app.ray.server import is_reachable

    file = tmp_path / "ray_current_cluster"
    assert not is_reachable(file)
    file.write_text("nonsense", encoding="utf-8")
    assert not is_reachable(file)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        file.write_text(f"127.0.0.1:{listening.getsockname()[1]}\n", encoding="utf-8")
        assert is_reachable(file)
    assert not is_reachable(file)


def test_a_cluster_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "ray_current_cluster"
    file.write_text("127.0.0.1:1", encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from app.ray import server; import ray;"
        "server.LAST_CLUSTER = Path(sys.argv[1])\n"
        "with server.cluster(): print(ray.cluster_resources()['CPU'])"
    )
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", program, file],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    assert float(done.stdout) >= 1


def test_it_serves_until_sigterm_and_exits_0(weights: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["--engine", "ray", "--port", str(port), "--device", "cpu", "--weights", str(weights)]
    environment = {**os.environ, **ENVIRONMENT, "EMMR_DECODE_WORKERS": "1", "EMMR_API_KEYS": '["open sesame"]'}
    with subprocess.Popen([sys.executable, *EMMR, "serve", *options], cwd=ROOT, env=environment) as process:
        try:
            until(lambda: is_ready(address) or process.poll() is not None)
            refused = httpx2.post(f"{address}/predict", data={"text": "Hello."}, timeout=60)
            key = {"Authorization": "Bearer open sesame"}
            answered = httpx2.post(f"{address}/predict", data={"text": "Hello."}, headers=key, timeout=60)
            assert (refused.status_code, answered.status_code) == (401, 200)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            process.kill()
