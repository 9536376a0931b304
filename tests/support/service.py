"""Applications in the test process, and waiting for their readiness."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from starlette.testclient import TestClient

from app.engine.engine import Engine
from app.engine.lifecycle import Phase
from app.main import create_app
from app.settings import Settings

Part = tuple[str | None, bytes, str]
"""File name, content and content type of one part, as the client expects them."""


def make_app(weights: Path, **settings: Any) -> FastAPI:
    """Return an application with `weights` on the CPU, one decoder, which starts soonest, and the given settings."""
    return create_app(Settings(**{"weights": weights, "device": "cpu", "decode_workers": 1, **settings}))


def ready(client: TestClient) -> None:
    """Wait until the service is ready."""
    application, portal = client.app, client.portal
    assert isinstance(application, FastAPI)
    assert portal is not None, "the application is not running"
    portal.call(application.state.engine.started)
    answer = client.get("/health/ready")
    assert answer.status_code == 200, answer.text


async def reach(engine: Engine, phase: Phase) -> None:
    """Wait until the service is in a phase."""
    for _ in range(6000):
        if engine.lifecycle.phase is phase:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"still {engine.lifecycle.phase}: {engine.lifecycle.reason}")


@asynccontextmanager
async def serving(weights: Path, **settings: Any) -> AsyncIterator[tuple[AsyncClient, Engine, FastAPI]]:
    """Run a service, and a client on the same event loop, so that requests overlap."""
    application = make_app(weights, **settings)
    engine: Engine = application.state.engine
    async with application.router.lifespan_context(application):
        await reach(engine, Phase.READY)
        transport = ASGITransport(app=application)
        async with AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            yield client, engine, application
