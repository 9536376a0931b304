"""Training of baselines by the same trainer: stages, patterns, resumption, references."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.baselines.base import NeuralBaseline
from model.baselines.mmin import MMIN
from model.baselines.references import LateFusion
from model.baselines.systems import BASELINES, Network
from model.baselines.transm import TransM
from model.config import System
from model.errors import ConfigError
from model.modality import SUBSETS, ModalitySet
from model.training.batches import BatchSource
from model.training.progress import FitReport
from model.training.settings import TrainingSettings
from model.training.trainer import stage_settings
from model.training.training_state import load_state, with_prefix
from tests.support.baselines import CONFIG, NEURAL, config_of
from tests.support.training import Toy, make_trainer, toy

CORPUS, FEATURES = toy(train=32, val=12, config=CONFIG)


def fit(
    folder: Path, system: System, corpus: Toy = CORPUS, *, resume: bool = False, **settings: Any
) -> tuple[Network, FitReport]:
    given: dict[str, Any] = {"baseline_epochs": 2, **settings}
    return make_trainer(folder, corpus, FEATURES, config=config_of(system), **given).fit(resume=resume)


def drawn(settings: TrainingSettings) -> set[ModalitySet]:
    """The subsets present in three epochs of a stage."""
    source = BatchSource(CONFIG, settings, FEATURES, seed=0)
    batches = [item.batch for epoch in range(3) for item in source.epoch(CORPUS.examples("train"), epoch)]
    return {ModalitySet.from_mask(row) for batch in batches for row in batch.present.tolist()}


def test_emmr_has_one_stage_with_the_given_settings() -> None:
    settings = TrainingSettings()
    assert stage_settings("emmr", settings) == [settings]
    assert stage_settings("late-fusion", settings) == []


@pytest.mark.parametrize("system", NEURAL)
def test_a_stage_has_the_schedule_of_its_source(system: System) -> None:
    settings = TrainingSettings(patience=3, select_epoch=False)
    baseline = BASELINES[system]
    assert issubclass(baseline, NeuralBaseline)
    for stage, own in zip(baseline.stages, stage_settings(system, settings), strict=True):
        assert (own.epochs, own.learning_rate, own.weight_decay) == (
            stage.epochs, stage.learning_rate, stage.weight_decay,
        )  # fmt: skip
        assert own.patience == (stage.patience or 3)
        assert own.select_epoch
        assert own.batch_size == (stage.batch_size or settings.batch_size)
        shares = (1.0, 0.0) if stage.complete else (settings.complete_share, settings.one_missing_share)
        assert (own.complete_share, own.one_missing_share) == shares


@pytest.mark.parametrize("system", ["mmin", "tate", "ae", "cra"])
def test_the_last_stage_sees_six_patterns_and_complete_input(system: System) -> None:
    first, last = stage_settings(system, TrainingSettings())
    assert drawn(first) == {SUBSETS[0]}
    assert drawn(last) == set(SUBSETS)


def test_a_separable_corpus_is_learned_by_late_fusion(tmp_path: Path) -> None:
    network, report = fit(tmp_path, "late-fusion")
    assert isinstance(network, LateFusion)
    assert not network.training
    assert report.by_pattern.keys() == {s.name for s in SUBSETS}
    assert min(report.by_pattern.values()) > 0.9
    assert report.best_epoch == 1


def test_a_separable_corpus_is_learned_by_a_network(tmp_path: Path) -> None:
    _, report = fit(tmp_path, "ae", baseline_epochs=6)
    assert report.best_macro_f1 > 0.9


def test_a_stage_starts_from_the_best_epoch_before_it(tmp_path: Path) -> None:
    stopped = Toy(CORPUS.parts, fail_at=2)  # after both epochs of the first stage
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, "mmin", stopped)
    state = load_state(tmp_path / "seed-0")
    assert state is not None
    best = with_prefix(state[0], "best.encoder.")
    network, _ = fit(tmp_path, "mmin", resume=True)
    assert isinstance(network, MMIN)
    assert all(torch.equal(value, best[name]) for name, value in network.frozen.state_dict().items())


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_run_resumed_in_any_stage_equals_an_uninterrupted_one(tmp_path: Path, stopped_after: int) -> None:
    whole, report = fit(tmp_path / "whole", "tate")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "torn", "tate", Toy(CORPUS.parts, fail_at=stopped_after))
    rest = Toy(CORPUS.parts)
    resumed, same = fit(tmp_path / "torn", "tate", rest, resume=True)
    assert rest.redraws == 4 - stopped_after
    assert report == same
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_a_stage_that_stops_early_is_not_repeated(tmp_path: Path) -> None:
    brief: dict[str, Any] = {"baseline_epochs": 4, "patience": 1}  # AE learns the corpus in fewer
    corpus = Toy(CORPUS.parts)
    _, report = fit(tmp_path, "ae", corpus, **brief)
    assert corpus.redraws < 8
    untouched = Toy(CORPUS.parts, fail_at=0)
    assert fit(tmp_path, "ae", untouched, resume=True, **brief)[1] == report


def test_a_run_of_one_system_is_not_resumed_as_another(tmp_path: Path) -> None:
    fit(tmp_path, "ae", baseline_epochs=1)
    with pytest.raises(ConfigError, match="another recipe"):
        fit(tmp_path, "cra", baseline_epochs=1, resume=True)


def test_the_rate_of_a_baseline_is_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.Adam.step

    def record(optimiser: torch.optim.Adam) -> None:
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    fit(tmp_path, "transm", baseline_epochs=1)
    assert rates == [TransM.stages[0].learning_rate] * 2  # 32 examples in batches of 16
