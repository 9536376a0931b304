"""`PoolState.ok` while processes die and are replaced."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from app.decoding.pool import DecodePool
from tests.support.pool import delay_checks


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    """A pool that the test may damage."""
    pool = DecodePool(workers=2)
    pool.start()
    yield pool
    pool.stop()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition does not become true"
        time.sleep(0.01)


def kill_all(pool: DecodePool) -> None:
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)


def test_a_pool_without_processes_is_ok_until_replacements_have_started(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay_checks(pool, monkeypatch, 2.0)
    kill_all(pool)
    eventually(lambda: pool.state().alive == 0, 1.0)
    ok = []

    def complete() -> bool:
        state = pool.state()
        ok.append(state.ok)
        return (state.alive, state.replaced) == (2, 2)

    eventually(complete)
    assert all(ok)


@pytest.mark.parametrize("program", [os.devnull, "/bin/false"], ids=["none starts", "each ends at once"])
def test_a_pool_whose_replacements_fail_is_not_ok_until_one_starts(
    program: str, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", program)
        kill_all(pool)
        eventually(lambda: not pool.state().ok)
    eventually(lambda: pool.state().alive == 2)
    assert pool.state().ok


def test_a_replacement_that_never_starts_is_noticed_without_a_request(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.START_SECONDS", 0.001)
    assert pool.state().ok
    kill_all(pool)
    eventually(lambda: not pool.state().ok)
    assert pool.state().replaced > 0


def test_a_pool_that_is_not_running_is_not_ok(pool: DecodePool) -> None:
    assert not DecodePool(workers=1).state().ok
    pool.stop()
    assert not pool.state().ok
