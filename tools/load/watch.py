"""What a service holds, looked at now and then while something else happens.

For: memory's peak and slope, and descriptors, over a bench.
Does not know: traffic.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import psutil

from tools.load.service import MIB, Resources, Service


@dataclass(frozen=True, slots=True)
class Sample:
    """`held` at `at`, seconds into the watch."""

    at: float
    held: Resources


@contextmanager
def watching(service: Service, interval: float) -> Iterator[list[Sample]]:
    """Sample every `interval` seconds while the block runs."""
    samples: list[Sample] = []
    ended = threading.Event()
    began = time.monotonic()

    def look() -> None:
        while not ended.wait(interval):
            with suppress(psutil.Error, OSError):
                samples.append(Sample(time.monotonic() - began, service.resources()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def peak(samples: Sequence[Sample]) -> float:
    """The largest memory seen, in MiB."""
    return max((sample.held.rss for sample in samples), default=0) / MIB


def levels(samples: Sequence[Sample], count: int) -> list[float]:
    """Median memory, in MiB, of each of `count` equal parts of the watch that has a sample."""
    parts = np.array_split(np.array([sample.held.rss / MIB for sample in samples]), count)
    return [float(np.median(part)) for part in parts if part.size]


def slope(samples: Sequence[Sample]) -> float:
    """How memory grows, in MiB a minute: the least-squares line through the samples; 0 of fewer than two."""
    if len(samples) < 2:
        return 0.0
    minutes = np.array([sample.at / 60 for sample in samples])
    held = np.array([sample.held.rss / MIB for sample in samples])
    return float(np.polyfit(minutes, held, 1)[0])
