"""The service as a child process: its log events, address and exit status."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

EMMR = ("-c", "from app.cli import main; main()")
FAULTY = ("-m", "tests.support.faulty")
ROOT = Path(__file__).parents[2]


class Process:
    """`emmr serve` on a free port, and its log."""

    def __init__(
        self, weights: Path, environment: Mapping[str, str], program: Sequence[str] = EMMR, device: str = "cpu"
    ) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0", "--device", device, "--weights", str(weights)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "EMMR_DECODE_WORKERS": "1", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._changed:
                self.raw.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def until(self, what: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """Wait for a log event; an AssertionError with the log where it does not come."""

        def matching() -> list[dict[str, Any]]:
            return [event for event in self.events if what(event)]

        with self._changed:
            self._changed.wait_for(lambda: matching() or self._ended, seconds)
            assert matching(), "".join(self.raw)
            return matching()[0]

    def base(self) -> str:
        message = self.until(lambda e: "Uvicorn running on" in e["event"])["event"]
        return str(message).split()[3]

    def exit_status(self, seconds: float = 60) -> int:
        status = self.popen.wait(seconds)
        self._reader.join(10)
        assert self.popen.stderr is not None
        self.popen.stderr.close()
        return status

    def ready(self) -> str:
        """Wait until it is ready; returns its address."""
        self.until(lambda e: e["event"] == "ready")
        return self.base()

    def health(self) -> Any:
        return httpx2.get(f"{self.base()}/health", timeout=30).json()


Launch = Callable[..., Process]
"""Weights and environment → a process that ends with the test."""


@contextmanager
def launching() -> Iterator[Launch]:
    running: list[Process] = []

    def start(weights: Path, program: Sequence[str] = EMMR, device: str = "cpu", **environment: str) -> Process:
        running.append(Process(weights, environment, program, device))
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            if process.popen.poll() is None:
                process.popen.kill()
            process.exit_status()
