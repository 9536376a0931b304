"""Limits on what all uploads hold together: bodies arriving from one address, batches, and bytes of files on disk."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from app.errors import NoRoom, QueueFull, TooManyUploads
from app.http.connections import network_of
from app.logging import get_logger
from app.settings import Settings


class Uploads:
    """The uploads of one application; used on its event loop only.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._per_address, self._max_bytes = settings.max_uploads_per_address, settings.max_spooled_bytes
        self._retry_after, self._max_batches = settings.retry_after, settings.batch_max_concurrent
        self._batches = 0
        self._arriving: Counter[bytes] = Counter()
        self.spooled_bytes = 0
        """Of all files on disk."""

    @contextmanager
    def arriving(self, host: str) -> Iterator[None]:
        """Count a body from an address while it arrives.

        Raises:
            TooManyUploads: as many are arriving as may.
        """
        address = network_of(host)
        if self._arriving[address] >= self._per_address:
            get_logger().warning("upload refused", reason=TooManyUploads.code)
            detail = f"{self._per_address} requests from this address are being read already."
            raise TooManyUploads(detail, self._retry_after)
        self._arriving[address] += 1
        try:
            yield
        finally:
            self._arriving[address] -= 1
            if not self._arriving[address]:
                del self._arriving[address]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Count a batch while it is read and answered.

        Raises:
            QueueFull: as many are as may.
        """
        if self._batches >= self._max_batches:
            raise QueueFull(f"{self._max_batches} batches are being answered already.", self._retry_after)
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1

    def take(self, size: int) -> None:
        """Count bytes that are about to be written to disk.

        Raises:
            NoRoom: there would be more than may be.
        """
        if self.spooled_bytes + size > self._max_bytes:
            get_logger().warning("upload refused", reason=NoRoom.code, spooled_bytes=self.spooled_bytes)
            raise NoRoom("there is no room for the upload at this moment")
        self.spooled_bytes += size

    def release(self, size: int) -> None:
        """Count bytes that are no longer on disk."""
        self.spooled_bytes -= size


class SpooledFile(tempfile.SpooledTemporaryFile[bytes]):
    """A file in memory up to a size, and on disk beyond, where its bytes are counted until it is closed.

    Args:
        max_size: bytes kept in memory.
        uploads: counts the others.
    """

    def __init__(self, max_size: int, uploads: Uploads) -> None:
        super().__init__(max_size)
        self._most, self._uploads, self._on_disk = max_size, uploads, 0

    def reserve(self, size: int) -> bool:
        """Prepare to append; return whether the file is on disk with that many bytes more.

        Raises:
            NoRoom: all files on disk would be too large together.
        """
        total = self.tell() + size
        if total <= self._most:
            return False
        self._uploads.take(total - self._on_disk)
        self._on_disk = total
        return True

    async def append(self, data: bytes) -> None:
        """Write at the end; in a thread where the file is on disk.

        Raises:
            NoRoom: see `reserve`.
            OSError: the disk, or another resource, is full.
        """
        if self.reserve(len(data)):
            await _finish(asyncio.to_thread(self.write, data))
        else:
            self.write(data)

    def close(self) -> None:
        """Close and delete the file. Closing twice does nothing."""
        self._uploads.release(self._on_disk)
        self._on_disk = 0
        super().close()


async def _finish(work: Coroutine[Any, Any, object]) -> None:
    """Await work in a thread; if cancelled, only once it has ended, so that it does not write to a closed file."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
