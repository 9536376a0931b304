"""Pickle files of NumPy arrays and containers, read without executing what else a pickle may call."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from model.errors import CorpusError

_PLAIN: Final = re.compile(r"[?bBhHiIlLqQefdgFDGO]|[biufcSUO]\d+")  # codes of numbers, text and Python objects
# What NumPy's own pickles name.
_SCALAR: Final = cast(Callable[..., object], np.float64(0).__reduce__()[0])
_FROM_BUFFER: Final = cast(Callable[..., object], np.zeros(1).__reduce_ex__(5)[0])


class _Dtype:
    """A plain dtype. NumPy's own trusts the state in a pickle, which can declare bytes to be pointers to objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"holds an array of {code!r}, which is neither numbers nor text")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state  # version; byte order; base, names and fields of a structure; size and flags
        if any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("holds a structured array, which is neither numbers nor text")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array whose state may only name a `_Dtype`."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, *content = state
        super().__setstate__((version, shape, dtype.dtype, *content))


def _dtype(code: object, *_: object) -> _Dtype:
    return _Dtype(code)


def _reconstruct(*_: object) -> _Array:
    return _Array(0)


def _scalar(dtype: _Dtype, *content: object) -> object:
    return _SCALAR(dtype.dtype, *content)


def _from_buffer(buffer: object, dtype: _Dtype, *layout: object) -> object:
    return _FROM_BUFFER(buffer, dtype.dtype, *layout)


# NumPy 2 renamed `numpy.core` to `numpy._core`; files name either.
_ALLOWED: Final[Mapping[str, object]] = {
    "numpy.ndarray": None,  # an argument of `_reconstruct`, which does not need it
    "numpy.dtype": _dtype,
    "_codecs.encode": str.encode,  # bytes in protocols 0 to 2
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytearray": bytearray,
    "collections.OrderedDict": OrderedDict,
    **{
        f"numpy.{core}.{name}": value
        for core in ("core", "_core")
        for name, value in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the globals that arrays and containers need, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed global; called for every one that a pickle names."""
        path = f"{module}.{name}".replace("__builtin__", "builtins")
        if path not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {path}, which no array or container needs; nothing of it was executed")
        return _ALLOWED[path]


def read_pickle(path: Path) -> object:
    """Read a pickle of arrays of numbers, text or objects, of numbers, text and containers.

    Raises:
        CorpusError: the file cannot be read, is no pickle, or names a global that arrays and containers do not need.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file).load()
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CorpusError(path, None, str(error)) from error
    except (EOFError, AttributeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise CorpusError(path, None, f"is no pickle of arrays: {type(error).__name__}: {error}") from error
