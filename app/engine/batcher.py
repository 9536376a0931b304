"""Dynamic batching: worker threads that compute, and the bounded queue in front of them."""

# A request takes a ticket before its slow preparation (decoding, features) starts and releases it when its job leaves
# the queue, so the bound covers every waiting request in any stage. Jobs leave the queue in order of arrival; with
# several workers, a batch may end before one that left the queue earlier.

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
from app.errors import DeadlinePassed, DeviceLost, NotReady, ShortOfMemory, Unprocessable
from app.linux import make_thread_nicer
from app.logging import get_logger

J = TypeVar("J")
R = TypeVar("R")

HEARTBEAT: Final = 0.5  # seconds between heartbeats of an idle worker
ABANDONED_SECONDS: Final = 1.0  # for abandoned workers to end


@dataclass(eq=False, slots=True)
class _Entry(Generic[J, R]):
    """A job in the queue. The future's result is `run`'s, and the seconds the job waited for the worker."""

    job: J
    deadline: float
    submitted: float
    ticket: object
    future: "Future[tuple[R, float]]" = field(default_factory=Future)


class _Worker(threading.Thread, Generic[J, R]):
    """A thread that runs batches, with the time of its last heartbeat and its running batch."""

    def __init__(self, work: "Callable[[_Worker[J, R]], None]", number: int, niceness: int) -> None:
        super().__init__(name=f"emmr-device-{number}", daemon=True)
        self._work, self._niceness = work, niceness
        self.heartbeat = time.monotonic()
        self.running: Sequence[_Entry[J, R]] = ()

    def run(self) -> None:
        make_thread_nicer(self._niceness)
        self._work(self)


