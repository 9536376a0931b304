"""How fast a queue empties, measured as it does.

For: refusing a client that would wait for too long, and telling it when another attempt makes sense.
Does not know: what waits, or why it leaves.
"""

import math
import time
from collections.abc import Callable
from typing import Final

HALF_LIFE: Final = 10.0  # seconds after which an observation counts half
ENOUGH_SECONDS: Final = 1.0  # watched lately, and
ENOUGH_DEPARTURES: Final = 4  # seen: before, the rate may be that of a start, or of one long request
LONG_ENOUGH: Final = 5.0  # seconds watched lately, however few departures were seen
SOONEST: Final = 1  # seconds; `Retry-After: 0` would ask for the same again at once
LATEST: Final = 60  # seconds; by then the measured rate says nothing any more


class ThroughputMeter:
    """Departures per second while enough wait, the recent ones counting more.

    A pause does not count; what was seen before it counts for less the longer it was.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None  # up to when time is accounted for; None in a pause
        self._paused: float | None = None  # when the last one began
        self._left = self._seconds = 0.0  # both decayed

    def entered(self) -> None:
        """Enough wait from now on."""
        if self._since is None:
            self._since = self._clock()
            if self._paused is not None:
                self._fade(self._since - self._paused)

    def departed(self, *, on: bool) -> None:
        """Something waits no longer; whether enough still do, or a pause begins."""
        self._account()
        self._left += 1
        if not on:
            self._since, self._paused = None, self._since

    @property
    def known(self) -> bool:
        """Whether enough has been seen lately to hold it against anyone. A stall counts while it lasts."""
        self._account()
        enough = ENOUGH_SECONDS if self._left >= ENOUGH_DEPARTURES else LONG_ENOUGH
        return self._seconds >= enough

    def seconds_for(self, waiting: int) -> float:
        """How long so many take to leave; 0 where nothing has been measured yet. A stall counts while it lasts."""
        self._account()
        return waiting * self._seconds / self._left if self._left else 0.0

    def retry_after(self, waiting: int, soonest: int) -> int:
        """The same as whole seconds, between `soonest` (and `SOONEST`) and `LATEST`."""
        return min(LATEST, max(SOONEST, soonest, math.ceil(self.seconds_for(waiting))))

    def _account(self) -> None:
        if self._since is None:
            return
        now = self._clock()
        elapsed, self._since = now - self._since, now
        self._fade(elapsed)
        self._seconds += elapsed

    def _fade(self, elapsed: float) -> None:
        kept = 0.5 ** (elapsed / HALF_LIFE)
        self._left, self._seconds = self._left * kept, self._seconds * kept
