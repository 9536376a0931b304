"""One decoder process as the serving process sees it: launch, hand over a file, wait for the reply, kill."""

# Every call blocks, within a time limit: the process may be dead, stopped, or controlled by the file it decodes.

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from app.decoding.protocol import PREFIX, Json, ProtocolError, pack, parse
from app.decoding.sandbox import PARTS

CHUNK: Final = 2**18  # bytes of a file sent at a time
MAX_MESSAGE_BYTES: Final = 2**16  # of a reply's JSON
MAX_BACKOFF: Final = 30.0  # seconds between attempts to start a process that fails to start
# Needed by a Python whose libraries are in unusual places. No other variable is passed on: they may hold keys.
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


WORKER: Final = "app.decoding.worker"
ENDED_SECONDS: Final = 5.0  # from the end of a process's output to the end of the process, on a loaded machine


class DecoderDied(Exception):
    """The process ended, or violated the protocol."""


class Unresponsive(Exception):
    """The process did not respond in time."""


class Decoder:
    """A decoder process. One job at a time; `kill` may be called from any thread.

    The methods that communicate raise `DecoderDied` or `Unresponsive`. Deadlines are on the `time.monotonic` clock.

    Args:
        memory_bytes: limit of its address space.
        cpu_seconds: processor time limit of a job.
        descriptor: of a file that the process reads itself, block by block; None for files that are sent to it.
        module: that the process runs; `WORKER` if None.
        arguments: of the module, after those above.
    """

    def __init__(
        self,
        memory_bytes: int,
        cpu_seconds: float,
        descriptor: int | None = None,
        *,
        module: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.memory_bytes, self.cpu_seconds = memory_bytes, cpu_seconds
        self._descriptors = () if descriptor is None else (descriptor,)
        self._program = (
            module or WORKER,
            str(memory_bytes),
            str(cpu_seconds),
            *map(str, self._descriptors),
            *arguments,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = False
        self._lock = threading.Lock()
        self._failures = 0
        self._not_before = 0.0
        self.sandbox = dict.fromkeys(PARTS, False)
        """Whether each part of the sandbox is in effect, as the process reported before it was given a file."""

    @property
    def pid(self) -> int | None:
        """Process id; None if the process is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self.pid is not None

    @property
    def failing(self) -> bool:
        """Whether the last start failed."""
        return self._failures > 0

    @property
    def may_launch(self) -> bool:
        """Whether the delay after the last failed start is over."""
        return time.monotonic() >= self._not_before

    def launch(self) -> None:
        """Start a new process in place of the current one, without waiting until it is ready.

        Raises:
            OSError: no process can be started: out of processes, memory or descriptors.
        """
        self.kill()
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {
            "PYTHONPATH": import_path(),
            # Threads take address space, and decoding uses none.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            try:
                process = subprocess.Popen[bytes](
                    [sys.executable, "-P", "-B", "-m", *self._program],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    pass_fds=self._descriptors,
                    env=environment,
                    # Ctrl-C in the terminal must reach the serving process only, which finishes its requests first.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                self._record_failure()
                raise
        with self._lock:
            self._process, self._socket, self._ready = process, ours, False

    def await_ready(self, seconds: float) -> None:
        """Wait until the process accepts jobs."""
        if self._ready:
            return
        self._connection()  # without a process this is not a failed start, and must not delay the next one
        try:
            reported = self._expect("ready", time.monotonic() + seconds).get("sandbox", {})
        except (DecoderDied, Unresponsive):
            self._record_failure()
            raise
        self.sandbox = {part: reported.get(part) is True for part in PARTS}
        self._ready, self._failures = True, 0

    def _record_failure(self) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + min(MAX_BACKOFF, 2.0**self._failures)

    def begin(self, job: Json, seconds: float) -> None:
        """Send a job, and wait until the process confirms it."""
        deadline = time.monotonic() + seconds
        self._send(pack(job), deadline)
        self._expect("started", deadline)

    def send_file(self, file: IO[bytes], deadline: float) -> None:
        """Send the whole file."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._send(pack({}, size), deadline)
        while chunk := file.read(CHUNK):
            self._send(chunk, deadline)

    def receive(self, deadline: float) -> tuple[Json, bytearray]:
        """Wait for the next frame."""
        message_bytes, content_bytes = PREFIX.unpack(self._receive_exactly(PREFIX.size, deadline))
        if message_bytes > MAX_MESSAGE_BYTES or content_bytes > self.memory_bytes:
            raise DecoderDied("the process announces more bytes than it can have")
        try:
            message = parse(self._receive_exactly(message_bytes, deadline))
        except ProtocolError:
            raise DecoderDied("the process violates the protocol") from None
        return message, self._receive_exactly(content_bytes, deadline)

    def kill(self, wait: float = 0.0) -> str | None:
        """End the process, after `wait` seconds if it does not end by itself before.

        Returns:
            What ended it, if it ended by itself: the name of a signal, or `status` and its exit status.
        """
        with self._lock:
            process, self._process = self._process, None
            connection, self._socket = self._socket, None
            self._ready = False
        if connection is not None:
            # Unblocks the thread that waits on the socket; closing alone would not.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if process is None:
            return None
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def _connection(self) -> socket.socket:
        if (connection := self._socket) is None:
            raise DecoderDied("the process has been ended")
        return connection

    def _send(self, data: bytes, deadline: float) -> None:
        with _socket_errors():
            connection = self._connection()
            connection.settimeout(_remaining(deadline))
            connection.sendall(data)

    def _expect(self, kind: str, deadline: float) -> Json:
        message, _ = self.receive(deadline)
        if message.get("kind") != kind:
            raise DecoderDied(f"the process sends something else than {kind!r}")
        return message

    def _receive_exactly(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        with _socket_errors():
            connection = self._connection()
            while view:
                connection.settimeout(_remaining(deadline))
                received = connection.recv_into(view)
                if not received:
                    raise DecoderDied("the process has ended")
                view = view[received:]
        return data


@contextlib.contextmanager
def _socket_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unresponsive("the process does not respond in time") from None
    except OSError:
        raise DecoderDied("the process has ended") from None


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def import_path() -> str:
    """Return the value of PYTHONPATH with which another process imports what this one does."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
