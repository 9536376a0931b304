"""A disk without room for an upload that is too large to be kept in memory.

For: showing that such a request is refused as one that may come back, that smaller ones go on, and that nothing stays.

The disk is a file system in memory of one mebibyte, mounted over the service's temporary folder in a mount namespace of
its own. Where the machine lets nobody do that, the largest file the process may write is limited instead.
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

from tools.load import bodies, scene
from tools.load.client import Client
from tools.load.findings import Finding
from tools.load.scene import Scale
from tools.load.service import MIB, WEIGHTS, Service, serving
from tools.load.traffic import bystanders

ROOM: Final = MIB  # bytes on the disk
LARGE: Final = 6 * MIB  # bytes of the upload
VICTIMS: Final = 4  # at once
REFUSED: Final = frozenset({503, 507})


@contextmanager
def without_room(weights: Path = WEIGHTS, **environment: str) -> Iterator[Service]:
    """Serve with next to no room for temporary files."""
    with (
        tempfile.TemporaryDirectory(prefix="emmr-full-") as folder,
        serving(weights, prefix=_confined(Path(folder)), temporary=Path(folder), **environment) as service,
    ):
        yield service


def _confined(folder: Path) -> Sequence[str]:
    if _may_mount():
        mount = f'mount -t tmpfs -o size={ROOM} tmpfs {shlex.quote(str(folder))} && exec "$@"'
        return (*_NAMESPACE, "sh", "-c", mount, "confined")
    return ("prlimit", f"--fsize={ROOM}:{resource.RLIM_INFINITY}", "--")


_NAMESPACE: Final = ("unshare", "--user", "--map-root-user", "--mount")


@cache
def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        attempt = [*_NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder]
        return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


async def full(service: Service, scale: Scale) -> Finding:
    """Uploads for which there is no room."""
    client = Client(service.port, keep=False)
    # A WAV file whose samples are enough to overflow; what it sounds like does not matter, it is never decoded.
    request = bodies.audio(bodies.sound("wav", LARGE / 32_000), "victim")
    async with bystanders(service.port, scene.bystanders(), scale.rate) as others:
        await asyncio.sleep(scale.calm)
        victims = await asyncio.gather(*(client.ask(request) for _ in range(VICTIMS)))
        took = await scene.recovery(service, lambda: service.resources().temporary == 0, scale.recovery)
        await asyncio.sleep(scale.calm)
    return scene.report("disk full", victims, others, took, REFUSED)
