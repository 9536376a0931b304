"""Statistics of the training split, and how an array becomes at most as many slots as the config has.

For: the two steps between raw features and the network that training and serving must share to the last bit.
Does not know: how raw features are made.

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

CLIP: Final = 8.0  # standard deviations: a tracker's glitch may not outweigh everything else
MIN_STD: Final = 1e-3  # a feature that never moves in training says nothing


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of one modality's features, `(d,)` each."""

    mean: FloatArray
    std: FloatArray

    @classmethod
    def of(cls, arrays: Iterable[FloatArray]) -> Self:
        """Measure over every frame of the training split's arrays `(T, d)`.

        Raises:
            ValueError: no array.
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
        mean = np.asarray(total / frames)
        variance = np.asarray(squares / frames) - mean**2
        std = np.sqrt(np.maximum(variance, MIN_STD**2))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    @classmethod
    def mixture(cls, parts: Sequence["Statistics"]) -> Self:
        """Those of an equal mixture of distributions.

        Raises:
            ValueError: no part.
        """
        if not parts:
            raise ValueError("no statistics to mix")
        mean = np.stack([part.mean for part in parts]).mean(axis=0, dtype=np.float64)
        powers = np.stack(
            [np.square(part.std, dtype=np.float64) + np.square(part.mean, dtype=np.float64) for part in parts]
        )
        variance = powers.mean(axis=0) - mean**2
        std = np.sqrt(np.maximum(variance, MIN_STD**2))
        return cls(np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32))

    def normalise(self, array: FloatArray) -> FloatArray:
        """z-score a `(T, d)` array, clipped at `CLIP` standard deviations."""
        scores: FloatArray = np.clip((array - self.mean) / self.std, -CLIP, CLIP).astype(np.float32)
        return scores


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """`preprocessing.json` of a weights folder: statistics of sound and face. Text needs none."""

    statistics: Mapping[Modality, Statistics]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        content = {
            str(modality): {"mean": s.mean.tolist(), "std": s.std.tolist()} for modality, s in self.statistics.items()
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            CheckpointError: not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {
                    Modality(name): Statistics(
                        np.asarray(entry["mean"], dtype=np.float32), np.asarray(entry["std"], dtype=np.float32)
                    )
                    for name, entry in content.items()
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path.name} is not a statistics file: {error}") from error


def reduce_to_slots(array: FloatArray, slots: int, reduction: Literal["truncate", "pool"]) -> FloatArray:
    """At most `slots` rows: cut, or averaged over equal spans of time as `adaptive_avg_pool1d` does.

    Args:
        array: `(T, d)`.
        slots: n.
        reduction: which of the two; an array of at most n rows comes back as it is.

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
