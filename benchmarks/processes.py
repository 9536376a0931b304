"""Services as processes of their own: start one, wait until it answers, weigh it, end it.

For: `benchmarks.service` and `benchmarks.startup`.
Does not know: what they answer.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
    """A running one.

    Args:
        process: the outermost.
        port: where it listens.
        started: when it was started, on the `time.perf_counter` clock.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, started: float) -> None:
        self.process, self.port, self.started = process, port, started
        self.seconds_to_ready = float("nan")

    def await_ready(self, path: str) -> None:
        """Wait until `path` answers 200.

        Raises:
            RuntimeError: it ends instead, or does not come up in time.
        """
        while time.perf_counter() - self.started < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with status {self.process.returncode}")
            if status(self.port, path) == 200:
                self.seconds_to_ready = time.perf_counter() - self.started
                return
            time.sleep(0.02)
        raise RuntimeError("the service does not come up")

    def memory_mib(self) -> float:
        """Resident memory of it and all its descendants; what they share counts once (proportional set size)."""
        everyone = [psutil.Process(self.process.pid)]
        everyone += everyone[0].children(recursive=True)
        return sum(float(p.memory_full_info().pss) for p in everyone) / 2**20

    def resident_mib(self) -> float:
        """The sum of their resident sets, what they share counted each time."""
        everyone = [psutil.Process(self.process.pid)]
        everyone += everyone[0].children(recursive=True)
        return sum(float(p.memory_info().rss) for p in everyone) / 2**20

    def stop(self) -> None:
        """End it and whatever it started."""
        try:
            everyone = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            everyone = []
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in everyone:
            if child.is_running():
                child.kill()


@contextmanager
def service(command: Sequence[str], ready: str) -> Iterator[Service]:
    """Run `python <command> --port N` from the repository's root, and wait until its path `ready` answers.

    Raises:
        RuntimeError: it does not come up.
    """
    port = free_port()
    started = time.perf_counter()
    running = Service(
        subprocess.Popen([sys.executable, *command, "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL),
        port,
        started,
    )
    try:
        running.await_ready(ready)
        yield running
    finally:
        running.stop()


def status(port: int, path: str) -> int:
    """The status of a GET, 0 where nobody answers."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
