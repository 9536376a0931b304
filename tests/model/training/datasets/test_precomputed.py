from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.precomputed import precomputed_source, read_array


def test_a_source_is_known_by_file_key_and_modality() -> None:
    values = np.ones((2, 3))
    sources = {
        precomputed_source(Path("a"), key, modality, values * factor, "")
        for key, modality, factor in (("x", Modality.AUDIO, 1), ("x", Modality.AUDIO, 2), ("x", Modality.VISUAL, 1))
    }
    assert len(sources) == 2


def test_whole_numbers_become_floats(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6).reshape(3, 2))
    array = read_array(tmp_path / "a.npy", 3)
    assert array.dtype == np.float32
    source = precomputed_source(tmp_path / "a.npy", "x", Modality.AUDIO, np.array([[1, 2]]), "row 0")
    assert source is not None
    assert source.values.dtype == np.float32


def test_the_first_value_that_is_no_number_is_named() -> None:
    values = np.ones((4, 5), dtype=np.float64)
    values[2, 3], values[3, 0] = np.nan, np.inf
    with pytest.raises(CorpusError, match=r"file: video 7: visual row 2, column 3 holds no finite number"):
        precomputed_source(Path("file"), "x", Modality.VISUAL, values, "video 7")


def test_rows_of_zeros_within_the_content_stay() -> None:
    values = np.array([[0.0], [1.0], [0.0]])
    source = precomputed_source(Path("a"), "x", Modality.AUDIO, values, "")
    assert source is not None
    assert source.values.shape == (3, 1)
    assert precomputed_source(Path("a"), "x", Modality.AUDIO, np.zeros((3, 1)), "") is None
