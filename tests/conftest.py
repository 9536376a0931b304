"""Fixtures of all tests: a tiny weights folder with a random network, and an application that serves it.

Imports are inside the fixtures, so that tests without them start without PyTorch; those of peft are inside tests too.
"""

from __future__ import annotations

import os

# Before the import of NumPy, which reads it: one thread is fastest for small arrays, and pytest runs several processes.
os.environ["OMP_NUM_THREADS"] = "1"
# Several workers are processes, which take seconds to start. Tests of them ask for them.
os.environ["EMMR_COMPUTE_WORKERS"] = "1"

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from model.modality import Modality

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from model.config import ModelConfig
    from tests.support.service import Part


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    if item.get_closest_marker("ray") is not None and find_spec("ray") is None:
        pytest.skip("the extra ray is not installed (make test-ray)")


CARD = "# A tiny model\n\nRandom, for tests.\n"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    from tests.support.network import tiny_config

    return tiny_config(name="tiny")


@pytest.fixture(scope="session")
def tiny_weights(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from model.checkpoint import save_checkpoint
    from model.features.normalization import Preprocessing, Statistics
    from model.network.emmr import EMMR

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = EMMR(tiny_config)
    preprocessing = Preprocessing(
        {
            modality: Statistics(
                np.zeros(tiny_config.feature_size(modality), dtype=np.float32),
                np.full(tiny_config.feature_size(modality), scale, dtype=np.float32),
            )
            for modality, scale in ((Modality.AUDIO, 50.0), (Modality.VISUAL, 1.0))
        }
    )
    save_checkpoint(folder, network, preprocessing, card=CARD)
    return folder


@pytest.fixture(scope="session")
def canary() -> str:
    """A word in the sentence and the file names of `parts` that must not occur in any log."""
    return "xylophone"


@pytest.fixture(scope="session")
def parts(canary: str) -> dict[str, Part]:
    """One valid part of each kind."""
    from app.engine.warmup import still_face, tone
    from model.features.visual.table import ACTION_UNIT_COLUMNS

    return {
        "text": (None, f"What a lovely {canary}!".encode(), "text/plain"),
        "audio": (f"{canary}.wav", tone(), "audio/wav"),
        "openface": (f"{canary}.csv", still_face(ACTION_UNIT_COLUMNS), "text/csv"),
    }


@pytest.fixture(scope="session")
def application(tiny_weights: Path) -> FastAPI:
    """An application with the default limits."""
    from tests.support.service import make_app

    return make_app(tiny_weights)


@pytest.fixture(scope="session")
def client(application: FastAPI) -> Iterator[TestClient]:
    """A client of that application, once it is ready."""
    from starlette.testclient import TestClient

    from tests.support.service import ready

    with TestClient(application) as client:
        ready(client)
        yield client
