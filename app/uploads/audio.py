"""The audio part → a waveform.

For: the service. The command line, whose files are its user's own, calls `model.features.sound` directly.
Does not know: containers and codecs.
"""

from dataclasses import asdict
from typing import Final

from app.uploads.decode_pool import DecodePool
from app.uploads.errors import DecoderFailed
from app.uploads.spool import SpooledFile
from model.features.sound import Sound, SoundLimits

PART: Final = "audio"


async def decode_audio(file: SpooledFile, limits: SoundLimits, pool: DecodePool) -> Sound:
    """Decode the whole of `file` in a process of `pool`.

    Raises:
        EmptyModality: `too_short`: it holds no sample.
        PartTooLarge, UnsupportedPart, CorruptPart: see `model.features.sound.read_sound`.
        DecoderFailed: its decoder ran out of time or memory, or died.
    """
    decoded = await pool.run({"kind": "sound", "limits": asdict(limits)}, file, PART)
    if not isinstance(decoded, Sound):
        raise DecoderFailed("the decoder broke off", part=PART)
    return decoded
