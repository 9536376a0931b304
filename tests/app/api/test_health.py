import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.engine.lifecycle import Phase
from tests.support.pool import delay_checks
from tests.support.service import Part, make_app

COMPONENTS = ["weights", "text_encoder", "decode_pool", "worker", "queue", "transcription", "device"]


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
def test_every_component_of_a_ready_service_is_healthy(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    health = response.json()
    assert (health["state"], health["ready"]) == ("ready", True)
    assert list(health["components"]) == COMPONENTS
    assert all(part["ok"] for part in health["components"].values())
    assert health["components"]["weights"]["detail"]["name"] == "tiny"
    assert health["components"]["device"]["detail"]["used"] == "cpu"
    assert health["components"]["queue"]["detail"] == {"depth": 0, "capacity": 256}


def test_the_parts_of_the_sandbox_are_shown(client: TestClient, application: FastAPI) -> None:
    sandbox = client.get("/health").json()["components"]["decode_pool"]["detail"]["sandbox"]
    assert sandbox == application.state.engine.pool.state().sandbox
    assert list(sandbox) == ["landlock", "seccomp", "no_new_privs"]
    if sys.platform == "linux":
        assert sandbox["no_new_privs"]


def test_a_corrupt_part_does_not_make_the_service_unhealthy(
    client: TestClient, application: FastAPI, parts: Mapping[str, Part]
) -> None:
    pool = application.state.engine.pool
    before = pool.pids()
    for _ in range(6):
        refused = client.post(
            "/predict", files={"openface": ("a.csv", b"no table", "text/csv"), "audio": parts["audio"]}
        )
        assert refused.status_code == 422
        assert client.get("/health").status_code == 200
    assert pool.pids() == before


def test_a_pool_that_replaces_its_processes_is_healthy(
    client: TestClient, application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pool_state() -> str:
        response = client.get("/health")
        assert response.status_code == 200, response.text
        return str(response.json()["components"]["decode_pool"]["state"])

    pool = application.state.engine.pool
    delay_checks(pool, monkeypatch, 2.0)
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    for expected in ("replacing", "running"):
        end = time.monotonic() + 20.0
        while pool_state() != expected:
            assert time.monotonic() < end, expected


@pytest.mark.anyio
async def test_a_service_before_startup_is_alive_and_not_ready(tiny_weights: Path) -> None:
    transport = ASGITransport(app=make_app(tiny_weights, retry_after=9))  # without lifespan: the weights are not loaded
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/health/live")).status_code == 200
        for path in ("/health", "/health/ready"):
            response = await client.get(path)
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["retry-after"] == "9"
            body = response.json()
            assert (body["status"], body["state"], body["ready"]) == (503, "starting", False)
            assert list(body["components"]) == COMPONENTS
        for response in (await client.post("/predict", data={"text": "Hello."}), await client.get("/model")):
            assert response.status_code == 503
            assert response.headers["retry-after"] == "9"
            assert response.json()["type"] == "/problems/not-ready"


def test_a_leaving_service_is_not_ready_and_still_serves(tiny_weights: Path) -> None:
    with TestClient(application := make_app(tiny_weights)) as client:
        wait_for(application, Phase.READY)
        lifecycle = application.state.engine.lifecycle
        lifecycle.advance(Phase.LEAVING)
        assert client.get("/health/ready").json()["state"] == "leaving"
        assert client.post("/predict", data={"text": "Hello."}).status_code == 200
        lifecycle.advance(Phase.DRAINING)
        refused = client.post("/predict", data={"text": "Hello."})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
        assert client.get("/health/live").status_code == 200


def test_altered_weights_fail_the_service_with_the_reason(tiny_weights: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in tiny_weights.iterdir():
        content = file.read_bytes()
        altered.joinpath(file.name).write_bytes(content + b"\n" if file.name == "config.json" else content)
    with TestClient(application := make_app(altered)) as client:
        wait_for(application, Phase.FAILED)
        for path in ("/health", "/health/ready", "/health/live"):
            response = client.get(path)
            assert response.status_code == 503
            assert "config.json is not the file that was hashed" in response.json()["detail"]
        assert client.post("/predict", data={"text": "Hello."}).json()["type"] == "/problems/device-lost"


def test_health_needs_no_key(tiny_weights: Path) -> None:
    with TestClient(make_app(tiny_weights, api_keys=(SecretStr("one"),))) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health").status_code in {200, 503}


def wait_for(application: FastAPI, phase: Phase) -> None:
    end = time.monotonic() + 120
    while application.state.engine.lifecycle.phase is not phase:
        assert time.monotonic() < end, application.state.engine.lifecycle.phase
        time.sleep(0.05)


@pytest.mark.anyio
async def test_a_silent_worker_makes_the_service_unhealthy(tiny_weights: Path) -> None:
    application = make_app(tiny_weights, heartbeat_timeout=0.05)
    async with application.router.lifespan_context(application):
        await asyncio.to_thread(wait_for, application, Phase.READY)
        transport = ASGITransport(app=application)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            # An idle worker's heartbeats are 0.5 s apart, which exceeds this timeout.
            response = await client.get("/health")
            for _ in range(200):
                if response.status_code == 503:
                    break
                await asyncio.sleep(0.02)
                response = await client.get("/health")
            assert response.json()["components"]["worker"]["state"] == "silent"
            assert "worker" in response.json()["detail"]
