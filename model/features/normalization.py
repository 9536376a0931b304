"""Statistics of the training split, z-scores, and the reduction of frames to slots.

Shapes: T frames or tokens, n slots, d features.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np

from model.errors import CheckpointError
from model.modality import Modality
from model.types import DoubleArray, FloatArray

CLIP: Final = 8.0  # standard deviations: bounds the influence of a tracker's outliers
MIN_STD: Final = 1e-3  # for features that are constant in training


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of one modality's features, `(d,)` each."""

    mean: FloatArray
    std: FloatArray

    @classmethod
    def of(cls, arrays: Iterable[FloatArray]) -> Self:
        """Compute over all frames of arrays `(T, d)`.

        Raises:
            ValueError: no frame.
        """
        frames = 0
        total: DoubleArray | float = 0.0
        squares: DoubleArray | float = 0.0
        for array in arrays:
            wide = array.astype(np.float64)
            frames += len(wide)
            total = total + wide.sum(axis=0)
            squares = squares + (wide**2).sum(axis=0)
        if not frames:
            raise ValueError("no array to measure")
        return cls._from_moments(np.asarray(total / frames), np.asarray(squares / frames))

    @classmethod
    def mixture(cls, parts: Sequence["Statistics"]) -> Self:
        """Compute those of a mixture of distributions with equal weights.

        Raises:
            ValueError: no part.
        """
        if not parts:
            raise ValueError("no statistics to mix")
        means = np.stack([part.mean for part in parts]).astype(np.float64)
        deviations = np.stack([part.std for part in parts]).astype(np.float64)
        return cls._from_moments(means.mean(axis=0), (deviations**2 + means**2).mean(axis=0))

    @classmethod
    def _from_moments(cls, mean: DoubleArray, square: DoubleArray) -> Self:
        """From the means of the features and of their squares."""
        std = np.sqrt(np.maximum(square - mean**2, MIN_STD**2))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def normalise(self, array: FloatArray) -> FloatArray:
        """Return z-scores of a `(T, d)` array, clipped to ±`CLIP`."""
        scores: FloatArray = np.clip((array - self.mean) / self.std, -CLIP, CLIP).astype(np.float32)
        return scores


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """`preprocessing.json` of a weights folder: statistics of audio and visual features; text has none."""

    statistics: Mapping[Modality, Statistics]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        content = {
            str(modality): {"mean": s.mean.tolist(), "std": s.std.tolist()} for modality, s in self.statistics.items()
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file written by `write`.

        Raises:
            CheckpointError: not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            arrays = {
                Modality(name): [np.asarray(entry[key], dtype=np.float32) for key in ("mean", "std")]
                for name, entry in content.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path.name} is not a statistics file: {error}") from error
        return cls({modality: Statistics(mean, std) for modality, (mean, std) in arrays.items()})


def reduce_to_slots(array: FloatArray, slots: int, reduction: Literal["truncate", "pool"]) -> FloatArray:
    """Reduce to at most `slots` rows: truncated, or averaged over equal spans as by `adaptive_avg_pool1d`.

    Args:
        array: `(T, d)`.
        slots: n.
        reduction: `truncate` or `pool`; an array of at most n rows is returned unchanged.

    Returns:
        `(min(T, n), d)` float32.
    """
    length = array.shape[0]
    if length <= slots:
        return array
    if reduction == "truncate":
        return np.ascontiguousarray(array[:slots])
    starts = np.arange(slots) * length // slots
    ends = -(-(np.arange(slots) + 1) * length // slots)  # ceiling
    sums = np.concatenate([np.zeros((1, array.shape[1])), np.cumsum(array, axis=0, dtype=np.float64)])
    means: FloatArray = ((sums[ends] - sums[starts]) / (ends - starts)[:, None]).astype(np.float32)
    return means
