"""A few processes that decode uploads, and what happens when one of them dies, hangs or eats too much.

For: running `app.decoding.worker` on behalf of requests. A file that kills its decoder, or keeps it busy past the
time limit, costs its own request an error and the pool one process, which is replaced. One whose request is dropped is
decoded to its end where that is near, since a process takes longer to come up than most files to be decoded.
Does not know: formats; what it gives back is what `app.decoding.replies` restores.

`start`, `stop` and `state` may be called from any thread, `run` from any event loop. Each process has a thread here
that waits on it, and one more replaces processes that died while idle.
"""

import asyncio
import contextlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Literal, TypeAlias

from app.decoding.frames import BrokenFrame, Json
from app.decoding.process import Decoder, DecoderDied, Rereadable, Unresponsive
from app.decoding.replies import Decoded, DecoderStopped, restore
from app.uploads.errors import DecoderFailed, NoDecoder, from_modality
from app.uploads.spool import SpooledFile
from model.errors import EmptyModality, ModalityError

MIB: Final = 2**20
START_SECONDS: Final = 30.0  # for a process to come up; a loaded machine takes a few
HEARD_SECONDS: Final = 2.0  # for an idle process to say that it heard; one that does not is stopped or stuck
DROPPED_SECONDS: Final = 1.0  # for a file that nobody waits for any more, then its process is ended
CHECK_SECONDS: Final = 0.5  # between looks at idle processes
ATTEMPTS: Final = 3  # to find a process that takes the job

PartWithFile: TypeAlias = Literal["audio", "openface"]


@dataclass(frozen=True, slots=True)
class PoolState:
    """What health checks report.

    Args:
        workers: processes there should be.
        alive: processes there are.
        busy: files being decoded.
        replaced: processes lost and replaced since the start.
        ok: whether anything can be decoded, now or once a process that is taking another's place has come up.
    """

    workers: int
    alive: int
    busy: int
    replaced: int
    ok: bool


