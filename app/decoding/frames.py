"""How the serving process and a decoding process talk: frames of a JSON object and bytes.

For: both ends of a socket. JSON and raw bytes only, so that a decoder which an upload has taken over can lie, but
cannot have anything run here.
Does not know: what is said (see `app.decoding.replies`).

A frame is the length of the JSON (4 bytes, big-endian), the length of the content (8), the JSON, the content.
"""

import json
import struct
from collections.abc import Mapping
from typing import Final, TypeAlias

PREFIX: Final = struct.Struct(">IQ")

Json: TypeAlias = Mapping[str, object]


class BrokenFrame(Exception):
    """What came is no frame, or does not fit together: the other end has crashed, or lies."""


def pack(message: Json, content_bytes: int = 0) -> bytes:
    """A frame up to its content, which is to follow."""
    encoded = json.dumps(message).encode()
    return PREFIX.pack(len(encoded), content_bytes) + encoded


def parse(encoded: bytes | bytearray) -> Json:
    """A frame's message.

    Raises:
        BrokenFrame: it is not a JSON object.
    """
    try:
        message: object = json.loads(encoded)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise BrokenFrame("a frame's message must be a JSON object")
    return message
