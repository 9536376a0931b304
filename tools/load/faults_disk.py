"""A full disk: no space for an upload that is too large to be kept in memory.

The temporary folder is a tmpfs of 1 MiB in a mount namespace; where that is not permitted, file sizes are limited.
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
from tools.load.client import Client
from tools.load.faults_common import Scale, evaluate
from tools.load.generator import background
from tools.load.report import Result
from tools.load.service import MIB, WEIGHTS, Service, serving

DISK_BYTES: Final = MIB  # bytes on the disk
LARGE: Final = 6 * MIB  # bytes of the upload
VICTIMS: Final = 4  # at once
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
