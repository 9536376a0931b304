"""A full disk, and a full budget of temporary space: no room for an upload that is too large to be kept in memory.

The full disk is a tmpfs of 1 MiB in a mount namespace; where that is not permitted, file sizes are limited.
"""

import asyncio
import resource
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from tools.load import faults_common, payloads
from tools.load.client import HOST, Client, Request, Response
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import MIB, WEIGHTS, Service, serving

DISK_BYTES: Final = MIB  # bytes on the disk
LARGE: Final = 6 * MIB  # bytes of the upload
VICTIMS: Final = 4  # at once
BUDGET: Final = 64 * MIB  # bytes of all uploads on disk
PENDING: Final = 40  # uploads of `LARGE` that are not finished: 240 MiB
LARGE_SECONDS: Final = 15.0  # for all of them to arrive
ADDRESSES: Final = 4  # that they come from, so that the limit of one address is not reached
REJECTED: Final = frozenset({503, 507})


@contextmanager
def with_full_disk(weights: Path = WEIGHTS, **environment: str) -> Iterator[Service]:
    """Serve with hardly any space for temporary files."""
    with (
        tempfile.TemporaryDirectory(prefix="emmr-full-") as folder,
        serving(weights, prefix=_limited(Path(folder)), temporary=Path(folder), **environment) as service,
    ):
        yield service


def _limited(folder: Path) -> Sequence[str]:
    if _may_mount():
        mount = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs {shlex.quote(str(folder))} && exec "$@"'
        return (*_NAMESPACE, "sh", "-c", mount, "limited")
    return ("prlimit", f"--fsize={DISK_BYTES}:{resource.RLIM_INFINITY}", "--")


_NAMESPACE: Final = ("unshare", "--user", "--map-root-user", "--mount")


@cache
def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        attempt = [*_NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder]
        return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


async def full(service: Service, scale: Scale) -> Result:
    """Send uploads for which there is no space."""
    client = Client(service.port, keep=False)
    # A WAV file that is larger than the disk; it is never decoded.
    request = payloads.audio(payloads.sound("wav", LARGE / 32_000), "victim")
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        victims = await asyncio.gather(*(client.send(request) for _ in range(VICTIMS)))
        took = await faults_common.recovery(service, lambda: service.resources().temporary == 0, scale.recovery)
        await asyncio.sleep(scale.calm)
    return evaluate("disk full", victims, others, took, REJECTED)


@contextmanager
def with_small_budget(weights: Path = WEIGHTS, **environment: str) -> Iterator[Service]:
    """Serve with a `BUDGET` for temporary files, on a disk with space for more, and patience with bodies."""
    patience = {"EMMR_BODY_STALL_TIMEOUT": str(2 * LARGE_SECONDS), "EMMR_BODY_TIMEOUT": str(2 * LARGE_SECONDS)}
    budget = {"EMMR_MAX_SPOOLED_BYTES": str(BUDGET)}
    with serving(weights, temporary=None, **budget, **patience, **environment) as service:
        yield service


async def over_budget(service: Service, scale: Scale) -> Result:
    """Send uploads, without their last byte, that together pass the budget: those beyond it are refused at once."""
    request = payloads.audio(payloads.sound("wav", LARGE / 32_000), "victim")
    async with background(service.port, payloads.valid(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        pending = [asyncio.create_task(_pending(service.port, request, number)) for number in range(PENDING)]
        done, waiting = await asyncio.wait(pending, timeout=2 * scale.calm + LARGE_SECONDS)
        spooled = service.metric("emmr_spooled_bytes")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        took = await faults_common.recovery(service, lambda: _nothing_spooled(service), scale.recovery)
    victims = [task.result() for task in done]
    result = evaluate("temporary space", victims, others, took, frozenset({503}))
    result.figures |= {"uploads": PENDING, "budget MiB": BUDGET / MIB, "on disk MiB": spooled / MIB}
    result.expect(spooled <= BUDGET, f"{spooled:.0f} bytes were on disk")
    result.expect(all((one.retry_after or "").isdecimal() for one in victims), "a refusal has no Retry-After")
    return result


async def _pending(port: int, request: Request, number: int) -> Response:
    """Send an upload without its last byte, from one of `ADDRESSES`, and wait for a response."""
    local = (f"127.0.1.{1 + number % ADDRESSES}", 0)
    reader, writer = await asyncio.open_connection(HOST, port, local_addr=local)
    try:
        writer.write(request.wire[:-1])
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.lower().split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Response(int(status_line.split(" ")[1]), 0.0, headers.get("retry-after"), body)
    finally:
        writer.transport.abort()


def _nothing_spooled(service: Service) -> bool:
    return service.metric("emmr_spooled_bytes") == 0 and service.resources().temporary == 0
