"""How many may wait and for how long, and how soon one who is refused should come back.

For: a bound on everything that waits, counted from before its preparation until it leaves the queue.
Does not know: what waits for what.

The number bounds memory, the wait bounds how long a crowd is felt after it has gone: who cannot be answered soon is
told so at once, and not after the queue that a slow machine takes long to empty.
"""

import threading
from typing import Final

from app.engine.errors import QueueFull
from app.engine.throughput import ThroughputMeter

FEW: Final = 16
"""Fewer than so many are never too long a wait. Nor is a rate measured while fewer wait: processors may be idle then,
and one request after the other says little of how fast a crowd is served."""


class Admission:
    """A number of places, taken and given up from any thread.

    Args:
        capacity: how many there are.
        retry_after: seconds a refused client should wait at least.
        max_wait: seconds that those who wait may take to leave, by how fast others have, for one more to be let in;
            any while that is not known, and whatever is known where 0.
    """

    def __init__(self, capacity: int, retry_after: int, max_wait: float = 0.0) -> None:
        self._capacity, self._soonest, self._max_wait = capacity, retry_after, max_wait
        self._many = min(FEW, capacity)
        self._lock = threading.Lock()
        self._taken: set[object] = set()
        self._drain = ThroughputMeter()

    @property
    def taken(self) -> int:
        """How many wait."""
        return len(self._taken)

    @property
    def retry_after(self) -> int:
        """Seconds until those who wait now will have left, by how fast others have."""
        with self._lock:
            return self._drain.retry_after(len(self._taken), self._soonest)

    def admit(self) -> None:
        """Refuse whom `take` would refuse now.

        Raises:
            QueueFull: all are taken, or the wait is too long.
        """
        with self._lock:
            refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def take(self, *, extra: bool = False) -> object:
        """Take a place; what comes back gives it up.

        Args:
            extra: one beyond the capacity if need be, however long the wait.

        Raises:
            QueueFull: all are taken, or the wait is too long.
        """
        ticket = object()
        with self._lock:
            refusal = None if extra else self._refusal()
            if refusal is None:
                self._taken.add(ticket)
                if len(self._taken) >= self._many:
                    self._drain.entered()
                return ticket
        raise refusal

    def give_up(self, ticket: object) -> None:
        """Leave a place; leaving it again does nothing."""
        with self._lock:
            if ticket in self._taken:
                self._taken.remove(ticket)
                if len(self._taken) >= self._many - 1:
                    self._drain.departed(on=len(self._taken) >= self._many)

    def _refusal(self) -> QueueFull | None:
        """Why one more cannot be let in; the lock is held."""
        waiting = len(self._taken)
        if waiting >= self._capacity:
            detail = f"{self._capacity} requests are waiting already."
        elif self._max_wait and waiting >= self._many and self._wait(waiting) > self._max_wait:
            detail = f"The requests that are waiting already will take longer than {self._max_wait:g} seconds."
        else:
            return None
        return QueueFull(detail, self._drain.retry_after(waiting, self._soonest))

    def _wait(self, waiting: int) -> float:
        return self._drain.seconds_for(waiting) if self._drain.known else 0.0
