"""Control over the checks of a decode pool, for tests of what happens between two of them."""

import threading

import pytest

from app.decoding.pool import DecodePool

SECONDS = 10.0  # for the check that is under way to end


def delay_checks(pool: DecodePool, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Return when the pool has begun to wait `seconds` until its next check of idle processes."""
    wait, begun = pool._stopping.wait, threading.Event()

    def observed(timeout: float | None = None) -> bool:
        if timeout == seconds:
            begun.set()
        return wait(timeout)

    monkeypatch.setattr(pool._stopping, "wait", observed)
    monkeypatch.setattr("app.decoding.pool.CHECK_SECONDS", seconds)
    assert begun.wait(SECONDS)
