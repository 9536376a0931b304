"""Applications to test, and how to wait for them.

For: tests that ask the service over HTTP, in this process.
"""

import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings

Part = tuple[str | None, bytes, str]
"""File name, content and content type of one part, as the client takes it."""


def make_app(weights: Path, **settings: Any) -> FastAPI:
    """An application over `weights` on the CPU; what `settings` does not say is the default."""
    return create_app(Settings(weights=weights, device="cpu", **settings))


def ready(client: TestClient, seconds: float = 120.0) -> None:
    """Wait until the service is ready."""
    end = time.monotonic() + seconds
    while (answer := client.get("/health/ready")).status_code != 200:
        assert time.monotonic() < end, answer.text
        assert answer.json()["state"] in {"starting", "warming"}, answer.text
        time.sleep(0.05)