class Batcher(Generic[J, R]):
    """Collects jobs and runs them in batches on its own threads.

    Args:
        run: computes the results of a batch, in order; called on the worker threads only, by several workers at the
            same time. Its `MemoryError` is not attributed to a job; any other exception is, as long as `check`
            succeeds.
        check: runs known-good jobs, and raises if the device or the model is broken. Called after a failure.
        on_fatal: called once, on a worker thread, after `check` has failed.
        on_batch: called with every batch before it runs.
        cost: of running jobs together; called once per job, so it should be fast.
        together: whether a job may run in a batch with the first one.
        capacity: maximum number of waiting requests.
        max_batch: maximum number of jobs in a batch.
        budget: maximum cost of a batch; a more expensive job runs alone. May be changed at any time.
        delay: seconds a batch that is not full waits for more jobs. May be changed at any time.
        linger: seconds a batch that is smaller than the one before waits for more jobs, for clients that send the next
            request on their answer. May be changed at any time.
        retry_after: minimum for a refusal's Retry-After, in seconds.
        max_wait: maximum expected waiting time of a request in seconds; 0 for no maximum.
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
        linger: float = 0.0,
        retry_after: int = 1,
        max_wait: float = 0.0,
    ) -> None:
        self._run, self._check, self._on_fatal, self._on_batch = run, check, on_fatal, on_batch
        self._cost, self._together = cost, together
        self._max_batch, self._retry_after = max_batch, retry_after
        self.admission = Admission(capacity, retry_after, max_wait)
        self.budget, self.delay, self.linger = budget, delay, linger
        self.failures = 0
        """Failed batches."""
        self.shortages = 0
        """Batches that failed for lack of memory."""
        self.stopping = False
        self._changed = threading.Condition()
        self._waiting: deque[_Entry[J, R]] = deque()
        self._workers: Sequence[_Worker[J, R]] = ()
        self._last_size = 0  # of the batch before, on any worker
        self._dead = False

    def start(self, workers: int = 1, niceness: int = 0) -> None:
        """Start the workers. They share the queue, and an idle one takes the next batch.

        Args:
            workers: their number.
            niceness: added to that of their threads, on Linux.
        """
        self._workers = [_Worker(self._work, number, niceness) for number in range(workers)]
        for worker in self._workers:
            worker.start()

    def stop(self, timeout: float) -> bool:
        """Refuse new jobs, finish the waiting ones and end the workers; return whether they ended within `timeout`."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
        end = time.monotonic() + (min(timeout, ABANDONED_SECONDS) if self._dead else timeout)
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def abandon(self) -> None:
        """Stop using workers of which one hangs: fail every running and waiting job, and refuse new ones."""
        with self._changed:
            self._dead = True
            self._changed.notify_all()
            self._fail_all([entry for worker in self._workers for entry in worker.running])

    @property
    def depth(self) -> int:
        """Requests that wait for their forward pass, in any stage."""
        return self.admission.waiting

    @property
    def workers(self) -> int:
        """Number of workers that have been started."""
        return len(self._workers)

    @property
    def alive(self) -> bool:
        """Whether every worker runs."""
        return not self._dead and bool(self._workers) and all(worker.is_alive() for worker in self._workers)

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat of the worker that has been silent for the longest time."""
        now = time.monotonic()
        return max((now - worker.heartbeat for worker in self._workers), default=0.0)

    @contextmanager
    def reserve(self, *, extra: bool = False) -> Iterator[object]:
        """Provide a ticket for `submit`, valid until the end of the block or until the job leaves the queue.

        Args:
            extra: ignore the limits, for the service's own requests.

        Raises:
            QueueFull: too many requests wait, or for too long.
        """
        ticket = self.admission.acquire(extra=extra)
        try:
            yield ticket
        finally:
            self.admission.release(ticket)

    async def submit(self, ticket: object, job: J, deadline: float) -> tuple[R, float]:
        """Queue `job` and wait for its result; cancelling drops the job unless it is running.

        Args:
            ticket: from `reserve`.
            job: passed to `run`.
            deadline: on the `time.monotonic` clock.

        Returns:
            The result, and the seconds the job waited for the worker.

        Raises:
            DeadlinePassed: the deadline passed before the job ran.
            NotReady: the batcher has been stopped.
            DeviceLost: the device no longer computes, or the workers have been abandoned.
            ShortOfMemory: there is not enough memory even for this job alone.
            Unprocessable: `run` fails on this job alone.
        """
        now = time.monotonic()
        if now >= deadline:
            raise DeadlinePassed("The deadline passed before the request reached the queue.")
        with self._changed:
            if self._dead:
                raise self._device_lost()
            if self.stopping:
                raise NotReady("The service is draining.", self._retry_after)
            entry: _Entry[J, R] = _Entry(job, deadline, now, ticket)
            self._waiting.append(entry)
            self._changed.notify()  # one worker; if several are idle, the next job wakes the next one
        return await asyncio.wrap_future(entry.future)

    def _device_lost(self) -> DeviceLost:
        return DeviceLost("The device no longer computes.", self._retry_after)

    def _fail_all(self, entries: Sequence[_Entry[J, R]]) -> None:
        """Fail these running jobs and every waiting one."""
        with self._changed:
            waiting = [entry for entry in self._waiting if entry.future.set_running_or_notify_cancel()]
            self._waiting.clear()
        for entry in (*entries, *waiting):
            self._resolve(entry, self._device_lost())

    def _resolve(self, entry: _Entry[J, R], outcome: tuple[R, float] | Exception) -> None:
        """Set the future unless it is done, as it is when an abandoned worker continues after all."""
        with self._changed:
            if entry.future.done():
                return
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
            else:
                entry.future.set_result(outcome)

    # Everything below runs on the worker threads.

    def _work(self, worker: _Worker[J, R]) -> None:
        while not self._dead:
            entries = self._next_batch(worker)
            if entries is None:
                return
            if entries:
                self._run_batch(worker, entries)
                worker.running = ()  # its requests keep the weights they were prepared with

    def _next_batch(self, worker: _Worker[J, R]) -> Sequence[_Entry[J, R]] | None:
        """Wait for jobs and remove a batch from the queue; empty after a heartbeat without jobs, None to end."""
        with self._changed:
            worker.heartbeat = time.monotonic()
            if not self._waiting and not self.stopping:
                self._changed.wait(HEARTBEAT)
            if not self._waiting:
                return None if self.stopping else []
            began = time.monotonic()
            while True:
                worker.heartbeat = now = time.monotonic()
                self._drop_expired(now)
                size = self._batch_size()  # 0 where another worker has taken the jobs, or all have expired
                held_until = began + max(self.delay, self.linger if size < self._last_size else 0.0)
                # A batch that has no room for the next job is as complete as one of the maximum size.
                if self.stopping or now >= held_until or size in {0, self._max_batch} or size < len(self._waiting):
                    break
                self._changed.wait(min(HEARTBEAT, held_until - now))
            if size:
                self._last_size = size
            entries = [self._waiting.popleft() for _ in range(size)]
            for entry in entries:
                self.admission.release(entry.ticket)
            worker.running = [entry for entry in entries if entry.future.set_running_or_notify_cancel()]
            return worker.running

    def _drop_expired(self, now: float) -> None:
        """Remove jobs that are cancelled or past their deadline, so that they take no room in a batch."""
        kept = [entry for entry in self._waiting if not entry.future.cancelled() and now < entry.deadline]
        if len(kept) == len(self._waiting):
            return
        for entry in self._waiting:
            if now >= entry.deadline and entry.future.set_running_or_notify_cancel():
                self._resolve(entry, DeadlinePassed("The deadline passed while the request waited."))
                self.admission.release(entry.ticket)
        self._waiting = deque(kept)

    def _batch_size(self) -> int:
        """Number of jobs at the front of the queue that form the next batch."""
        jobs: list[J] = []
        for entry in islice(self._waiting, self._max_batch):
            if jobs and not (self._together(jobs[0], entry.job) and self._cost([*jobs, entry.job]) <= self.budget):
                break
            jobs.append(entry.job)
        return len(jobs)

    def _run_batch(self, worker: _Worker[J, R], entries: Sequence[_Entry[J, R]], *, retry: bool = False) -> None:
        """Run a batch. One that fails is halved recursively until only the jobs that cause the failure fail."""
        began = time.monotonic()
        try:
            jobs = [entry.job for entry in entries]
            self._on_batch(jobs)
            results = list(zip(entries, self._run(jobs), strict=True))
        except Exception as error:
            log = get_logger()
            log.error("batch failed", size=len(entries), exc_info=error)
            worker.heartbeat = time.monotonic()
            with self._changed:
                self.failures += 1
                self.shortages += isinstance(error, MemoryError)
            # The device is checked after the first failure and before a job is blamed, but not for each half.
            if (len(entries) == 1 or not retry) and not self._device_works():
                self._fail_all(entries)
            elif len(entries) > 1:
                self._run_halves(worker, entries)
            elif isinstance(error, MemoryError):
                refusal = ShortOfMemory("There is not enough memory to answer now.", self._retry_after)
                self._resolve(entries[0], refusal)
            else:
                self._resolve(entries[0], Unprocessable("The model cannot process this input."))
            return
        worker.heartbeat = time.monotonic()
        for entry, result in results:
            self._resolve(entry, (result, began - entry.submitted))

    def _run_halves(self, worker: _Worker[J, R], entries: Sequence[_Entry[J, R]]) -> None:
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            if self._dead:
                self._fail_all(half)
                continue
            now = time.monotonic()
            for entry in half:
                if now >= entry.deadline:
                    self._resolve(entry, DeadlinePassed("The deadline passed while the request waited."))
            if pending := [entry for entry in half if not entry.future.done()]:
                self._run_batch(worker, pending, retry=True)

    def _device_works(self) -> bool:
        """Run `check`; on failure mark the workers as dead."""
        try:
            self._check()
        except Exception as fatal:
            log = get_logger()
            log.critical("device lost", exc_info=fatal)
            with self._changed:
                first, self._dead = not self._dead, True
                self._changed.notify_all()
            if first:
                self._on_fatal(fatal)
            return False
        return True
