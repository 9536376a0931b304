from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.features.audio.ctranslate2 import read_tensors
from model.types import FloatArray
from tests.support.ctranslate2_files import model_file

SHAPES = {"weight": (6, 5), "bias": (6,)}


def random_tensors() -> dict[str, FloatArray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 1, shape).astype(np.float16).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("names", [["weight", "bias"], ["bias", "weight"]])
def test_order_of_tensors_in_the_file_is_arbitrary(tmp_path: Path, names: list[str]) -> None:
    tensors = random_tensors()
    path = model_file(tmp_path / "model.bin", {name: tensors[name] for name in names})
    read = read_tensors(path, "WhisperSpec", SHAPES)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"version": 5}, "version"),
        ({}, {"spec": "TransformerSpec"}, "specification is not WhisperSpec"),
        ({}, {"kind": 0}, "not float16"),
        ({"bias": np.zeros((2, 3), np.float32)}, {}, "bias is not float16 of shape"),
        ({}, {"extra": 2}, "weight is not float16"),
        ({"bias": None}, {}, "it lacks bias"),
        ({"other": np.zeros((1,) * 9, np.float32), "bias": None}, {}, "9 dimensions"),
    ],
)
def test_other_kinds_of_files_are_rejected(
    tmp_path: Path, changes: dict[str, FloatArray | None], options: dict[str, Any], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (random_tensors() | changes).items() if tensor is not None}
    path = model_file(tmp_path / "model.bin", tensors, **options)
    with pytest.raises(ValueError, match=message):
        read_tensors(path, "WhisperSpec", SHAPES)


def test_skipped_tensor_longer_than_the_file_is_rejected(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", {"other": np.zeros(2, np.float32)}, extra=2**31)
    with pytest.raises(ValueError, match="cut short"):
        read_tensors(path, "WhisperSpec", SHAPES)


def test_truncated_file_is_rejected(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", random_tensors())
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut short"):
            read_tensors(path, "WhisperSpec", SHAPES)
