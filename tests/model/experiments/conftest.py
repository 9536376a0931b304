"""A miniature MOSI corpus and a grid whose cells take seconds."""

import json
from pathlib import Path

import pytest
import torch

from model.experiments.grid import Cell, read_grid
from model.training.trainer import RunPaths
from tests.support.native_corpora import write_mosi
from tests.support.training import tiny_recipe


@pytest.fixture(scope="session")
def mosi_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mosi(tmp_path_factory.mktemp("mosi"))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="session")
def paths(work: Path) -> RunPaths:
    return RunPaths(work, work / "features", workers=1, device=torch.device("cpu"))


def mini_grid(path: Path, *variants: str) -> Path:
    """A grid of MOSI with the tiny recipe and seed 0."""
    corpus = {
        "name": "mosi",
        "recipe": tiny_recipe(baseline_epochs=1).model_dump(mode="json"),
        "runs": [{"variants": variants, "seeds": [0]}],
    }
    path.write_text(json.dumps({"corpora": [corpus]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """Cells by variant."""
    path = mini_grid(tmp_path_factory.mktemp("grid") / "grid.yaml", "emmr", "ae", "late-fusion", "only-text")
    return {cell.variant: cell for cell in read_grid(path)}
