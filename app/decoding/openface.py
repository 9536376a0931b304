"""The openface part → the frames of one face.

For: the service. The command line, whose files are its user's own, calls `model.features.visual.openface` directly.
Does not know: columns.
"""

from dataclasses import asdict
from typing import Final

from app.decoding.pool import DecodePool
from app.uploads.errors import DecoderFailed
from app.uploads.spool import SpooledFile
from model.features.visual.openface import ColumnSet, FaceTrack, OpenFaceLimits

PART: Final = "openface"


async def decode_openface(
    file: SpooledFile, columns: ColumnSet, min_confidence: float, limits: OpenFaceLimits, pool: DecodePool
) -> FaceTrack:
    """Read the whole of `file` in a process of `pool`.

    Raises:
        EmptyModality: `no_face`: no frame is usable.
        PartTooLarge, CorruptPart: see `model.features.visual.openface.read_openface`.
        DecoderFailed: its decoder ran out of time or memory, or died.
    """
    job = {"kind": "openface", "columns": columns, "min_confidence": float(min_confidence), "limits": asdict(limits)}
    decoded = await pool.run(job, file, PART)
    if not isinstance(decoded, FaceTrack):
        raise DecoderFailed("the decoder broke off", part=PART)
    return decoded
