"""Services as child processes: start, wait for readiness, measure memory, stop."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 30.0
OURS: Final = ("-c", "from app.cli import main; main()", "serve", "--log-level", "error")


class Service:
    """A running service; created by `service`.

    Args:
        process: the outermost process.
        port: that it listens on.
        started: when it was started, on the `time.perf_counter` clock.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, started: float) -> None:
        self.process, self.port, self.started = process, port, started
        self.seconds_to_ready = float("nan")

    def await_ready(self, path: str) -> None:
        """Wait until `path` is 200.

        Raises:
            RuntimeError: the process ends, or is not ready in time.
        """
        while time.perf_counter() - self.started < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with status {self.process.returncode}")
            if status(self.port, path) == 200:
                self.seconds_to_ready = time.perf_counter() - self.started
                return
            time.sleep(0.02)
        raise RuntimeError("the service did not become ready")

    def memory_mib(self) -> float:
        """Return the memory of the process and its descendants; shared pages count once (proportional set size)."""
        return sum(float(process.memory_full_info().pss) for process in self._tree()) / 2**20

    def own_memory_mib(self, name: str) -> list[float]:
        """Return the memory that each descendant whose command line contains `name` shares with no other process."""
        found = [process for process in self._tree() if name in " ".join(process.cmdline())]
        return [float(process.memory_full_info().uss) / 2**20 for process in found]

    def cpu_seconds(self) -> float:
        """Return the processor time of the process and its descendants since they started."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(float(t.user + t.system) for t in times)

    def resident_mib(self) -> float:
        """Return the sum of the resident sets of the process and its descendants."""
        return sum(float(process.memory_info().rss) for process in self._tree()) / 2**20

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels; 0 where there is none."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def processor_seconds(self) -> float:
        """Return the processor time of the process and its descendants, ended ones only if they were waited for."""
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(time.user + time.system + time.children_user + time.children_system for time in times))

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self) -> None:
        """End the process and its descendants."""
        try:
            descendants = self._tree()[1:]
        except psutil.NoSuchProcess:
            descendants = []
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in descendants:
            if child.is_running():
                child.kill()


@contextmanager
def service(command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run `python <command> --port N` from the repository's root, and wait until the path `ready` is 200.

    Args:
        command: arguments of Python.
        ready: the path.
        environment: variables of the process, beside those of this one.

    Raises:
        RuntimeError: the service does not become ready.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = int(unused.getsockname()[1])
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env=os.environ | dict(environment or {}),
    )
    running = Service(process, port, started)
    try:
        running.await_ready(ready)
        yield running
    finally:
        running.stop()


def status(port: int, path: str) -> int:
    """Return the status of a GET; 0 where there is no response."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
