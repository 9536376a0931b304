"""The service as a process of its own, and what can be seen of it from outside.

For: benches that load it, break it and measure it. It listens on a free port of 127.0.0.1, keeps its temporary files in
a folder of its own, and is gone when the block that started it ends.
Does not know: requests.
"""

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

import psutil

ROOT: Final = Path(__file__).parents[2]
WEIGHTS: Final = ROOT / "weights" / "default"
SERVE: Final = ("-c", "from app.cli import main; main()", "serve")
WITH_FAULTS: Final = ("-m", "tests.support.faulty", "serve")
READY_SECONDS: Final = 240.0
STOP_SECONDS: Final = 90.0
SECOND_SIGNAL: Final = 0.1
MIB: Final = 2**20
DECODER: Final = "decode_worker"  # in the command line of a decoding process
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process and its children hold.

    Args:
        rss: bytes, what they share counted once each.
        decoders: bytes of that in decoding processes.
        descriptors: open files and sockets of the serving process.
        temporary: files in its temporary folder, those unlinked but open included.
    """

    rss: int
    decoders: int
    descriptors: int
    temporary: int


class Service:
    """A running service; made by `serving`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], temporary: Path) -> None:
        self.temporary = temporary
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "TMPDIR": str(temporary), "EMMR_PORT": "0", "EMMR_HOST": "127.0.0.1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[Event] = []
        self._tail: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0

    def _read(self) -> None:
        stream = self._process.stderr
        if stream is None:
            raise TypeError("the process must have been started with a pipe")
        for line in stream:
            self._tail = [*self._tail[-40:], line]
            if line.startswith("{"):
                event: Event = json.loads(line)
                if event.get("event") != "request":  # one for each request would be this process's own leak
                    self.events.append(event)

    @property
    def pid(self) -> int:
        """Of the serving process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def await_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it serves.

        Raises:
            RuntimeError: it ends, or is not ready in time; holds the last lines of its log.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running:
            for event in self.events:
                if "Uvicorn running on" in str(event["event"]):
                    self.port = int(str(event["event"]).split()[3].rpartition(":")[2])
                if event["event"] == "ready":
                    return
            time.sleep(0.02)
        raise RuntimeError("the service did not become ready:\n" + "".join(self._tail))

    def health(self, path: str = "/health") -> tuple[int, Event]:
        """Status and body; 0 when it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over those of its lines that hold `label`; 0 where nothing has been counted yet."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        its = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in its)

    def decoders(self) -> list[psutil.Process]:
        """The decoding processes that live."""
        found = []
        for child in self._children():
            with suppress(psutil.Error):
                if DECODER in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.pid).children(recursive=True))
        return []

    def resources(self) -> Resources:
        """What it holds at this moment."""
        serving, decoders = psutil.Process(self.pid), 0
        for child in self._children():
            with suppress(psutil.Error):
                decoders += child.memory_info().rss
        rss = serving.memory_info().rss + decoders
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
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        status = self._process.wait(seconds)
        self._reader.join(10)
        return status

    def close(self) -> None:
        """End it, gently if it takes that, and let go of its log."""
        if self.running:
            self.signal(signal.SIGTERM)
            time.sleep(SECOND_SIGNAL)  # two at once would arrive as one
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
        program: what Python runs: the service itself, or the one with faults on request.
        prefix: a command that starts the whole.
        temporary: for its temporary files; a new folder, removed afterwards, when not given.
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
