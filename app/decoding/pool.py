"""A pool of decoder processes, which replaces those that die, hang or exceed their limits."""

# A file that crashes its decoder or exceeds the time limit fails its own request and costs the pool one process. A file
# whose decoder is killed from outside, for example for the machine's lack of memory, is tried once more. If a request
# is cancelled, its file is decoded to the end when that takes under a second, since starting a process takes longer
# than decoding most files.
#
# `start`, `stop` and `state` may be called from any thread, `run` from any event loop. Each process has a thread that
# waits for it; one more thread replaces processes that died while idle.

import asyncio
import contextlib
import io
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import IO, Final, Literal, TypeVar

from app.decoding.process import ENDED_SECONDS, Decoder, DecoderDied, Unresponsive
from app.decoding.protocol import DecodingStopped, Json, ProtocolError, decode_reply
from app.decoding.sandbox import PARTS
from app.errors import DecoderFailed, NoDecoder, from_modality
from app.logging import get_logger
from app.settings import MIB
from model.errors import EmptyModality, ModalityError

V = TypeVar("V")

START_SECONDS: Final = 30.0  # for a process to start, on a loaded machine
CONFIRM_SECONDS: Final = 2.0  # for an idle process to confirm a job; after that it counts as stopped or stuck
CANCELLED_SECONDS: Final = 1.0  # for the file of a cancelled request, before its process is killed
CHECK_SECONDS: Final = 0.5  # between checks of idle processes
ATTEMPTS: Final = 3  # to find a process that confirms a job
# Sent by the kernel's out-of-memory killer, an operator or a supervisor; no decoder ends by them because of a file.
KILLED_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL.name, signal.SIGTERM.name, signal.SIGHUP.name})


