"""The results of finished cells, as `model.experiments.cell` writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model.errors import ConfigError
from model.training.evaluation import Evaluation

RESULT: Final = "result.json"
"""A cell is finished if its folder has this file."""
ANSWERS: Final = "answers.npz"
REPRESENTATION: Final = "representation.npz"
ERROR: Final = "error.txt"
"""The traceback of a cell that failed."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """One finished cell.

    Args:
        folder: of the cell.
        corpus, variant, seed, config_hash: of `model.experiments.grid.Cell`.
        system: of the variant.
        recipe: of the cell, as JSON.
        commit: of the code; empty where it is not known.
        dirty: whether the code differed from the commit.
        machine: `cpu`, `cores`, `torch` and `device`.
        parameters: trained ones.
        epochs: that were trained, of the last stage.
        best_epoch: counted from 1.
        validation: subset → macro-F1 of that epoch.
        losses: of each epoch of the last stage, part of the loss → its mean.
        seconds: `prepare`, `train` and `test`; of the processor where the device is the CPU, else of the clock. Only
            the first cell of a corpus in a process spends those of `prepare`. `train` is None where the training was
            interrupted and continued.
        cost: see `model.experiments.cell_measures.cost`.
        evaluations: part of the corpus → every figure but the diagrams.
        doubt: part of the corpus → see `model.experiments.cell_measures.doubt`.
        reconstruction: see `model.experiments.cell_measures.reconstruction`; None of a baseline.
    """

    folder: Path
    corpus: str
    variant: str
    system: str
    seed: int
    config_hash: str
    recipe: Mapping[str, Any]
    commit: str
    dirty: bool
    machine: Mapping[str, Any]
    parameters: int
    epochs: int
    best_epoch: int
    validation: Mapping[str, float]
    losses: Sequence[Mapping[str, float]]
    seconds: Mapping[str, float | None]
    cost: Mapping[str, float]
    evaluations: Mapping[str, Evaluation]
    doubt: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
    reconstruction: Mapping[str, Mapping[str, float]] | None

    @property
    def gate(self) -> dict[str, dict[str, Any]]:
        """Part of the corpus → figures of the gate, where the system has one."""
        return {split: gate for split, e in self.evaluations.items() if (gate := e["gate"]) is not None}

    def answers(self) -> dict[str, npt.NDArray[Any]]:
        """`<split>_<name>` → the arrays of `model.experiments.cell_measures.answer_arrays`."""
        return _arrays(self.folder / ANSWERS)

    def representation(self) -> dict[str, npt.NDArray[Any]] | None:
        """See `model.experiments.cell_measures.representations`; None where there is none."""
        path = self.folder / REPRESENTATION
        return _arrays(path) if path.is_file() else None


def load_results(work: Path) -> list[CellResult]:
    """The finished cells of a working folder, in the order of their paths.

    Raises:
        ConfigError: a result that cannot be read; names the file.
    """
    return [load_result(path.parent) for path in sorted((work / "cells").glob(f"*/*/*/{RESULT}"))]


def load_result(folder: Path) -> CellResult:
    """The result of a finished cell.

    Raises:
        ConfigError: it cannot be read; names the file.
    """
    path = folder / RESULT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(CellResult)} - {"folder"}
        if missing := names - content.keys():
            raise ValueError(f"no {min(missing)}")
        return CellResult(folder=folder, **{name: content[name] for name in names})
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is no result of a cell: {error}") from error


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
