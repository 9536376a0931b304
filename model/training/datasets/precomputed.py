"""Feature vectors that corpora contain in place of recordings: NumPy files, checks, and sources made of them."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import PrecomputedSource
from model.types import FloatArray

LARGEST: Final = 1e9
"""The largest magnitude of a feature; its square fits in float32."""


def read_array(path: Path, rows: int) -> FloatArray:
    """Read a `.npy` file of one vector for each of `rows` utterances; pickled content is refused.

    Returns:
        `(rows, d)` float32.

    Raises:
        CorpusError: the file cannot be read, or holds no such array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise CorpusError(path, None, f"holds no NumPy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise CorpusError(path, None, "holds no two-dimensional array of numbers")
    if len(array) != rows:
        raise CorpusError(path, None, f"holds {len(array)} vectors for {rows} utterances")
    return array.astype(np.float32)


def precomputed_source(
    path: Path, key: str, modality: Modality, values: npt.NDArray[np.number], place: str
) -> PrecomputedSource | None:
    """Check the vectors of one utterance and return them as a source.

    Args:
        path: the file they are from.
        key: of the utterance, unique in that file.
        modality: of the vectors.
        values: `(T, d)`. Minus infinity counts as 0: COVAREP writes it for the logarithm of 0.
        place: of the utterance in the file, for errors.

    Returns:
        The source; None if all values are 0, which is how feature files mark an utterance without the modality.

    Raises:
        CorpusError: a value that is not a number, or too large.
    """
    if not values.any():
        return None
    used = np.asarray(values, dtype=np.float32)
    if (unvoiced := np.isneginf(used)).any():
        used = np.where(unvoiced, np.float32(0), used)
    if not (np.abs(used) <= LARGEST).all():  # false for NaN, too
        row, column = np.argwhere(~(np.abs(used) <= LARGEST))[0]
        raise CorpusError(path, None, f"{place}: {modality} row {row}, column {column} holds no finite number")
    return PrecomputedSource(path, key, modality, used)
