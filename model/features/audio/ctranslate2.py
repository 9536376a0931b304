"""Reads float16 tensors of a CTranslate2 model file (python/ctranslate2/specs/model_spec.py).

Own code: the library `ctranslate2` runs models, but does not expose their weights.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from model.types import FloatArray

_BINARY_VERSION: Final = 6
_FLOAT16: Final = 4  # data type id
_MAX_RANK: Final = 8  # more dimensions than any tensor of the model has


def read_tensors(path: Path, specification: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    """Read the named tensors as float32; the others are skipped.

    Args:
        path: of the file.
        specification: name of the model's specification, `WhisperSpec` for example.
        shapes: tensor name → expected shape.

    Raises:
        OSError: the file cannot be read.
        ValueError: another kind of file, a truncated one, or a tensor is missing or not float16 of its shape.
    """
    with path.open("rb") as file:
        return _Reader(file, path.stat().st_size).tensors(specification, shapes)


class _Reader:
    """Sequential reader that raises ValueError where a length exceeds the file's size."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def tensors(self, specification: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
        if self._numbers("I") != (_BINARY_VERSION,):
            raise ValueError("it is not a CTranslate2 model of the version expected")
        if self._string() != specification:
            raise ValueError(f"its specification is not {specification}")
        _, count = self._numbers("II")  # revision, number of variables
        found: dict[str, FloatArray] = {}
        for _ in range(count):
            name = self._string()
            (rank,) = self._numbers("B")
            if rank > _MAX_RANK:
                raise ValueError(f"a tensor has {rank} dimensions")
            shape = self._numbers("I" * rank)
            kind, size = self._numbers("BI")
            if name not in shapes:
                self._skip(size)
                continue
            if (shape, kind, size) != (shapes[name], _FLOAT16, 2 * math.prod(shapes[name])):
                raise ValueError(f"{name} is not float16 of shape {shapes[name]}")
            halves: npt.NDArray[np.float16] = np.frombuffer(self._bytes(size), dtype="<f2")
            found[name] = halves.astype(np.float32).reshape(shape)
            if len(found) == len(shapes):
                return found
        raise ValueError(f"it lacks {min(shapes.keys() - found.keys())}")

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._size else b""
        if len(data) != size:
            raise ValueError("it is cut short")
        return data

    def _skip(self, size: int) -> None:
        if self._file.tell() + size > self._size:
            raise ValueError("it is cut short")
        self._file.seek(size, 1)

    def _numbers(self, code: str) -> tuple[int, ...]:
        layout = struct.Struct("<" + code)
        return layout.unpack(self._bytes(layout.size))

    def _string(self) -> str:
        (size,) = self._numbers("H")
        return self._bytes(size).rstrip(b"\0").decode("utf-8", errors="replace")
