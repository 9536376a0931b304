"""One thread that owns the device, and the bounded queue in front of it.

For: turning concurrent requests into batches, and keeping one request's misfortune from becoming another's.
Does not know: modalities, models or HTTP; a job is whatever `run` takes, a result whatever it gives.

A request takes a `Reservation` before its slow preparation (decoding, features) starts and gives it up when its job leaves
the queue. The bound therefore covers everything that waits, wherever it waits, and not just the last queue.

Jobs leave in the order they came, as many together as fit: whoever waits is only ever behind those who came before.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic, TypeVar

from app.engine.admission import Admission
from app.engine.errors import DeadlinePassed, DeviceLost, NotReady, ShortOfMemory, Unprocessable
from app.logging import get_logger

J = TypeVar("J")
R = TypeVar("R")

HEARTBEAT: Final = 0.5  # seconds between signs of life of an idle worker
LAST_WORDS: Final = 1.0  # seconds a worker that has been given up may take to end


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
    place: "Reservation[J, R]"
    future: "Future[Served[R]]" = field(default_factory=Future)


class Reservation(Generic[J, R]):
    """One request's place among those that wait."""

    def __init__(self, batcher: "Batcher[J, R]", ticket: object) -> None:
        self._batcher, self._ticket = batcher, ticket

    async def submit(self, job: J, deadline: float) -> Served[R]:
        """Queue `job` and wait for its result; cancelling the wait drops the job if it has not begun.

        Args:
            job: what `run` takes.
            deadline: on the `time.monotonic` clock.

        Raises:
            DeadlinePassed: it has passed already, or had when the job left the queue.
            NotReady: the batcher has been stopped.
            DeviceLost: the worker has died or been given up.
            ShortOfMemory: there is not enough of it for this job alone.
            Unprocessable: `run` fails on this job alone.
        """
        return await asyncio.wrap_future(self._batcher.queue(self, job, deadline))

    def give_up(self) -> None:
        """Let someone else have it; done again, this does nothing."""
        self._batcher.places.give_up(self._ticket)