class _Killed(Exception):
    """The process that decoded a file has been killed from outside."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """State of the pool for health checks.

    Args:
        workers: configured number of processes.
        alive: running processes.
        busy: files being decoded.
        replaced: processes replaced since the start.
        ok: whether files can be decoded, now or once a replacement has started.
        sandbox: whether each part of the sandbox is in effect in every process; see `app.decoding.sandbox.confine`.
    """

    workers: int
    alive: int
    busy: int
    replaced: int
    ok: bool
    sandbox: Mapping[str, bool]


class _Task:
    """A file to decode, used by one thread of the pool. `cancel` and `kill` may be called from another thread."""

    def __init__(self, job: Json, file: IO[bytes], part: str) -> None:
        self.job, self.part = job, part
        self.cancelled = False
        self.sent: Future[None] = Future()
        """Of the last attempt: running while the file is read, done afterwards."""
        self._file = file
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None

    def run(self, decoder: Decoder, deadline: float) -> tuple[Json, bytearray]:
        """Send the file to a process and receive the reply."""
        with self._lock:
            # After a cancellation the file may be closed.
            file: IO[bytes] = io.BytesIO() if self.cancelled else self._file
            self._decoder, self.sent = decoder, Future()
            self.sent.set_running_or_notify_cancel()
        try:
            try:
                decoder.send_file(file, deadline)
            finally:
                self.sent.set_result(None)
            return decoder.receive(deadline)
        finally:
            with self._lock:
                self._decoder = None

    def cancel(self) -> bool:
        """Discard the result; return whether the file is being read, and must not be closed before `sent` is done."""
        with self._lock:
            self.cancelled = True
            return self.sent.running()

    def kill(self) -> None:
        """Kill the process that decodes the file, if there is one."""
        with self._lock:
            if self._decoder is not None:
                self._decoder.kill()


class DecodePool:
    """Decoder processes; none before `start`.

    Args:
        workers: number of processes.
        timeout: seconds for one file; waiting for a free process is not counted.
        memory_bytes: limit of each process's address space.
        cpu_seconds: processor seconds for one file; `timeout` if None.
        module: that each process runs; it takes jobs as `app.decoding.worker`, the default, does.
        arguments: of the module.
        decode: reply of a process → result of `run`; raises as `decode_reply` does.
        patience: factor of the times to start and to confirm a job, for processes of a low priority.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout: float = 10.0,
        memory_bytes: int = 1024 * MIB,
        cpu_seconds: float | None = None,
        module: str | None = None,
        arguments: Sequence[str] = (),
        decode: Callable[[Json, bytearray], object] = decode_reply,
        patience: float = 1.0,
    ) -> None:
        self.timeout, self._reply, self._patience = timeout, decode, patience
        cpu_seconds = timeout if cpu_seconds is None else cpu_seconds
        self._decoders = [
            Decoder(memory_bytes, cpu_seconds, module=module, arguments=arguments) for _ in range(workers)
        ]
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, "emmr-decode")
        self._monitor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._counters = threading.Lock()
        self._busy = self._replaced = 0

    def start(self) -> None:
        """Start every process and wait until each is ready.

        Raises:
            DecoderDied, Unresponsive: one does not start; its standard error says why.
        """
        try:
            for decoder in self._decoders:
                decoder.launch()
            for decoder in self._decoders:
                decoder.await_ready(self._patience * START_SECONDS)
                self._idle.put(decoder)
        except (DecoderDied, Unresponsive):
            self.stop()
            raise
        if missing := [part for part, in_effect in self.state().sandbox.items() if not in_effect]:
            get_logger().warning("decoders are not fully confined", missing=missing)
        self._monitor = threading.Thread(target=self._replace_idle, name="emmr-decode-monitor", daemon=True)
        self._monitor.start()

    def stop(self) -> None:
        """End every process. A file being decoded fails with `DecoderFailed`, a waiting one with `NoDecoder`."""
        self._stopping.set()
        for decoder in self._decoders:
            decoder.kill()
        if self._monitor is not None:
            self._monitor.join()
        self._threads.shutdown()
        # A thread may have launched a replacement in between.
        for decoder in self._decoders:
            decoder.kill()

    def state(self) -> PoolState:
        """Return the current state."""
        return PoolState(
            workers=len(self._decoders),
            alive=len(self.pids()),
            busy=self._busy,
            replaced=self._replaced,
            ok=self._running and not all(decoder.failing for decoder in self._decoders),
            sandbox={part: all(decoder.sandbox[part] for decoder in self._decoders) for part in PARTS},
        )

    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [pid for decoder in self._decoders if (pid := decoder.pid) is not None]

    async def run(self, job: Json, file: IO[bytes], part: Literal["audio", "openface"], result: type[V]) -> V:
        """Decode the whole of `file`. The caller may close the file once this has returned or raised.

        Cancelling discards the result, and kills the process if it is not done `CANCELLED_SECONDS` later.

        Args:
            job: see `app.decoding.worker`.
            file: any seekable file.
            part: named by the errors.
            result: type of the result.

        Raises:
            EmptyModality: a valid file without usable content.
            UploadError: the file is not accepted, or decoding failed (`DecoderFailed`, `NoDecoder`).
        """
        task = _Task(job, file, part)
        try:
            future = self._threads.submit(self._decode, task)
        except RuntimeError:  # the executor has been shut down
            raise _no_decoder(task) from None
        try:
            decoded = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            reading = task.cancel()
            asyncio.get_running_loop().call_later(CANCELLED_SECONDS, task.kill)
            if reading:
                await asyncio.wrap_future(task.sent)
            raise
        except EmptyModality:
            raise
        except ModalityError as error:
            raise from_modality(error) from None
        if not isinstance(decoded, result):
            raise DecoderFailed("the decoder broke off", part=part)
        return decoded

    # Everything below runs in the pool's threads.

    @property
    def _running(self) -> bool:
        return self._monitor is not None and not self._stopping.is_set()

    def _decode(self, task: _Task) -> object:
        try:
            return self._attempt(task)
        except _Killed:
            try:
                return self._attempt(task)
            except _Killed:
                detail = "the process that decodes the file was ended from outside, twice"
                raise NoDecoder(detail, part=task.part) from None

    def _attempt(self, task: _Task) -> object:
        decoder = self._take_idle(task)
        with self._counters:
            self._busy += 1
        try:
            self._begin(task, decoder)
            return self._result(task, decoder)
        finally:
            with self._counters:
                self._busy -= 1
            self._idle.put(decoder)

    def _take_idle(self, task: _Task) -> Decoder:
        # There are as many threads as processes, so this waits at most for the monitor to return one.
        while self._running:
            with contextlib.suppress(Empty):
                return self._idle.get(timeout=CHECK_SECONDS)
        raise _no_decoder(task)

    def _begin(self, task: _Task, decoder: Decoder) -> None:
        """Send the job; replace a process that does not confirm it, which cannot be due to the file, not yet sent."""
        for _ in range(ATTEMPTS):
            if self._stopping.is_set() or task.cancelled:
                break
            self._ensure_process(task, decoder)
            try:
                decoder.await_ready(self._patience * START_SECONDS)
                decoder.begin(task.job, min(self._patience * CONFIRM_SECONDS, self.timeout))
            except (DecoderDied, Unresponsive):
                self._replace(decoder)
            else:
                return
        raise _no_decoder(task)

    def _ensure_process(self, task: _Task, decoder: Decoder) -> None:
        """Launch a process where there is none, as soon as the delay after a failed start allows it."""
        deadline = time.monotonic() + self.timeout
        while not decoder.is_alive() and not task.cancelled and time.monotonic() < deadline:
            self._replace(decoder)
            if not decoder.is_alive() and self._stopping.wait(CHECK_SECONDS):
                return

    def _result(self, task: _Task, decoder: Decoder) -> object:
        deadline = time.monotonic() + self.timeout
        try:
            return self._reply(*task.run(decoder, deadline))
        except ModalityError:
            raise
        except (DecoderDied, Unresponsive, DecodingStopped, ProtocolError, OSError, ValueError) as error:
            # OSError and ValueError: the file cannot be read, for example because it has been closed. In every case
            # the process is in an unknown state, or short of memory.
            ended_by = self._replace(decoder, ENDED_SECONDS if isinstance(error, DecoderDied) else 0.0)
            if ended_by is not None:
                get_logger().warning("decoder ended while decoding", ended_by=ended_by, part=task.part)
            if ended_by in KILLED_FROM_OUTSIDE:
                raise _Killed from None
            raise DecoderFailed(self._reason(error, ended_by), part=task.part) from None

    def _reason(self, error: Exception, ended_by: str | None) -> str:
        if isinstance(error, DecodingStopped):
            return f"decoding stopped: {error}"
        if isinstance(error, Unresponsive):
            return f"decoding takes longer than the {self.timeout:g} seconds allowed"
        if ended_by == signal.SIGXCPU.name:
            return "decoding takes more processor time than is allowed"
        return "the decoder broke off"

    def _replace(self, decoder: Decoder, wait: float = 0.0) -> str | None:
        """Kill the process and launch another one; wait and result as of `Decoder.kill`."""
        ended_by = decoder.kill(wait)
        if not self._stopping.is_set() and decoder.may_launch:
            with self._counters:
                self._replaced += 1
            with contextlib.suppress(OSError):  # out of processes or memory; tried again later
                decoder.launch()
        return ended_by

    def _replace_idle(self) -> None:
        while not self._stopping.wait(CHECK_SECONDS):
            for _ in range(self._idle.qsize()):
                try:
                    decoder = self._idle.get_nowait()
                except Empty:
                    break
                if not decoder.is_alive():
                    self._replace(decoder)
                try:
                    # Also for a process launched after a failed job, which may not have started.
                    decoder.await_ready(self._patience * START_SECONDS)
                except (DecoderDied, Unresponsive):
                    decoder.kill()
                self._idle.put(decoder)


def _no_decoder(task: _Task) -> NoDecoder:
    return NoDecoder("no decoder takes the file at this moment", part=task.part)
