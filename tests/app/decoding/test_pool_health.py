"""When a pool counts as well: not only while its processes are there, also while others take their place."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from app.decoding.pool import CHECK_SECONDS, DecodePool


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    """A pool to do harm to."""
    pool = DecodePool(workers=2)
    pool.start()
    yield pool
    pool.stop()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)


def kill_all(pool: DecodePool) -> None:
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)


def test_a_pool_whose_processes_have_all_died_is_well_until_others_have_come_up(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.CHECK_SECONDS", 2.0)
    time.sleep(2 * CHECK_SECONDS)  # from here on it is a while until the next look at idle processes
    kill_all(pool)
    eventually(lambda: pool.state().alive == 0, 1.0)
    well = []

    def whole() -> bool:
        state = pool.state()
        well.append(state.ok)
        return (state.alive, state.replaced) == (2, 2)

    eventually(whole)
    assert all(well)


@pytest.mark.parametrize("program", [os.devnull, "/bin/false"], ids=["none starts", "each ends at once"])
def test_it_is_not_well_once_a_replacement_does_not_come_up_and_is_again_when_one_has(
    program: str, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", program)
        kill_all(pool)
        eventually(lambda: not pool.state().ok)
        # Attempts are made ever more seldom, and count as failures only when they are made.
        tried = pool.state().replaced
        time.sleep(1.2)
        assert pool.state().replaced <= tried + 2
        assert not pool.state().ok
    eventually(lambda: pool.state().alive == 2 and pool.state().ok)


def test_a_replacement_that_never_comes_up_is_noticed_though_nobody_asks_for_it(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.START_SECONDS", 0.001)
    assert pool.state().ok
    kill_all(pool)
    eventually(lambda: not pool.state().ok)
    assert pool.state().replaced > 0  # it was tried


def test_a_pool_that_has_not_started_or_has_been_stopped_is_not_well(pool: DecodePool) -> None:
    assert not DecodePool(workers=1).state().ok
    pool.stop()
    assert not pool.state().ok
