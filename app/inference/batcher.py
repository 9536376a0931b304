"""One thread that owns the device, and the bounded queue in front of it.

For: turning concurrent requests into batches, and keeping one request's misfortune from becoming another's.
Does not know: modalities, models or HTTP; a job is whatever `run` takes, a result whatever it gives.

A request takes a `Place` before its slow preparation (decoding, features) starts and gives it up when its job leaves
the queue. The bound therefore covers everything that waits, wherever it waits, and not just the last queue.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from app.inference.errors import DeadlinePassed, DeviceLost, NotReady, QueueFull, Unprocessable
from app.logging import get_logger

J = TypeVar("J")
R = TypeVar("R")

HEARTBEAT: Final = 0.5  # seconds between signs of life of an idle worker


@dataclass(frozen=True, slots=True)
class Served(Generic[R]):
    """A result, and how many seconds its job waited for the worker."""

    result: R
    waited: float


@dataclass(eq=False, slots=True)
class _Item(Generic[J, R]):
    job: J
    deadline: float
    submitted: float
    place: "Place[J, R]"
    future: "Future[Served[R]]" = field(default_factory=Future)


class Place(Generic[J, R]):
    """One request's place among those that wait."""

    def __init__(self, batcher: "Batcher[J, R]") -> None:
        self._batcher = batcher
        self.held = True

    async def submit(self, job: J, deadline: float) -> Served[R]:
        """Queue `job` and wait for its result; cancelling the wait drops the job if it has not begun.

        Args:
            job: what `run` takes.
            deadline: on the `time.monotonic` clock.

        Raises:
            DeadlinePassed: it has passed already, or had when the job left the queue.
            NotReady: the batcher has been stopped.
            DeviceLost: the worker has died.
            Unprocessable: `run` fails on this job alone.
        """
        return await asyncio.wrap_future(self._batcher.queue(self, job, deadline))


class Batcher(Generic[J, R]):
    """Collects jobs and runs them in batches on a thread of its own.

    Args:
        run: computes the results of a batch, in order; called on the worker thread only.
        check: runs something known to work; raises where the device or the model is broken. Called after a failure.
        on_fatal: told once, on the worker thread, that `check` failed.
        on_batch: told of every batch before it runs.
        capacity: places.
        max_batch: jobs in a batch.
        delay: seconds for which a batch that is not full is held back for company; may be changed at any time.
        retry_after: seconds a refused client should wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R]],
        *,
        check: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        on_batch: Callable[[Sequence[J]], None] = lambda _: None,
        capacity: int = 256,
        max_batch: int = 32,
        delay: float = 0.0,
        retry_after: int = 1,
    ) -> None:
        self._run, self._check, self._on_fatal, self._on_batch = run, check, on_fatal, on_batch
        self._capacity, self._max_batch, self._retry_after = capacity, max_batch, retry_after
        self.delay = delay
        self._changed = threading.Condition()
        self._waiting: deque[_Item[J, R]] = deque()
        self._places = 0
        self._stopping = False
        self._dead = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="emmr-device", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Take nothing more, finish what waits, end the worker; whether it ended within `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Places taken: requests that wait for their forward pass, in whatever stage."""
        return self._places

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stopping

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._thread.is_alive() and not self._dead

    @property
    def silence(self) -> float:
        """Seconds since the worker's last sign of life."""
        return time.monotonic() - self._beat

    def admit(self) -> None:
        """Refuse early, without taking a place.

        Raises:
            QueueFull: all are taken.
        """
        if self._places >= self._capacity:
            raise QueueFull(f"{self._capacity} requests are waiting already.", self._retry_after)

    @contextmanager
    def place(self) -> Iterator[Place[J, R]]:
        """Take a place for as long as the block lasts or until the job leaves the queue.

        Raises:
            QueueFull: all are taken.
        """
        with self._changed:
            self.admit()
            self._places += 1
        place: Place[J, R] = Place(self)
        try:
            yield place
        finally:
            with self._changed:
                self._give_up(place)

    def _give_up(self, place: Place[J, R]) -> None:
        if place.held:
            place.held = False
            self._places -= 1

    def queue(self, place: Place[J, R], job: J, deadline: float) -> "Future[Served[R]]":
        """Queue a job; see `Place.submit`, which is what to call."""
        now = time.monotonic()
        if now >= deadline:
            raise DeadlinePassed("The deadline passed before the request reached the queue.")
        with self._changed:
            if self._dead:
                raise DeviceLost("The device no longer computes.", self._retry_after)
            if self._stopping:
                raise NotReady("The service is draining.", self._retry_after)
            item: _Item[J, R] = _Item(job, deadline, now, place)
            self._waiting.append(item)
            self._changed.notify_all()
        return item.future

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        while not self._dead:
            items = self._collect()
            if items is None:
                return
            live = [item for item in items if self._still_wanted(item)]
            if live:
                self._serve(live)

    def _collect(self) -> list[_Item[J, R]] | None:
        """Wait for jobs and take a batch of them; an empty list is a sign of life, None the end."""
        with self._changed:
            self._beat = time.monotonic()
            if not self._waiting and not self._stopping:
                self._changed.wait(HEARTBEAT)
            if not self._waiting:
                return None if self._stopping else []
            held_until = time.monotonic() + self.delay
            while not self._stopping:
                self._forget_the_gone()
                left = held_until - time.monotonic()
                if left <= 0 or len(self._waiting) >= self._max_batch:
                    break
                self._changed.wait(left)
            items = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            for item in items:
                self._give_up(item.place)
            return items

    def _forget_the_gone(self) -> None:
        """Let go of jobs whose clients left, so that they do not count towards a batch."""
        gone = [item for item in self._waiting if item.future.cancelled()]
        for item in gone:
            self._waiting.remove(item)

    def _still_wanted(self, item: _Item[J, R]) -> bool:
        if not item.future.set_running_or_notify_cancel():
            return False  # the client has gone
        if time.monotonic() >= item.deadline:
            item.future.set_exception(DeadlinePassed("The deadline passed while the request waited."))
            return False
        return True

    def _serve(self, items: Sequence[_Item[J, R]]) -> None:
        began = time.monotonic()
        try:
            jobs = [item.job for item in items]
            self._on_batch(jobs)
            results = list(zip(items, self._run(jobs), strict=True))
        except Exception as error:
            log = get_logger()
            log.error("batch failed", exc_info=error)
            if not self._survives():
                self._bury(items)
            elif len(items) == 1:
                items[0].future.set_exception(Unprocessable("The model cannot process this input."))
            else:
                for item in items:  # one by one, so that only the culprit fails
                    if self._dead:
                        self._bury([item])
                    else:
                        self._serve([item])
            return
        for item, result in results:
            item.future.set_result(Served(result, began - item.submitted))

    def _survives(self) -> bool:
        """Whether what is known to work still works: then a failure is an item's fault, not the device's."""
        try:
            self._check()
        except Exception as fatal:
            log = get_logger()
            log.critical("device lost", exc_info=fatal)
            with self._changed:
                self._dead = True
            self._on_fatal(fatal)
            return False
        return True

    def _bury(self, items: Sequence[_Item[J, R]]) -> None:
        with self._changed:
            rest = [item for item in self._waiting if item.future.set_running_or_notify_cancel()]
            self._waiting.clear()
        for item in (*items, *rest):
            item.future.set_exception(DeviceLost("The device no longer computes.", self._retry_after))
