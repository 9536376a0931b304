"""The OpenFace CSV of a recording: an index of its rows, and the rows of any stretch as a file of their own."""

import io
import os
from typing import IO, Final

import numpy as np

from app.decoding.parts import openface_job
from app.decoding.protocol import ProtocolError
from app.decoding.stream import stream
from app.settings import Settings
from model.config import VisualConfig
from model.features.visual.frame_index import COLUMNS
from model.types import BoolArray, DoubleArray

MAX_INTERVAL: Final = (
    1.0  # seconds between frames, for a coverage; a file with fewer frames than one a second covers less
)


class Faces:
    """Frames of a CSV by time. Memory: 25 bytes a row.

    Args:
        file: the CSV; it stays open as long as this object is used.
        rows: `(R, 4)`, columns as in `model.features.visual.frame_index.COLUMNS`; times do not decrease.
    """

    def __init__(self, file: IO[bytes], rows: DoubleArray) -> None:
        self._file = file
        self._times: DoubleArray = rows[:, 0].copy()
        self._usable: BoolArray = rows[:, 1] > 0
        self._begins, self._ends = rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64)
        distinct = np.unique(self._times)
        self._interval = min(MAX_INTERVAL, float(np.median(np.diff(distinct)))) if len(distinct) > 1 else MAX_INTERVAL
        self._header = os.pread(file.fileno(), int(self._begins[0]), 0) if len(rows) else b""

    @classmethod
    async def read(cls, file: IO[bytes], config: VisualConfig, settings: Settings) -> "Faces":
        """Index a CSV in a decoder process.

        Raises:
            ModalityError: the file is not accepted; names line and column.
            DecoderFailed, NoDecoder: decoding failed.
        """
        blocks: list[DoubleArray] = []

        def collect(columns: int, content: bytearray) -> None:
            block: DoubleArray = np.frombuffer(content, "<f8").reshape(-1, columns)
            if columns != len(COLUMNS) or not np.isfinite(block).all() or sum(map(len, blocks)) > limit:
                raise ProtocolError("a block of frames is not valid")
            blocks.append(block)

        job = openface_job(config, settings)
        limit = settings.recording_max_openface_rows
        limits = {**job["limits"], "max_bytes": settings.recording_max_openface_bytes, "max_rows": limit}
        config_of_index = {name: job["config"][name] for name in ("columns", "min_confidence")}
        await stream(
            {"kind": "frames", "config": config_of_index, "limits": limits},
            file,
            "openface",
            memory_bytes=settings.decode_memory_bytes,
            seconds=settings.recording_decode_timeout,
            on_block=collect,
        )
        return cls(file, np.concatenate(blocks) if blocks else np.empty((0, len(COLUMNS))))

    @property
    def frames(self) -> int:
        """Number of rows."""
        return len(self._times)

    @property
    def duration(self) -> float:
        """Seconds until the end of the last frame; 0 without frames."""
        return float(self._times[-1]) + self._interval if len(self._times) else 0.0

    def rows(self, start: float, end: float) -> tuple[int, int]:
        """Return the first row at or after `start`, and the first at or after `end`."""
        first, last = np.searchsorted(self._times, (start, end))
        return int(first), int(last)

    def coverage(self, start: float, end: float) -> float:
        """Share of a stretch in which a face is visible, in [0, 1]."""
        first, last = self.rows(start, end)
        seen = np.unique(self._times[first:last][self._usable[first:last]])
        return min(1.0, len(seen) * self._interval / (end - start))

    def lost(self, shortest: float) -> list[tuple[float, float]]:
        """Return start and end of each stretch without a face that lasts `shortest` seconds or more."""
        seen = self._times[self._usable]
        starts = np.concatenate([[0.0], seen + self._interval])
        ends = np.concatenate([seen, [self.duration]])
        long = ends - starts >= shortest
        return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))

    def read_rows(self, start: float, end: float) -> tuple[io.BytesIO, int]:
        """Return the rows of a stretch as a CSV, and the number of rows of the whole file before them."""
        first, last = self.rows(start, end)
        begin, stop = int(self._begins[first]), int(self._ends[last - 1])
        return io.BytesIO(self._header + os.pread(self._file.fileno(), stop - begin, begin)), first
