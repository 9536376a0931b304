"""The audio part → the features of a voice.

For: the service. The command line, whose files are its user's own, calls `model.features.audio.loading` directly.
Does not know: containers and codecs, or how features are made: both are the decoding process's.
"""

from dataclasses import asdict
from typing import Final

from app.decoding.pool import DecodePool
from app.uploads.errors import DecoderFailed
from app.uploads.spool import SpooledFile
from model.features.audio.loading import SoundLimits
from model.features.audio.raw_features import Voice

PART: Final = "audio"


async def decode_audio(
    file: SpooledFile,
    dynamics: bool,
    silence_dbfs: float,
    limits: SoundLimits,
    pool: DecodePool,
    *,
    conditioned: bool = False,
    encoder: str = "acoustic",
) -> Voice:
    """Decode the whole of `file` and listen to it (`model.features.audio.raw_features.listen`) in a process of `pool`.

    Features are made where the sound is: they are a fraction of its size, need the same protection from what a file may
    cost, and are computed for two clips at once by two processes, as threads of one could not.

    Raises:
        EmptyModality: `too_short` or `silent`.
        PartTooLarge, UnsupportedPart, CorruptPart: see `model.features.audio.loading.read_sound`.
        DecoderFailed: its decoder ran out of time or memory, or died.
    """
    job = {
        "kind": "sound",
        "dynamics": dynamics,
        "silence_dbfs": silence_dbfs,
        "conditioned": conditioned,
        "encoder": encoder,
        "limits": asdict(limits),
    }
    decoded = await pool.run(job, file, PART)
    if not isinstance(decoded, Voice):
        raise DecoderFailed("the decoder broke off", part=PART)
    return decoded
