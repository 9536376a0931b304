"""Fixtures of tests of whole runs: a small composite corpus and its features."""

from pathlib import Path

import pytest
import torch

from model.training.crossfit import CrossFitPart
from model.training.trainer import RunPaths
from tests.support.corpus import write_composite
from tests.support.shared import shared_folder
from tests.support.training import CROSSFIT_TOY, confident_network, part_of


@pytest.fixture(scope="session")
def composite_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite(tmp_path_factory.mktemp("composite"), rounds=1)


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by all tests, also of other pytest-xdist workers: the features of each clip are computed once."""
    return shared_folder(tmp_path_factory) / "features"


@pytest.fixture
def paths(tmp_path: Path, feature_cache: Path) -> RunPaths:
    """The folder of a run with the shared cache."""
    return RunPaths(tmp_path / "run", feature_cache, workers=1, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def part() -> CrossFitPart:
    """A network with a toy corpus that it was not trained on."""
    return part_of(confident_network(), *CROSSFIT_TOY)
