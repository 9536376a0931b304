"""What the tests of whole runs share: a small composite corpus and the features computed of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.training.experiment import RunPaths
from tests.support.corpus import write_composite


@pytest.fixture(scope="session")
def composite_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite(tmp_path_factory.mktemp("composite"), rounds=1)


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that fills as tests run, so that each clip is described once."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def place(tmp_path: Path, feature_cache: Path) -> Iterator[RunPaths]:
    """A run's own folder over the shared cache, on one thread as the small networks like it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield RunPaths(tmp_path / "run", feature_cache, workers=1, device=torch.device("cpu"))
    torch.set_num_threads(threads)
