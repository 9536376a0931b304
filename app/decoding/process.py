"""One decoding process, seen from the serving one: launch, ask, kill.

For: a blocking conversation with a process that may be dead, stopped or taken over, each step within a time limit.
Does not know: which process is asked what (see `app.decoding.pool`).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from app.decoding.frames import PREFIX, BrokenFrame, Json, pack, parse

CHUNK: Final = 2**18  # bytes of a file handed over at a time
MAX_MESSAGE_BYTES: Final = 2**16  # of a reply's JSON
MAX_BACKOFF: Final = 30.0  # seconds between attempts to start a process that does not come up
# What a Python with its libraries in unusual places needs; everything else, keys and passwords above all, stays here.
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Rereadable(Protocol):
    """What is needed of a file to hand it over whole."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go somewhere, and say where that is."""

    def read(self, size: int, /) -> bytes:
        """Read on."""


class DecoderDied(Exception):
    """The process ended, or broke off the conversation."""


class Unresponsive(Exception):
    """The process did not answer in time."""


class Decoder:
    """A process that decodes. One conversation at a time; `kill` may be called from any thread.

    Args:
        memory_bytes: of its address space.
        cpu_seconds: a job may take.
    """

    def __init__(self, memory_bytes: int, cpu_seconds: float) -> None:
        self.memory_bytes, self.cpu_seconds = memory_bytes, cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = False
        self._guard = threading.Lock()
        self._failures = 0
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """Of the living process; None where there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def launch(self) -> None:
        """Start a new process in place of whatever there was; does not wait for it.

        Raises:
            OSError: the machine is out of processes, memory or descriptors.
        """
        self.kill()
        here, there = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            # Threads take address space, and decoding uses none.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-B", "-m", "app.decoding.worker"]
        with there:
            try:
                process = subprocess.Popen[bytes](
                    [*command, str(self.memory_bytes), str(self.cpu_seconds)],
                    stdin=there.fileno(),
                    stdout=there.fileno(),
                    env=environment,
                    # A Ctrl-C in the terminal is for the serving process, which may still have requests to finish.
                    start_new_session=True,
                )
            except OSError:
                here.close()
                self._has_failed()
                raise
        with self._guard:
            self._process, self._socket, self._ready = process, here, False

    def await_ready(self, seconds: float) -> None:
        """Wait until the process takes jobs.

        Raises:
            DecoderDied: it ended instead.
            Unresponsive: it does not say so in time.
        """
        if self._ready:
            return
        # Where there is no process none fails to come up: waiting for it must not put the next attempt off.
        self._connection()
        try:
            self._hear(time.monotonic() + seconds, "ready")
        except (DecoderDied, Unresponsive):
            self._has_failed()
            raise
        self._ready, self._failures = True, 0

    def _has_failed(self) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + min(MAX_BACKOFF, 2.0**self._failures)

    @property
    def failing(self) -> bool:
        """Whether the last process that should have come up did not."""
        return self._failures > 0

    @property
    def may_launch(self) -> bool:
        """Whether enough time has passed since a process failed to come up."""
        return time.monotonic() >= self._not_before

    def begin(self, job: Json, seconds: float) -> None:
        """Say what to do, and wait until the process says that it heard.

        Raises:
            DecoderDied, Unresponsive: it did not; nothing of the file has been seen.
        """
        deadline = time.monotonic() + seconds
        self._say(pack(job), deadline)
        self._hear(deadline, "started")

    def hand_over(self, file: Rereadable, deadline: float) -> None:
        """Give the process the whole of `file`, by that time of the monotonic clock.

        Raises:
            DecoderDied, Unresponsive: it does not take it.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._say(pack({}, size), deadline)
        while chunk := file.read(CHUNK):
            self._say(chunk, deadline)

    def reply(self, deadline: float) -> tuple[Json, bytearray]:
        """Wait for what comes of the file.

        Raises:
            DecoderDied, Unresponsive: nothing came of it.
        """
        return self._receive(deadline)

    def kill(self) -> str | None:
        """End the process, if it has not ended, and name the signal that did."""
        with self._guard:
            process, self._process = self._process, None
            channel, self._socket = self._socket, None
            self._ready = False
        if channel is not None:
            # Wakes the thread that waits on it; closing alone would not.
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
            channel.close()
        if process is None:
            return None
        process.kill()
        code = process.wait()
        return signal.Signals(-code).name if code < 0 else None

    def _connection(self) -> socket.socket:
        channel = self._socket
        if channel is None:
            raise DecoderDied("the process has been ended")
        return channel

    def _say(self, data: bytes, deadline: float) -> None:
        try:
            channel = self._connection()
            channel.settimeout(_remaining(deadline))
            channel.sendall(data)
        except TimeoutError:
            raise Unresponsive("the process does not take what it is sent") from None
        except OSError:
            raise DecoderDied("the process has ended") from None

    def _hear(self, deadline: float, expected: str) -> None:
        message, _ = self._receive(deadline)
        if message.get("kind") != expected:
            raise DecoderDied("the process says something else than expected")

    def _receive(self, deadline: float) -> tuple[Json, bytearray]:
        message_bytes, content_bytes = PREFIX.unpack(self._receive_exactly(PREFIX.size, deadline))
        if message_bytes > MAX_MESSAGE_BYTES or content_bytes > self.memory_bytes:
            raise DecoderDied("the process announces more than it can have")
        try:
            message = parse(self._receive_exactly(message_bytes, deadline))
        except BrokenFrame:
            raise DecoderDied("the process does not keep to the protocol") from None
        return message, self._receive_exactly(content_bytes, deadline)

    def _receive_exactly(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        try:
            channel = self._connection()
            while view:
                channel.settimeout(_remaining(deadline))
                received = channel.recv_into(view)
                if not received:
                    raise DecoderDied("the process has ended")
                view = view[received:]
        except TimeoutError:
            raise Unresponsive("the process does not answer in time") from None
        except OSError:
            raise DecoderDied("the process has ended") from None
        return data


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
