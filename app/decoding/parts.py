"""Decoding of the three parts of a form: text here; the jobs of a decoder process for audio and OpenFace files."""

from dataclasses import asdict
from itertools import groupby
from typing import Final

from app.decoding.protocol import Json
from app.errors import CorruptPart, TextTooLong
from app.settings import Settings
from model.config import AudioConfig, VisualConfig
from model.features.audio.loading import SoundLimits
from model.features.visual.table import OpenFaceLimits

BASIC_PLANE: Final = 2**16  # code points; above it, regular expression dialects write characters differently


def decode_text(raw: bytes, max_bytes: int) -> str:
    """Decode a UTF-8 sentence; a byte order mark at its start is removed.

    Raises:
        TextTooLong: more than `max_bytes`.
        CorruptPart: not UTF-8, containing a NUL, or blank.
    """
    if len(raw) > max_bytes:
        raise TextTooLong(f"the text may hold at most {max_bytes} bytes", part="text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptPart("the text is not UTF-8", part="text", place=f"byte {error.start}") from None
    if "\0" in text:
        raise CorruptPart("the text holds a NUL", part="text", place=f"byte {raw.index(0)}")
    text = text.removeprefix("\ufeff")
    if all(_is_blank(character) for character in text):
        raise CorruptPart("the text is blank", part="text")
    return text


def _is_blank(character: str) -> bool:
    """Whether it is white space or a byte order mark.

    Text of other characters without a visible form, such as zero-width ones, counts as missing; see
    `app.engine.predictor.PreparedRequest.add_text`.
    """
    return character.isspace() or character == "\ufeff"


def _text_pattern() -> str:
    runs = [(blank, list(run)) for blank, run in groupby(range(BASIC_PLANE), key=lambda code: _is_blank(chr(code)))]
    blanks = "".join(f"\\u{run[0]:04x}-\\u{run[-1]:04x}" for blank, run in runs if blank)
    return f"^[^\\u0000]*[^\\u0000{blanks}][^\\u0000]*$"


TEXT_PATTERN: Final = _text_pattern()
"""Regular expression (ECMA-262) of the texts that `decode_text` accepts: no NUL, and not blank."""


def sound_limits(settings: Settings) -> SoundLimits:
    """Limits of decoded audio."""
    return SoundLimits(
        max_seconds=settings.max_audio_seconds,
        max_decoded_bytes=settings.max_audio_decoded_bytes,
        min_rate=settings.min_audio_rate,
        max_rate=settings.max_audio_rate,
        max_channels=settings.max_audio_channels,
    )


def audio_job(config: AudioConfig, settings: Settings) -> Json:
    """Job of a decoder that reads a sound file and computes its features before normalisation."""
    return {"kind": "audio", "config": config.model_dump(), "limits": asdict(sound_limits(settings))}


def openface_job(config: VisualConfig, settings: Settings, face_id: int | None = None) -> Json:
    """Job of a decoder that reads an OpenFace CSV; `face_id` is the face to follow, None for the most confident one."""
    limits = OpenFaceLimits(
        max_bytes=settings.max_openface_bytes,
        max_line_bytes=settings.max_openface_line_bytes,
        max_columns=settings.max_openface_columns,
        max_rows=settings.max_openface_rows,
    )
    chosen = config.model_dump(include={"columns", "min_confidence"})
    return {"kind": "openface", "config": {**chosen, "face_id": face_id}, "limits": asdict(limits)}
