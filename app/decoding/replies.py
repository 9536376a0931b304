"""What comes of decoding a file, as a frame's message and content, and back.

For: `Voice`, `FaceTrack` and the exceptions of `model.errors` crossing from a decoding process to the serving one.
Does not know: processes and sockets.

`restore` believes nothing: a reply that does not fit together counts as if the decoder had crashed.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Final, TypeAlias

import numpy as np

from app.decoding.frames import BrokenFrame, Json
from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.audio.raw_features import Voice
from model.features.visual.openface import FaceTrack
from model.modality import Modality
from model.types import FloatArray

Decoded: TypeAlias = Voice | FaceTrack

_FAULTS: Final[Mapping[str, type[ModalityError]]] = {
    kind.__name__: kind for kind in (CorruptModality, ModalityTooLarge, UnsupportedFormat)
}


OUT_OF_MEMORY: Final = "out of memory"


class DecoderStopped(Exception):
    """Decoding ended without a verdict on the file; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def dismantle(decode: Callable[[], Decoded]) -> tuple[Json, bytes]:
    """Decode, and say what came of it. Any other exception is a decoder's fault and ends its process."""
    try:
        decoded = decode()
    except EmptyModality as error:
        return {"kind": "empty", "modality": error.modality, "reason": error.reason, "detail": error.detail}, b""
    except ModalityError as error:
        kind = type(error).__name__
        return {"kind": kind, "modality": error.modality, "detail": error.detail, "place": error.place}, b""
    except MemoryError:
        return {"kind": "stopped", "reason": OUT_OF_MEMORY}, b""
    array = decoded.features if isinstance(decoded, Voice) else decoded.values
    about = {field.name: getattr(decoded, field.name) for field in fields(decoded) if field.name not in _ARRAYS}
    return {"kind": type(decoded).__name__, "shape": array.shape, "about": about}, array.astype("<f4").tobytes()


_ARRAYS: Final = ("features", "values")


def restore(message: Json, content: bytearray) -> Decoded:
    """What `dismantle` took apart; the array lies in `content` and may be written to.

    Raises:
        ModalityError: the file's fault, as it was raised there.
        DecoderStopped: there is no verdict on the file.
        BrokenFrame: the reply does not fit together.
    """
    kind = message.get("kind")
    try:
        if kind == "empty":
            raise EmptyModality(
                Modality(_text(message, "modality")), _text(message, "reason"), _text(message, "detail")
            )
        if kind == "stopped":
            raise DecoderStopped(_text(message, "reason"))
        if isinstance(kind, str) and kind in _FAULTS:
            place = None if message.get("place") is None else _text(message, "place")
            raise _FAULTS[kind](Modality(_text(message, "modality")), _text(message, "detail"), place)
        about = message["about"]
        if not isinstance(about, dict):
            raise TypeError("about must be an object")
        if kind == "Voice":
            return Voice(features=_array(message, content, 2), **about)
        if kind == "FaceTrack":
            return FaceTrack(values=_array(message, content, 2), **about)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFrame("the reply does not fit together") from error
    raise BrokenFrame("the reply is of no known kind")


def _text(message: Json, key: str) -> str:
    value = message[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} must be text")
    return value


def _array(message: Json, content: bytearray, dimensions: int) -> FloatArray:
    shape = message["shape"]
    if not (isinstance(shape, list) and len(shape) == dimensions):
        raise TypeError("shape must be a list")
    return np.frombuffer(content, dtype="<f4").reshape(shape).astype(np.float32, copy=False)
