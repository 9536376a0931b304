"""`emmr train --engine ray`, compared with a training in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.training.commands import RUNS
from model.training.commands import train as train_one
from tests.model.training.test_commands import LACKING, manifest
from tests.support.training import tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]


def test_two_processes_have_the_metrics_of_one(address: str, tmp_path: Path) -> None:
    # Without dropout, class balance and rows of one modality, as in the test of `torchrun`, which says why.
    from app.ray.training import train

    data = manifest(tmp_path, {"train": 46, "val": 21}, lacks=LACKING[:-1])
    recipe = tiny_recipe(epochs=5, batch_size=15, learning_rate=2e-3, class_balance=0.0)
    network = recipe.model.network.model_copy(update={"dropout": 0.0})
    path = tmp_path / "recipe.json"
    path.write_text(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"network": network})}).model_dump_json(),
        encoding="utf-8",
    )
    arguments: dict[str, Any] = {
        "corpus": "manifest", "data": data, "config": path, "seed": 0, "epochs": None, "resume": False,
        "device": "cpu", "cache": tmp_path / "cache", "workers": 1,
    }  # fmt: skip
    assert train_one(out=tmp_path / "one" / "w", **arguments) == 0
    assert train(2, out=tmp_path / "two" / "w", **arguments) == 0
    alone, together = (
        json.loads((tmp_path / number / RUNS / "w" / "seed-0" / "state.json").read_text(encoding="utf-8"))["report"]
        for number in ("one", "two")
    )
    assert together["by_pattern"] == pytest.approx(alone["by_pattern"], abs=0.06)  # one of 21 items
    assert together["history"] == pytest.approx(alone["history"], abs=0.03)
