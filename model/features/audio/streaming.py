"""A long sound file → 16 kHz samples of each channel, block by block, in memory that does not depend on its length.

Shapes: S samples at the file's rate, K samples of a block at `SAMPLE_RATE`, C channels.
"""

import io
import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import soxr

from model.errors import CorruptModality, EmptyModality
from model.features.audio import SAMPLE_RATE
from model.features.audio.containers import Data, Extent, check_whole, sniff
from model.features.audio.loading import SoundLimits, checked_blocks
from model.modality import Modality

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FULL_SCALE: Final = 2**15  # of 16-bit samples, as libsndfile scales them


def map_file(file: BinaryIO) -> Data:
    """Map a file that has a descriptor; empty bytes for an empty file. A confined process cannot do this."""
    if not os.fstat(file.fileno()).st_size:
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def stream_sound(
    file: BinaryIO, data: Data, limits: SoundLimits, warnings: dict[str, str]
) -> Iterator[npt.NDArray[np.int16]]:
    """Decode a whole file; what is accepted, and the errors, are those of `model.features.audio.loading.read_sound`.

    The file is checked as a whole first, and then read block by block. Samples beyond full scale are cut off.

    Args:
        file: seekable.
        data: the same file; a mapping is closed once the file has been checked.
        limits: of the file.
        warnings: receives warnings about the file: code → detail.

    Yields:
        Samples `(K, C)`; the same C each time.
    """
    if not len(data):
        raise CorruptModality(Modality.AUDIO, "the file is empty")
    container, start = sniff(data)
    extent = check_whole(container, data, start, warnings)
    if isinstance(data, mmap.mmap):  # its pages would count as this process's memory
        data.close()
    source = cast("BinaryIO", ExtentFile(file, extent))
    resampler: soxr.ResampleStream | None = None
    samples = 0
    for rate, block in checked_blocks(source, container, extent.packets, limits, warnings):
        samples += len(block)
        if resampler is None and rate != SAMPLE_RATE:
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, block.shape[1], dtype="float32", quality="HQ")
        resampled = block if resampler is None else resampler.resample_chunk(block)
        if len(resampled):
            yield _as_integers(resampled)
    if not samples:
        raise EmptyModality(Modality.AUDIO, "too_short", "the file holds no sample")
    if resampler is not None:
        channels = block.shape[1]
        if len(rest := resampler.resample_chunk(np.empty((0, channels), dtype=np.float32), last=True)):
            yield _as_integers(rest)


def _as_integers(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    scaled = np.clip(np.rint(samples * np.float32(FULL_SCALE)), -FULL_SCALE, FULL_SCALE - 1)
    integers: npt.NDArray[np.int16] = scaled.astype(np.int16)
    return integers


class ExtentFile(io.RawIOBase):
    """The part of a file that an `Extent` describes, as a file of its own.

    Args:
        file: seekable; its position is used by this object alone.
        extent: of the file.
    """

    def __init__(self, file: BinaryIO, extent: Extent) -> None:
        self._file, self._extent, self._position = file, extent, 0
        self._size = len(extent.head) + extent.end - extent.start

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as any file does."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read into a buffer; return the number of bytes read, 0 at the end."""
        view = memoryview(buffer).cast("B")
        wanted, head = min(len(view), self._size - self._position), self._extent.head
        if wanted <= 0:
            return 0
        if self._position < len(head):
            data = head[self._position : self._position + wanted]
        else:
            self._file.seek(self._extent.start + self._position - len(head))
            data = self._file.read(wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