class Batcher(Generic[J, R]):
    """Collects jobs and runs them in batches on a thread of its own.

    Args:
        run: computes the results of a batch, in order; called on the worker thread only. `MemoryError` is no job's
            fault; any other exception is, where `check` succeeds.
        check: runs something known to work; raises where the device or the model is broken. Called after a failure.
        on_fatal: told once, on the worker thread, that `check` failed.
        on_batch: told of every batch before it runs.
        cost: of running jobs together; quick, for it is asked once for each job.
        together: whether a job may run beside the first one of a batch.
        capacity: places.
        max_batch: jobs in a batch.
        budget: what a batch may cost; a job that costs more runs alone. May be changed at any time.
        delay: seconds for which a batch that is not full is held back for company; may be changed at any time.
        retry_after: seconds a refused client should wait at least.
        max_wait: seconds that those who wait may take for one more to be let in; no bound where 0.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R]],
        *,
        check: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        on_batch: Callable[[Sequence[J]], None] = lambda _: None,
        cost: Callable[[Sequence[J]], float] = len,
        together: Callable[[J, J], bool] = lambda _, __: True,
        capacity: int = 256,
        max_batch: int = 32,
        budget: float = float("inf"),
        delay: float = 0.0,
        retry_after: int = 1,
        max_wait: float = 0.0,
    ) -> None:
        self._run, self._check, self._on_fatal, self._on_batch = run, check, on_fatal, on_batch
        self._cost, self._together = cost, together
        self._max_batch, self._retry_after = max_batch, retry_after
        self.places = Admission(capacity, retry_after, max_wait)
        self.budget, self.delay = budget, delay
        self.failures = 0
        """Batches that failed."""
        self.shortages = 0
        """Of those, for want of memory."""
        self._changed = threading.Condition()
        self._waiting: deque[_Item[J, R]] = deque()
        self._running: Sequence[_Item[J, R]] = ()
        self._stopping = False
        self._dead = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="emmr-device", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._beat = time.monotonic()
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Take nothing more, finish what waits, end the worker; whether it ended within `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(min(timeout, LAST_WORDS) if self._dead else timeout)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Give up a worker that does not come back: everyone who waits is told, and nobody is taken any more."""
        with self._changed:
            self._dead = True
            self._changed.notify_all()
            self._bury(self._running)

    @property
    def depth(self) -> int:
        """Admission taken: requests that wait for their forward pass, in whatever stage."""
        return self.places.taken

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

    @contextmanager
    def place(self, *, extra: bool = False) -> Iterator[Reservation[J, R]]:
        """Take a place for as long as the block lasts or until the job leaves the queue.

        Args:
            extra: one beyond the capacity if need be, for what the service asks itself.

        Raises:
            QueueFull: all are taken, or the wait is too long.
        """
        place: Reservation[J, R] = Reservation(self, self.places.take(extra=extra))
        try:
            yield place
        finally:
            place.give_up()

    def queue(self, place: Reservation[J, R], job: J, deadline: float) -> "Future[Served[R]]":
        """Queue a job; see `Reservation.submit`, which is what to call."""
        now = time.monotonic()
        if now >= deadline:
            raise DeadlinePassed("The deadline passed before the request reached the queue.")
        with self._changed:
            if self._dead:
                raise self._lost()
            if self._stopping:
                raise NotReady("The service is draining.", self._retry_after)
            item: _Item[J, R] = _Item(job, deadline, now, place)
            self._waiting.append(item)
            self._changed.notify_all()
        return item.future

    def _lost(self) -> DeviceLost:
        return DeviceLost("The device no longer computes.", self._retry_after)

    def _bury(self, items: Sequence[_Item[J, R]]) -> None:
        with self._changed:
            rest = [item for item in self._waiting if item.future.set_running_or_notify_cancel()]
            self._waiting.clear()
        for item in (*items, *rest):
            self._settle(item, self._lost())

    def _settle(self, item: _Item[J, R], outcome: Served[R] | Exception) -> None:
        """Answer, unless that has been done: a worker that was given up may come back."""
        with self._changed:
            if item.future.done():
                return
            if isinstance(outcome, Exception):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        while not self._dead:
            items = self._collect()
            if items is None:
                return
            if items:
                self._serve(items)

    def _collect(self) -> Sequence[_Item[J, R]] | None:
        """Wait for jobs and take a batch of them; an empty list is a sign of life, None the end."""
        with self._changed:
            self._beat = time.monotonic()
            if not self._waiting and not self._stopping:
                self._changed.wait(HEARTBEAT)
            if not self._waiting:
                return None if self._stopping else []
            held_until = time.monotonic() + self.delay
            while True:
                self._beat = now = time.monotonic()
                self._forget_the_late_and_the_gone(now)
                size = self._fitting()
                # What no longer fits has closed the batch as much as the largest number has.
                if self._stopping or now >= held_until or size == self._max_batch or size < len(self._waiting):
                    break
                self._changed.wait(min(HEARTBEAT, held_until - now))
            items = [self._waiting.popleft() for _ in range(size)]
            for item in items:
                item.place.give_up()
            self._running = [item for item in items if item.future.set_running_or_notify_cancel()]
            return self._running

    def _forget_the_late_and_the_gone(self, now: float) -> None:
        """Let go of jobs whose deadline has passed or whose clients left, so that they take no room in a batch."""
        kept = [item for item in self._waiting if not item.future.cancelled() and now < item.deadline]
        if len(kept) == len(self._waiting):
            return
        for item in self._waiting:
            if now >= item.deadline and item.future.set_running_or_notify_cancel():
                self._refuse_late(item)
                item.place.give_up()
        self._waiting = deque(kept)

    def _refuse_late(self, item: _Item[J, R]) -> None:
        self._settle(item, DeadlinePassed("The deadline passed while the request waited."))

    def _fitting(self) -> int:
        """How many of those in front make the next batch."""
        jobs: list[J] = []
        for item in islice(self._waiting, self._max_batch):
            if jobs and not (self._together(jobs[0], item.job) and self._cost([*jobs, item.job]) <= self.budget):
                break
            jobs.append(item.job)
        return len(jobs)

    def _serve(self, items: Sequence[_Item[J, R]], *, again: bool = False) -> None:
        """Run a batch; one that fails is halved, `again` and again, until only the culprits fail."""
        began = time.monotonic()
        try:
            jobs = [item.job for item in items]
            self._on_batch(jobs)
            results = list(zip(items, self._run(jobs), strict=True))
        except Exception as error:
            log = get_logger()
            log.error("batch failed", size=len(items), exc_info=error)
            self._beat = time.monotonic()
            self.failures += 1
            self.shortages += isinstance(error, MemoryError)
            # Half of a batch that failed tells nothing new about the device; a job that fails alone does.
            if (len(items) == 1 or not again) and not self._survives():
                self._bury(items)
            elif len(items) == 1:
                self._settle(items[0], self._verdict(error))
            else:
                self._halve(items)
            return
        self._beat = time.monotonic()
        for item, result in results:
            self._settle(item, Served(result, began - item.submitted))

    def _verdict(self, error: Exception) -> Exception:
        if isinstance(error, MemoryError):
            return ShortOfMemory("There is not enough memory to answer now.", self._retry_after)
        return Unprocessable("The model cannot process this input.")

    def _halve(self, items: Sequence[_Item[J, R]]) -> None:
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            if self._dead:
                self._bury(half)
                continue
            now = time.monotonic()
            for item in half:
                if now >= item.deadline:
                    self._refuse_late(item)
            in_time = [item for item in half if not item.future.done()]
            if in_time:
                self._serve(in_time, again=True)

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
