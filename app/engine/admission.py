"""Admission control: a limit on waiting requests and on their expected waiting time."""

# The number bounds memory. The expected waiting time bounds latency under overload: a request that cannot be answered
# soon is refused immediately, and not after it has waited in a queue that a slow machine takes long to empty.

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import QueueFull

MIN_QUEUE: Final = 16
"""With fewer waiting requests none is refused for its waiting time, and no throughput is measured: processors may be
idle then, and single requests say little about the throughput under load."""
HALF_LIFE: Final = 10.0  # seconds after which an observation has half its weight
ENOUGH_SECONDS: Final = 1.0  # of recent observation before the throughput counts as known, if there were
ENOUGH_DEPARTURES: Final = 4  # recent departures; fewer may be those of a start or of one long request
LONG_ENOUGH: Final = 5.0  # seconds of recent observation after which the number of departures does not matter
MIN_RETRY_AFTER: Final = 1  # seconds; `Retry-After: 0` would cause an immediate retry
MAX_RETRY_AFTER: Final = 60  # seconds; the measured throughput predicts nothing beyond


class ThroughputMeter:
    """Departures per second while the queue is busy, with exponentially decaying weights.

    Idle time is not counted, but observations from before it have less weight the longer it was.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_until: float | None = None  # None while idle
        self._idle_since: float | None = None
        self._departures = self._seconds = 0.0  # both decayed

    def start(self) -> None:
        """Start counting time, if the meter is idle."""
        if self._counted_until is None:
            self._counted_until = self._clock()
            if self._idle_since is not None:
                self._decay(self._counted_until - self._idle_since)

    def count(self, *, busy: bool) -> None:
        """Count a departure; stop counting time unless the queue is still busy."""
        self._update()
        self._departures += 1
        if not busy:
            self.stop()

    def stop(self) -> None:
        """Stop counting time, if the meter is not idle."""
        self._update()
        if self._counted_until is not None:
            self._counted_until, self._idle_since = None, self._counted_until

    @property
    def known(self) -> bool:
        """Whether recent observations suffice to refuse requests. A stall counts while it lasts."""
        self._update()
        return self._seconds >= (ENOUGH_SECONDS if self._departures >= ENOUGH_DEPARTURES else LONG_ENOUGH)

    def seconds_for(self, waiting: int) -> float:
        """Expected seconds until that many requests have departed; 0 without any observation."""
        self._update()
        return waiting * self._seconds / self._departures if self._departures else 0.0

    def retry_after(self, waiting: int, minimum: int) -> int:
        """`seconds_for` in whole seconds, at least `minimum` and within the bounds above."""
        return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, minimum, math.ceil(self.seconds_for(waiting))))

    def _update(self) -> None:
        if self._counted_until is not None:
            now = self._clock()
            elapsed, self._counted_until = now - self._counted_until, now
            self._decay(elapsed)
            self._seconds += elapsed

    def _decay(self, elapsed: float) -> None:
        factor = 0.5 ** (elapsed / HALF_LIFE)
        self._departures, self._seconds = self._departures * factor, self._seconds * factor


class Admission:
    """The requests that wait; may be used from any thread.

    Args:
        capacity: maximum number of waiting requests.
        retry_after: minimum for a refusal's Retry-After, in seconds.
        max_wait: maximum expected waiting time in seconds, checked once the throughput is known; 0 for no maximum.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        capacity: int,
        retry_after: int,
        max_wait: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity, self._min_retry_after, self._max_wait = capacity, retry_after, max_wait
        self._busy_from = min(MIN_QUEUE, capacity)
        self._lock = threading.Lock()
        self._tickets: set[object] = set()
        self._throughput = ThroughputMeter(clock)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._tickets)

    @property
    def retry_after(self) -> int:
        """Expected seconds until the waiting requests have departed."""
        with self._lock:
            return self._throughput.retry_after(len(self._tickets), self._min_retry_after)

    def check(self) -> None:
        """Raise what `acquire` would raise.

        Raises:
            QueueFull: too many requests wait, or for too long.
        """
        with self._lock:
            self._check()

    def acquire(self, *, extra: bool = False) -> object:
        """Add a waiting request; return the ticket that `release` takes.

        Args:
            extra: admit it regardless of the limits.

        Raises:
            QueueFull: too many requests wait, or for too long.
        """
        ticket = object()
        with self._lock:
            if not extra:
                self._check()
            self._add(ticket)
        return ticket

    def release(self, ticket: object) -> None:
        """Remove a waiting request. Releasing it twice does nothing."""
        with self._lock:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
                if len(self._tickets) >= self._busy_from - 1:
                    self._throughput.count(busy=len(self._tickets) >= self._busy_from)

    @contextmanager
    def aside(self, ticket: object) -> Iterator[None]:
        """Do not count a request as waiting: it waits for something else than the device. It is admitted again."""
        with self._lock:
            self._tickets.remove(ticket)
            if len(self._tickets) < self._busy_from:
                self._throughput.stop()
        try:
            yield
        finally:
            with self._lock:
                self._add(ticket)

    def _add(self, ticket: object) -> None:
        self._tickets.add(ticket)
        if len(self._tickets) >= self._busy_from:
            self._throughput.start()

    def _check(self) -> None:
        waiting, throughput = len(self._tickets), self._throughput
        if waiting >= self._capacity:
            detail = f"{self._capacity} requests are waiting already."
        elif (
            self._max_wait
            and waiting >= self._busy_from
            and throughput.known
            and throughput.seconds_for(waiting) > self._max_wait
        ):
            detail = f"The requests that are waiting already will take longer than {self._max_wait:g} seconds."
        else:
            return
        raise QueueFull(detail, throughput.retry_after(waiting, self._min_retry_after))
