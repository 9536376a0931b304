"""Batches computed in processes of their own, where nothing waits for the interpreter's lock of the service."""

import ctypes
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Final

from app.decoding.process import import_path
from app.engine.predictor import Predictor, PreparedRequest, Result
from app.engine.remote import attach, detach
from app.linux import return_free_memory
from app.settings import Settings, environment_without_keys
from model.errors import CheckpointError, EMMRError

if TYPE_CHECKING:
    from model.pipeline import Pipeline

MODULE: Final = "app.engine.fork_server"
START_SECONDS: Final = 120.0  # to load the weights, on a loaded machine
CACHED_PRIMITIVES: Final = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""oneDNN keeps what it compiles for each number of rows, a tenth of a megabyte each, and each process has its own. With
its default of 1,024 a process takes 25 MiB more, and is no faster."""
FORK_SECONDS: Final = 10.0
PAUSES: Final = (0.1, 0.5, 2.0)
"""Seconds between attempts to fork: the system may be short of processes or memory for a moment."""
ATTEMPTS: Final = 3
"""Of a batch whose process ends before it answers: for lack of memory the system kills processes."""


class _Ended(Exception):
    """The process that computes has ended."""


class ForkServer:
    """A process with loaded weights, which forks processes that compute; see `app.engine.fork_server`.

    Args:
        settings: threads of a computation and the form of the log.
        weights: the folder.
    """

    def __init__(self, settings: Settings, weights: Path) -> None:
        threads, level, form = settings.compute_threads, settings.log_level, settings.log_format
        self._arguments = (str(weights.absolute()), str(threads), level, form)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Connection[Any, Any] | None = None
        self._version = ""

    @property
    def pid(self) -> int | None:
        """Process id; None if it has not been started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, without waiting until it has loaded.

        Raises:
            OSError: no process can be started.
        """
        self.stop()
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen[bytes](
                [sys.executable, "-P", "-B", "-m", MODULE, *self._arguments, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=CACHED_PRIMITIVES | environment_without_keys() | {"PYTHONPATH": import_path()},
                # Ctrl-C in the terminal must reach the serving process only, which finishes its requests first.
                start_new_session=True,
            )
        self._control = ours

    def await_version(self) -> str:
        """Wait until the weights are loaded; return their version. The process is started if it does not run.

        Raises:
            CheckpointError, ConfigError: they cannot be loaded.
        """
        try:
            if self._process is None:
                self.start()
            loaded = self._receive(START_SECONDS)
        except (EOFError, OSError) as error:
            raise CheckpointError("the process that loads the weights ended, or takes too long") from error
        if isinstance(loaded, EMMRError):
            raise loaded
        self._version = loaded
        return self._version

    def fork(self) -> "Connection[Any, Any]":
        """Return the connection of a new process; a server that has ended is started again.

        Raises:
            CheckpointError: it cannot be started again, or the weights folder has other content by now.
            OSError: no process can be forked.
        """
        with self._lock:
            for pause in PAUSES:
                try:
                    if self._process is None:
                        self._restart()
                    if (connection := self._fork()) is not None:
                        return connection
                except (EOFError, OSError):
                    self.stop()
                time.sleep(pause)
            raise OSError("no process can be forked")

    def stop(self) -> None:
        """End the process, and with it those that it has forked."""
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()

    def _restart(self) -> None:
        version = self._version
        if self.await_version() != version:
            self.stop()
            self._version = version
            raise CheckpointError("the weights folder has other content than when it was loaded")

    def _fork(self) -> "Connection[Any, Any] | None":
        """Return the connection of a new process; None if the system is short of what it needs."""
        if self._control is None or self._process is None:
            raise OSError("the process that forks does not run")
        ours, theirs = Pipe()
        with theirs:
            send_handle(self._control, theirs.fileno(), self._process.pid)
            if self._receive(FORK_SECONDS) is not None:
                return ours
        ours.close()
        return None

    def _receive(self, seconds: float) -> Any:
        if self._control is None or not self._control.poll(seconds):
            raise TimeoutError
        return self._control.recv()


class ProcessPredictor(Predictor):
    """Prepares requests in this process and decides on them in others.

    Args:
        pipeline: on the CPU; it loses the weights of its text encoder.
        server: has loaded the same weights.
        number: of processes.
    """

    computes_here = False

    def __init__(self, pipeline: "Pipeline", server: ForkServer, number: int) -> None:
        super().__init__(pipeline)
        pipeline.extractor.text_encoder.free_weights()
        return_free_memory()
        self.server = server
        # The one that was used last is used first: it is in the caches. None: to be forked.
        self._free: LifoQueue[Connection[Any, Any] | None] = LifoQueue()
        for _ in range(number):
            self._free.put(None)
        self._end = weakref.finalize(self, server.stop)

    def decide(self, batch: Sequence[PreparedRequest]) -> list[Result]:
        """Have a process decide on a batch. One that fails or ends is replaced.

        Raises:
            MemoryError: there was not enough memory.
            RuntimeError: the computation failed, or its process ended each time.
            CheckpointError, OSError: see `ForkServer.fork`.
        """
        for _ in range(ATTEMPTS):
            with suppress(_Ended), self._connection() as connection:
                try:
                    connection.send(detach(batch))
                    outcome = connection.recv()
                except (EOFError, OSError) as error:
                    raise _Ended from error
                return attach(outcome, batch)
        raise RuntimeError(f"the process that computes ended {ATTEMPTS} times")

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _fork(self) -> "Connection[Any, Any]":
        connection = self.server.fork()
        self.processes_started += 1
        return connection

    @contextmanager
    def _connection(self) -> "Iterator[Connection[Any, Any]]":
        """Provide a connection that no other thread uses; after an exception it is not used again."""
        connection = self._free.get()
        try:
            connection = connection or self._fork()
            yield connection
        except BaseException:
            if connection is not None:
                connection.close()
                connection = None
            raise
        finally:
            self._free.put(connection)


def load_predictor(settings: Settings, weights: Path, device: str, threads: int | None) -> Predictor:
    """Load a weights folder; on the CPU into processes, where several batches are computed at the same time.

    Args:
        settings: the number of batches, and the form of the log.
        weights: the folder.
        device: as for `Predictor.load`.
        threads: as for `Predictor.load`.

    Raises:
        CheckpointError, ConfigError: see `Predictor.load`.
    """
    if sys.platform != "linux" or settings.compute_workers == 1:
        return Predictor.load(weights, device, threads)
    server = ForkServer(settings, weights)
    try:
        if not _may_be_cuda(device):
            server.start()  # it loads at the same time
        predictor = Predictor.load(weights, device, threads)
        if not predictor.on_cpu:
            server.stop()
            return predictor
        if server.await_version() != predictor.pipeline.checkpoint.version:
            raise CheckpointError(f"{weights} has changed while it was loaded")
    except BaseException:
        server.stop()
        raise
    return ProcessPredictor(predictor.pipeline, server, settings.compute_workers)


def _may_be_cuda(device: str) -> bool:
    """Whether a device may turn out to be CUDA's; PyTorch, which knows, takes seconds to import."""
    if device == "auto":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return False
    return device != "cpu"
