"""Writes CTranslate2 model files."""

import struct
from collections.abc import Mapping
from pathlib import Path

from model.types import FloatArray


def model_file(
    path: Path,
    tensors: Mapping[str, FloatArray],
    *,
    version: int = 6,
    spec: str = "WhisperSpec",
    kind: int = 4,
    extra: int = 0,
) -> Path:
    """Write tensors as CTranslate2 does, after one unused tensor; `extra` is added to every byte count."""

    def string(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", 3, len(tensors) + 1)]
    parts += [string("decoder/scale"), struct.pack("<BBI", 0, 0, 4), bytes(4)]
    for name, array in tensors.items():
        data = array.astype("<f2").tobytes()
        parts += [string(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", kind, len(data) + extra), data]
    path.write_bytes(b"".join(parts))
    return path