class _Task:
    """One file's way through a thread. Its request may drop it from outside, and the file may be closed then."""

    def __init__(self, job: Json, file: SpooledFile, part: PartWithFile) -> None:
        self.job, self.part = job, part
        self.handed_over: Future[None] = Future()
        self._file = file
        self._guard = threading.Lock()
        self._decoder: Decoder | None = None
        self._dropped = False

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for the result."""
        return self._dropped

    @contextlib.contextmanager
    def reading(self) -> Iterator[Rereadable]:
        """The file, as long as it is read; an empty one where it may have been closed."""
        with self._guard:
            file: Rereadable = io.BytesIO() if self._dropped else self._file
            self.handed_over.set_running_or_notify_cancel()
        try:
            yield file
        finally:
            self.handed_over.set_result(None)

    @contextlib.contextmanager
    def held_by(self, decoder: Decoder) -> Iterator[None]:
        """While a process has the file."""
        with self._guard:
            self._decoder = decoder
        try:
            yield
        finally:
            with self._guard:
                self._decoder = None

    def drop(self) -> bool:
        """Say that nobody waits any more; returns whether the file is being read, and must not be closed yet."""
        with self._guard:
            self._dropped = True
            return self.handed_over.running()

    def end(self) -> None:
        """Kill the process that has the file, if one has."""
        with self._guard:
            if self._decoder is not None:
                self._decoder.kill()


class DecodePool:
    """Processes that decode; none before `start`.

    Args:
        workers: how many.
        timeout: seconds one file may take; waiting for a free process is not counted.
        memory_bytes: address space of each process.
        cpu_seconds: processor seconds one file may take; `timeout` when not given.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout: float = 10.0,
        memory_bytes: int = 1024 * MIB,
        cpu_seconds: float | None = None,
    ) -> None:
        self.timeout = timeout
        cpu_seconds = timeout if cpu_seconds is None else cpu_seconds
        self._decoders = [Decoder(memory_bytes, cpu_seconds) for _ in range(workers)]
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, "emmr-decode")
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._busy = self._replaced = 0

    def start(self) -> None:
        """Start every process and wait until each is ready.

        Raises:
            DecoderDied, Unresponsive: one does not come up; what it said is on standard error.
        """
        try:
            for decoder in self._decoders:
                decoder.launch()
            for decoder in self._decoders:
                decoder.await_ready(START_SECONDS)
                self._idle.put(decoder)
        except (DecoderDied, Unresponsive):
            self.stop()
            raise
        self._keeper = threading.Thread(target=self._keep, name="emmr-decode-keeper", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End every process. A file still being decoded becomes `DecoderFailed`, one that waits `NoDecoder`."""
        self._stopping.set()
        for decoder in self._decoders:
            decoder.kill()
        if self._keeper is not None:
            self._keeper.join()
        self._threads.shutdown()
        # A thread may have launched a replacement between the two.
        for decoder in self._decoders:
            decoder.kill()

    def state(self) -> PoolState:
        """What there is at this moment."""
        started = self._keeper is not None and not self._stopping.is_set()
        return PoolState(
            workers=len(self._decoders),
            alive=len(self.pids()),
            busy=self._busy,
            replaced=self._replaced,
            ok=started and not all(decoder.failing for decoder in self._decoders),
        )

    def pids(self) -> list[int]:
        """The living processes."""
        return [pid for decoder in self._decoders if (pid := decoder.pid) is not None]

    async def run(self, job: Json, file: SpooledFile, part: PartWithFile) -> Decoded:
        """Decode the whole of `file`; cancelling drops the result, and the process soon if it has not come by then.

        The file may be closed when this has ended, whether or not it was cancelled.

        Raises:
            EmptyModality: well-formed, with nothing in it.
            UploadError: the file's fault, or that of its decoder (`DecoderFailed`, `NoDecoder`).
        """
        task = _Task(job, file, part)
        future = self._submit(task)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            reading = task.drop()
            asyncio.get_running_loop().call_later(DROPPED_SECONDS, task.end)
            if reading:
                await asyncio.wrap_future(task.handed_over)
            raise
        except EmptyModality:
            raise
        except ModalityError as error:
            raise from_modality(error) from None

    def _submit(self, task: _Task) -> Future[Decoded]:
        try:
            return self._threads.submit(self._work, task)
        except RuntimeError:
            raise self._stopped(task) from None

    def _work(self, task: _Task) -> Decoded:
        """In a thread: find a process, have it decode."""
        decoder = self._take(task)
        with self._counting:
            self._busy += 1
        try:
            self._hand_over(task, decoder)
            return self._result(task, decoder)
        finally:
            with self._counting:
                self._busy -= 1
            self._idle.put(decoder)

    def _take(self, task: _Task) -> Decoder:
        # There are as many threads as processes, so this waits for the keeper at most.
        while self._keeper is not None and not self._stopping.is_set():
            try:
                return self._idle.get(timeout=CHECK_SECONDS)
            except Empty:
                continue
        raise self._stopped(task)

    def _hand_over(self, task: _Task, decoder: Decoder) -> None:
        """Find out that the process listens, and replace one that does not: the file has not been near it yet."""
        for _ in range(ATTEMPTS):
            if self._stopping.is_set() or task.dropped:
                break
            self._have_process(task, decoder)
            try:
                decoder.await_ready(START_SECONDS)
                decoder.begin(task.job, min(HEARD_SECONDS, self.timeout))
            except (DecoderDied, Unresponsive):
                self._replace(decoder)
            else:
                return
        raise self._stopped(task)

    def _have_process(self, task: _Task, decoder: Decoder) -> None:
        """Launch a process where there is none, as soon as that may be tried again after a failure."""
        given_up = time.monotonic() + self.timeout
        while not self._lives(decoder) and not task.dropped and time.monotonic() < given_up:
            self._replace(decoder)
            if not self._lives(decoder) and self._stopping.wait(CHECK_SECONDS):
                return

    @staticmethod
    def _lives(decoder: Decoder) -> bool:
        return decoder.pid is not None

    def _result(self, task: _Task, decoder: Decoder) -> Decoded:
        deadline = time.monotonic() + self.timeout
        try:
            with task.held_by(decoder):
                with task.reading() as file:
                    decoder.hand_over(file, deadline)
                return restore(*decoder.reply(deadline))
        except ModalityError:
            raise
        except (DecoderDied, Unresponsive, DecoderStopped, BrokenFrame, OSError, ValueError) as error:
            # OSError and ValueError: the file cannot be read, for one because it has been closed.
            # In every case the conversation has broken off, or left a process that is short of memory.
            ended_by = self._replace(decoder)
            raise DecoderFailed(self._why(error, ended_by), part=task.part) from None

    def _why(self, error: Exception, ended_by: str | None) -> str:
        if isinstance(error, DecoderStopped):
            return f"decoding stopped: {error.reason}"
        if isinstance(error, Unresponsive):
            return f"decoding takes longer than the {self.timeout:g} seconds allowed"
        if ended_by == signal.SIGXCPU.name:
            return "decoding takes more processor time than is allowed"
        return "the decoder broke off"

    def _replace(self, decoder: Decoder) -> str | None:
        """Launch another process in place of this one; returns the signal that ended it."""
        ended_by = decoder.kill()
        if not self._stopping.is_set() and decoder.may_launch:
            with self._counting:
                self._replaced += 1
            # A machine out of processes or memory may have some again later.
            with contextlib.suppress(OSError):
                decoder.launch()
        return ended_by

    def _keep(self) -> None:
        """In a thread: look after processes that die while nobody uses them."""
        while not self._stopping.wait(CHECK_SECONDS):
            for _ in range(self._idle.qsize()):
                try:
                    decoder = self._idle.get_nowait()
                except Empty:
                    break
                if decoder.pid is None:
                    self._replace(decoder)
                try:
                    # Also of one that was launched after a job: it may never have come up.
                    decoder.await_ready(START_SECONDS)
                except (DecoderDied, Unresponsive):
                    decoder.kill()
                self._idle.put(decoder)

    @staticmethod
    def _stopped(task: _Task) -> NoDecoder:
        return NoDecoder("no decoder takes the file at this moment", part=task.part)
