"""Messages between the serving process and a decoder process: length-prefixed frames of a JSON object and raw bytes."""

# JSON and raw bytes only, no pickle: a decoder that a malicious upload controls can send wrong data, but no code.
# `decode_reply` validates everything it is sent.
#
# A frame is: length of the JSON (4 bytes, big-endian), length of the content (8 bytes), the JSON, the content.

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeAlias, get_origin, get_type_hints

import numpy as np

from model.errors import (
    CorruptModality,
    EmptyModality,
    FaceNotFound,
    ModalityError,
    ModalityTooLarge,
    UnsupportedFormat,
)
from model.features.audio.raw_features import AudioFeatures
from model.features.visual.openface import FaceTrack
from model.modality import Modality
from model.types import FloatArray

Json: TypeAlias = Mapping[str, Any]
Decoded: TypeAlias = AudioFeatures | FaceTrack

PREFIX: Final = struct.Struct(">IQ")
OUT_OF_MEMORY: Final = "out of memory"
_ERRORS: Final[Mapping[str, type[ModalityError]]] = {
    kind.__name__: kind for kind in (CorruptModality, EmptyModality, FaceNotFound, ModalityTooLarge, UnsupportedFormat)
}
_ARRAYS: Final = {"AudioFeatures": "array", "FaceTrack": "values"}
"""Field of each type that is sent as raw bytes; the other fields are sent as JSON."""
_DECODED: Final[Mapping[str, type[Decoded]]] = {kind.__name__: kind for kind in (AudioFeatures, FaceTrack)}


class ProtocolError(Exception):
    """The other process sent something that is not a valid frame or reply."""


class DecodingStopped(Exception):
    """Decoding ended without a result for a reason that is not the file's, named by the message."""


def pack(message: Json, content_bytes: int = 0) -> bytes:
    """Encode a frame up to its content, which has to follow."""
    encoded = json.dumps(message).encode()
    return PREFIX.pack(len(encoded), content_bytes) + encoded


def parse(encoded: bytes | bytearray) -> Json:
    """Decode the message of a frame.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        message: object = json.loads(encoded)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ProtocolError("a frame's message must be a JSON object")
    return message


def encode_reply(decode: Callable[[], Decoded]) -> tuple[Json, bytes]:
    """Call `decode` and encode its result or its error as message and content.

    Exceptions that are neither a `ModalityError` nor a `MemoryError` are bugs of the decoder and propagate.
    """
    try:
        decoded = decode()
    except (ModalityError, MemoryError) as error:
        return encode_error(error), b""
    kind = type(decoded).__name__
    values = {field.name: getattr(decoded, field.name) for field in fields(decoded)}
    array = values.pop(_ARRAYS[kind])
    return {"kind": kind, "shape": array.shape, "fields": values}, array.astype("<f4").tobytes()


def encode_error(error: ModalityError | MemoryError) -> Json:
    """Encode an error as the message of a frame without content."""
    if isinstance(error, MemoryError):
        return {"kind": "stopped", "reason": OUT_OF_MEMORY}
    return {"kind": type(error).__name__, "arguments": error.args}


def raise_error(message: Json) -> None:
    """Raise the error that a message of `encode_error` holds; return for any other message.

    Raises:
        ModalityError: the error.
        DecodingStopped: there is no result.
        ProtocolError: the message is not valid.
    """
    kind = message.get("kind")
    try:
        if kind == "stopped":
            raise DecodingStopped(str(message["reason"]))
        if (error_type := _ERRORS.get(str(kind))) is not None:
            modality, first, second = message["arguments"]
            if not (isinstance(first, str) and isinstance(second, str | None)):
                raise TypeError("arguments must be strings")
            raise error_type(Modality(modality), first, second)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("the reply is not valid") from error


def decode_reply(message: Json, content: bytearray) -> Decoded:
    """Inverse of `encode_reply`. The returned array is a view of `content`, and writable.

    Raises:
        ModalityError: as `decode` raised it.
        DecodingStopped: there is no result.
        ProtocolError: the reply is not valid.
    """
    raise_error(message)
    kind = message.get("kind")
    try:
        if (decoded_type := _DECODED.get(str(kind))) is not None:
            types, values = get_type_hints(decoded_type), message["fields"]
            if not all(_fits(value, types[name]) for name, value in values.items()):
                raise TypeError("a field is of another type")
            array: dict[str, Any] = {_ARRAYS[decoded_type.__name__]: _matrix(message, content)}
            return decoded_type(**values, **array)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError("the reply is not valid") from error
    raise ProtocolError("the reply is of no known kind")


def _matrix(message: Json, content: bytearray) -> FloatArray:
    rows, columns = message["shape"]
    matrix: FloatArray = np.frombuffer(content, dtype="<f4").reshape(rows, columns).astype(np.float32, copy=False)
    if not np.isfinite(matrix).all():
        raise ValueError("features must be finite")
    return matrix


def _fits(value: object, annotation: Any) -> bool:
    """Whether a JSON value is of a field's type."""
    if annotation is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if get_origin(annotation) is Mapping:
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    return isinstance(value, annotation)
