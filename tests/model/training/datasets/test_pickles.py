import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CorpusError
from model.training.datasets.pickles import read_pickle
from tests.support.native_corpora import mmsa_content


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def written(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_are_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "floats": np.arange(6.0).reshape(2, 3),
        "text": np.array(["one", "twö"]),
        "objects": np.array(["a", None], dtype=object),
        "scalar": np.float32(2.5),
        "ordered": OrderedDict(a=[1, (2, b"\xff")]),
        "set": {1, 2},
    }
    read = read_pickle(written(tmp_path / "a.pkl", content, protocol))
    assert isinstance(read, dict)
    np.testing.assert_equal(read, content)


def test_the_names_of_numpy_1_and_2_are_read(tmp_path: Path) -> None:
    new = pickle.dumps(np.arange(3), protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for content in (new, old):
        (tmp_path / "a.pkl").write_bytes(content)
        np.testing.assert_array_equal(np.asarray(read_pickle(tmp_path / "a.pkl")), np.arange(3))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), r"\w+\.system"),
        (eval, ("open('executed', 'w')",), r"builtins\.eval"),
        (getattr, ("text", "upper"), r"builtins\.getattr"),
        (np.load, ("executed",), r"numpy\.load"),
        (Path, ("executed",), r"pathlib[\w.]*\.\w+"),
    ],
)
def test_a_hostile_pickle_is_refused_and_not_executed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: int,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {**mmsa_content(1), "extra": Calls(function, *arguments)}
    with pytest.raises(CorpusError, match=rf"a\.pkl: names {name}, which no array or container needs"):
        read_pickle(written(tmp_path / "a.pkl", content, protocol))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]


def test_dotted_names_do_not_reach_attributes_of_allowed_ones(tmp_path: Path) -> None:
    # Protocol 4 resolves "ndarray.tofile" by attributes: numpy.ndarray is allowed, its methods are not.
    content = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(CorpusError, match=r"names numpy\.ndarray\.tofile"):
        read_pickle(tmp_path / "a.pkl")


class Forged:
    """Pickled as a dtype with a state of one's own."""

    def __init__(self, *state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[object, ...]:
        return np.dtype, ("U2", False, True), self.state


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(1, dtype=[("field", "O")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        # A text whose bytes are said to be pointers to objects, without the flag that guards them.
        Forged(3, "<", None, ("field",), {"field": (np.dtype("O"), 0)}, 8, 1, 0),
        Forged(3, "<", (np.dtype("O"), (1,)), None, None, 8, 1, 0),
    ],
)
def test_dtypes_that_could_disguise_objects_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CorpusError, match="which is neither numbers nor text"):
        read_pickle(written(tmp_path / "a.pkl", content))


@pytest.mark.parametrize("content", [np.arange(6, dtype=">i2"), np.array(["a", "bc"], dtype=">U2"), np.float16(2)])
def test_values_of_any_byte_order_and_size_are_kept(tmp_path: Path, content: Any) -> None:
    read: Any = read_pickle(written(tmp_path / "a.pkl", content))
    np.testing.assert_array_equal(read, content)
    assert (read.dtype.kind, read.dtype.itemsize) == (content.dtype.kind, content.dtype.itemsize)


def test_a_pickle_cannot_change_what_it_may_call(tmp_path: Path) -> None:
    # BUILD with a state of slots sets attributes of the object: here of the function that makes arrays of buffers.
    content = b"\x80\x04\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93N}\x8c\x0c__defaults__Ns\x86b."
    (tmp_path / "a.pkl").write_bytes(content)
    read_pickle(tmp_path / "a.pkl")
    again = read_pickle(written(tmp_path / "b.pkl", np.arange(3), protocol=5))
    np.testing.assert_array_equal(np.asarray(again), np.arange(3))


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", pickle.dumps([1] * 1000)[:50], b"\x80\x09."])
def test_content_that_is_no_pickle_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(CorpusError, match=r"a\.pkl: "):
        read_pickle(tmp_path / "a.pkl")


def test_a_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        read_pickle(tmp_path / "a.pkl")
