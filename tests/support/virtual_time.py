"""An event loop whose clock jumps to the next timer when nothing else is left to run."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Does not wait: adds the time it would wait to `now`."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is not None:
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """By its clock sleeping takes exactly its time, and computing none; for coroutines without input and output."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, which `time.perf_counter` gives meanwhile."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, patch("time.perf_counter", runner.get_loop().time):
        return runner.run(work)
