"""Small uploads that decode to large or slow data are refused after little computation and in little memory.

Both are those of the server process and its decoders together: processor time, and the rise of peak memory (VmHWM).
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import soundfile

from tests.support.forms import MULTIPART, body, part
from tests.support.openface import simulate_openface_csv
from tests.support.sound import wav_header
from tests.support.sound_files import forged_flac
from tools.load.service import Service, serving

PROCESSOR_SECONDS = 2.0
MIB = 2**20
EXTRA_BYTES = 100 * MIB
TRIES = 2  # the larger memory counts, and the shorter time: on a busy machine a computation takes longer
RESET_PEAK = "5"  # written to clear_refs, resets VmHWM; see proc_pid_clear_refs(5)


def silence(seconds: float, rate: int, channels: int, major: str, subtype: str) -> bytes:
    file = io.BytesIO()
    second = np.zeros((rate, channels), dtype=np.int16)
    with soundfile.SoundFile(file, "w", rate, channels, format=major, subtype=subtype) as sound:
        for _ in range(round(seconds)):
            sound.write(second)
    return file.getvalue()


def commas(rows: int) -> bytes:
    """Two megabytes of commas in `rows` lines."""
    return (b"," * (2_000_000 // rows) + b"\n") * rows


def wide_rows() -> bytes:
    """Two megabytes of commas under a valid header."""
    return simulate_openface_csv(1, "action_units").partition(b"\n")[0] + b"\n" + commas(2000)


BOMBS: dict[str, tuple[str, Callable[[], bytes], int, int]] = {
    # Name: part, content, largest size in bytes, status.
    "an hour of silence in FLAC": ("audio", lambda: silence(3600, 16_000, 1, "FLAC", "PCM_16"), 180 * 1024, 413),
    "a FLAC that claims 256 GiB": ("audio", lambda: forged_flac(2**36 - 1), 132, 422),
    "a WAV at 1 Hz": ("audio", lambda: wav_header(1, 1, 2000) + b"\1\0" * 1000, 2044, 422),
    "a WAV of 1,024 channels": ("audio", lambda: wav_header(16_000, 1024, 204_800) + b"\1\0" * 102_400, 204_844, 422),
    "a WAV that claims 4 GiB": ("audio", lambda: wav_header(16_000, 1, 0xFFFFFFFF) + b"\1\0" * 1000, 2044, 422),
    "8 channels at 192 kHz in FLAC": ("audio", lambda: silence(60, 192_000, 8, "FLAC", "PCM_16"), 400 * 1024, 413),
    "8 channels at 192 kHz in Vorbis": ("audio", lambda: silence(20, 192_000, 8, "OGG", "VORBIS"), 400 * 1024, 413),
    "ten minutes of silence in Opus": ("audio", lambda: silence(600, 48_000, 1, "OGG", "OPUS"), 400 * 1024, 413),
    "commas in one line": ("openface", lambda: commas(1), 2_100_000, 413),
    "commas in many lines": ("openface", lambda: commas(2000), 2_100_000, 422),
    "commas under a header": ("openface", wide_rows, 2_100_000, 422),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one request."""

    status: int
    processor_seconds: float
    extra_bytes: int


def resident(process: psutil.Process, line: str) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (found,) = (entry for entry in status.splitlines() if entry.startswith(f"{line}:"))
    return int(found.split()[1]) * 1024


def processor_seconds(processes: Iterable[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def predict(service: Service, part_name: str, content: bytes) -> Cost:
    processes = [psutil.Process(service.pid), *service.decoders()]
    before = {process: resident(process, "VmRSS") for process in processes}
    for process in processes:
        Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK, encoding="utf-8")
    sent = body(part(part_name, content, filename="a"))
    start = processor_seconds(processes)
    answer = httpx2.post(
        f"http://127.0.0.1:{service.port}/predict", content=sent, headers={"Content-Type": MULTIPART}, timeout=60
    )
    seconds = processor_seconds(processes) - start
    # The figures of a killed decoder would be lost.
    assert service.decoders() == processes[1:]
    extra = sum(resident(process, "VmHWM") - before[process] for process in processes)
    return Cost(answer.status_code, seconds, extra)


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    if os.geteuid() != 0:
        pytest.skip("the memory of decoder processes is closed to all but root")
    with serving(tiny_weights) as service:
        predict(service, "text", b"The first request allocates memory that is kept.")
        yield service


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_time_and_memory(
    service: Service, name: str, record_property: Callable[[str, Any], None]
) -> None:
    part_name, make, size, status = BOMBS[name]
    bomb = make()
    assert len(bomb) <= size
    costs = [predict(service, part_name, bomb) for _ in range(TRIES)]
    seconds, extra = min(cost.processor_seconds for cost in costs), max(cost.extra_bytes for cost in costs)
    record_property("processor_seconds", seconds)
    record_property("extra_mib", extra / MIB)
    assert {cost.status for cost in costs} == {status}
    assert seconds < PROCESSOR_SECONDS
    assert extra < EXTRA_BYTES
