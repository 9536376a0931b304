import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig
from model.errors import CorpusError
from model.modality import SUBSETS
from model.pipeline import Pipeline
from model.training.crossfit import FOLDS
from model.training.evaluation import evaluate
from model.training.settings import Recipe
from model.training.speech_slots import speech_slots
from model.training.weights import PARTS, build, main
from tests.support.corpus import write_composite2
from tests.support.network import random_utterances
from tests.support.shared import folder_built_once
from tests.support.training import CONFIG, tiny_training

RECIPE = Recipe(
    model=ModelConfig.model_validate({**CONFIG.model_dump(), "name": "miniature"}),
    training=tiny_training(epochs=1, guidance_epochs=0, teacher=True, expert_steps=5, verdict_steps=20),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, feature_cache: Path) -> Path:
    """Weights of two seeds, built with one process at a time."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.cpu_count", lambda: 1)
            patch.setattr("model.training.weights.speech_slots", partial(speech_slots, sounds=6))
            patch.setattr("model.training.evaluate_split.evaluate", partial(evaluate, resamples=20))
            data = write_composite2(folder / "data", rounds=1)
            build(data, folder / "out", folder / "work", feature_cache, (0, 1), resume=True, recipe=RECIPE)

    return folder_built_once(tmp_path_factory, "weights", fill)


@pytest.fixture(scope="module")
def results(built: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((built / "out" / "results.json").read_text(encoding="utf-8"))
    return content


def test_the_best_seed_on_validation_is_shipped(results: dict[str, Any]) -> None:
    validated = {seed: run["validation"]["best_macro_f1"] for seed, run in results["seeds"].items()}
    assert validated.keys() == {"0", "1"}
    assert validated[str(results["seed"])] == max(validated.values())
    assert results["recipe"] == RECIPE.model_dump(mode="json")


def test_every_seed_is_evaluated_on_every_part(results: dict[str, Any]) -> None:
    assert results["test"] == results["seeds"][str(results["seed"])]["test"]
    for run in results["seeds"].values():
        assert run["test"].keys() == {f"{corpus} {split}" for corpus, split in PARTS}
        assert all(evaluation["patterns"].keys() == {s.name for s in SUBSETS} for evaluation in run["test"].values())
        assert all(evaluation["n"] > 0 for evaluation in run["test"].values())


def test_a_network_is_trained_for_each_seed_and_fold(built: Path) -> None:
    trained = {path.parent.relative_to(built / "work").as_posix() for path in built.rglob("best.safetensors")}
    assert trained == {"seed-0", "seed-1", *(f"fold-{fold}/seed-0" for fold in range(FOLDS))}


def test_the_weights_decide_on_every_subset_with_a_verdict(built: Path, results: dict[str, Any]) -> None:
    pipeline = Pipeline.load(built / "out", "cpu")
    assert pipeline.checkpoint.version == results["version"]
    reliability = pipeline.checkpoint.reliability
    assert bool(reliability.verdict.fitted)
    assert bool(reliability.speech_fitted)
    decisions = pipeline.decide(random_utterances(pipeline.config, SUBSETS))
    for subset, decision in zip(SUBSETS, decisions, strict=True):
        assert sum(decision.probabilities) == pytest.approx(1)
        assert tuple(decision.key_by_modality) == subset.missing
        assert decision.threshold in reliability.threshold.tolist()


def test_the_card_covers_every_part_and_both_seeds(built: Path) -> None:
    card = (built / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# miniature\n")
    for corpus, split in PARTS:
        assert f"## {corpus} {split}: mean ± standard deviation of 2 seeds" in card
    assert card.count("shipped |") == 1


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"au_mean\.csv: cannot be read"):
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert not (tmp_path / "out").exists()


def test_the_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(["--help"])
    assert finished.value.code == 0
    output = capsys.readouterr().out
    assert all(option in output for option in ("--data", "--out", "--work", "--cache", "--seeds", "--resume"))
