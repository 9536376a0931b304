"""The shipped weights' whole way, on a corpus of a hundred clips."""

import json
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.modality import SUBSETS
from model.pipeline import Pipeline
from model.training.corpora.composite import CompositeCorpus
from model.training.run import Workplace, prepare
from model.training.weights import build, main
from tests.support.network import random_utterances
from tests.support.training import tiny_recipe


def test_every_seed_is_trained_and_the_one_best_on_validation_is_shipped(
    composite_data: Path, place: Workplace, tmp_path: Path
) -> None:
    recipe = tiny_recipe(epochs=1, guidance_epochs=0)
    prepare(CompositeCorpus(composite_data), recipe, place)  # in this process: a few small clips are not worth others
    out = tmp_path / "weights"
    build(composite_data, out, tmp_path / "work", place.cache, (0, 1), resume=True, recipe=recipe)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    validated = {seed: run["validation"]["best_macro_f1"] for seed, run in results["seeds"].items()}
    assert validated.keys() == {"0", "1"}
    assert validated[str(results["seed"])] == max(validated.values())
    assert results["test"] == results["seeds"][str(results["seed"])]["test"]
    assert results["test"]["patterns"].keys() == {s.name for s in SUBSETS}
    assert results["recipe"]["training"]["epochs"] == 1

    pipeline = Pipeline.load(out, "cpu")
    assert pipeline.checkpoint.version == results["version"]
    assert "standard deviation of 2 seeds" in pipeline.checkpoint.card
    assert len(pipeline.decide(random_utterances(pipeline.config, SUBSETS))) == 7


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"au_mean\.csv: cannot be read"):
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(["--help"])
    assert finished.value.code == 0
    told = capsys.readouterr().out
    assert all(option in told for option in ("--data", "--out", "--work", "--cache", "--seeds", "--resume"))
