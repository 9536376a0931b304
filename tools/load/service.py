"""The service as a child process on a free port of 127.0.0.1, and the resources that it holds."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

ROOT: Final = Path(__file__).parents[2]
WEIGHTS: Final = ROOT / "weights" / "default"
# Without `forbid_dumps` its descriptors can be counted by a process that is not root's.
SERVE: Final = ("-c", "from app import cli, linux; linux.forbid_dumps = bool; cli.main()", "serve")
WITH_FAULTS: Final = ("-m", "tests.support.faulty", "serve")
READY_SECONDS: Final = 240.0
STOP_SECONDS: Final = 90.0
SECOND_SIGNAL: Final = 0.1
MIB: Final = 2**20
DECODER: Final = "app.decoding.worker"  # in the command line of a decoder process
COMPUTING: Final = "fork_server"  # in that of the processes that compute, and of the one that has forked them
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process and its children hold.

    Args:
        rss: resident bytes, summed over the processes.
        decoders: the part of it in decoder processes.
        descriptors: open files and sockets of the serving process.
        temporary: files in its temporary folder, including those that are unlinked and open.
    """

    rss: int
    decoders: int
    descriptors: int
    temporary: int


@dataclass(frozen=True, slots=True)
class Sample:
    """`resources` at `at`, in seconds from the start of the monitoring."""

    at: float
    resources: Resources


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0


class Service:
    """A running service; created by `serving`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], temporary: Path) -> None:
        self.temporary = temporary
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "TMPDIR": str(temporary), "EMMR_PORT": "0", "EMMR_HOST": "127.0.0.1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = 0
        self.events: list[Event] = []
        self._tail: list[str] = []
        self._ready = threading.Event()  # or ended
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream = self._process.stderr
        if stream is None:
            raise TypeError("the process must have been started with a pipe")
        for line in stream:
            self._tail = [*self._tail[-40:], line]
            if line.startswith("{"):
                event: Event = json.loads(line)
                if "Uvicorn running on" in str(event["event"]):
                    self.port = int(str(event["event"]).split()[3].rpartition(":")[2])
                if event.get("event") != "request":  # keeping one for each request would be a leak of this process
                    self.events.append(event)
                if event["event"] == "ready":
                    self._ready.set()
        self._ready.set()

    @property
    def pid(self) -> int:
        """Of the serving process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def await_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the service is ready.

        Raises:
            RuntimeError: it ends, or is not ready in time; holds the last lines of its log.
        """
        self._ready.wait(seconds)
        if not any(event["event"] == "ready" for event in self.events):
            raise RuntimeError("the service did not become ready:\n" + "".join(self._tail))

    def health(self, path: str = "/health") -> tuple[int, Event]:
        """Return status and body; status 0 where it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def metric(self, name: str, label: str = "") -> float:
        """Return the sum of a metric over its lines that contain `label`; 0 where nothing has been counted yet."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def decoders(self) -> list[psutil.Process]:
        """Return the running decoder processes."""
        return self._children_with(DECODER)

    def computing(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Return the running process that forks, and those that compute; both empty where threads do."""
        found = self._children_with(COMPUTING)
        forking = [process for process in found if process.ppid() == self.pid]
        return forking, [process for process in found if process not in forking]

    def _children_with(self, name: str) -> list[psutil.Process]:
        """Return the running children whose command line contains `name`."""
        found = []
        for child in self._children():
            with suppress(psutil.Error):
                if name in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.pid).children(recursive=True))
        return []

    def resources(self) -> Resources:
        """Return what it holds now."""
        serving = psutil.Process(self.pid)
        decoders, all_children = (sum(map(_resident, found)) for found in (self.decoders(), self._children()))
        rss = serving.memory_info().rss + all_children
        return Resources(rss, decoders, serving.num_fds(), self._temporary_files())

    def _temporary_files(self) -> int:
        listed = sum(1 for path in self.temporary.rglob("*") if path.is_file())
        unlinked = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                unlinked += target.startswith(str(self.temporary)) and target.endswith("(deleted)")
        return listed + unlinked

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the serving process."""
        self._process.send_signal(number)

    def exit_status(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the process to end.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        status = self._process.wait(seconds)
        self._reader.join(10)
        return status

    def close(self) -> None:
        """End the process, by SIGKILL where SIGTERM does not, and close its log."""
        if self.running:
            self.signal(signal.SIGTERM)
            time.sleep(SECOND_SIGNAL)  # two at once are delivered as one
            self.signal(signal.SIGTERM)  # skips the grace period
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(10)
        if self._process.stderr is not None:
            self._process.stderr.close()


@contextmanager
def serving(
    weights: Path = WEIGHTS,
    *,
    program: Sequence[str] = SERVE,
    prefix: Sequence[str] = (),
    temporary: Path | None = None,
    **environment: str,
) -> Iterator[Service]:
    """Serve `weights` while the block runs.

    Args:
        weights: the folder.
        program: what Python runs: `SERVE`, or `WITH_FAULTS` for faults on request.
        prefix: a command that runs it.
        temporary: the folder of its temporary files; by default a new one, removed afterwards.
        environment: further settings, as `EMMR_…`.
    """
    with tempfile.TemporaryDirectory(prefix="emmr-bench-") as own:
        command = (*prefix, sys.executable, *program)
        settings = {"EMMR_WEIGHTS": str(weights), "EMMR_DEVICE": "cpu", **environment}
        service = Service(command, settings, temporary or Path(own))
        try:
            service.await_ready()
            yield service
        finally:
            service.close()


@contextmanager
def monitoring(service: Service, interval: float) -> Iterator[list[Sample]]:
    """Sample the resources every `interval` seconds while the block runs."""
    samples: list[Sample] = []
    ended = threading.Event()
    began = time.monotonic()

    def sample() -> None:
        while not ended.wait(interval):
            with suppress(psutil.Error, OSError):
                samples.append(Sample(time.monotonic() - began, service.resources()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def peak(samples: Sequence[Sample]) -> float:
    """Return the largest memory, in MiB."""
    return max((sample.resources.rss for sample in samples), default=0) / MIB


def levels(samples: Sequence[Sample], count: int) -> list[float]:
    """Return the median memory, in MiB, of each of `count` equal parts of the samples; empty parts are left out."""
    parts = np.array_split(np.array([sample.resources.rss / MIB for sample in samples]), count)
    return [float(np.median(part)) for part in parts if part.size]


def slope(samples: Sequence[Sample]) -> float:
    """Return the growth of memory, in MiB a minute: the least-squares slope; 0 of fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    minutes = np.array([sample.at / 60 for sample in samples])
    memory = np.array([sample.resources.rss / MIB for sample in samples])
    return float(np.polyfit(minutes, memory, 1)[0])
