"""Training: convergence, reproducibility, early stopping and exact resumption."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from model.errors import ConfigError
from model.modality import SUBSETS, Modality
from model.network.emmr import EMMR
from model.training.progress import FitReport
from model.training.teacher import fit_teacher
from model.training.trainer import Trainer
from model.training.training_state import load_state, with_prefix
from tests.support.training import CONFIG, Toy, make_trainer, toy

CORPUS, FEATURES = toy()


def trainer(folder: Path, corpus: Toy = CORPUS, **options: Any) -> Trainer:
    return make_trainer(folder, corpus, FEATURES, **options)


def fit(folder: Path, corpus: Toy = CORPUS, *, resume: bool = False, **settings: Any) -> tuple[EMMR, FitReport]:
    network, report = trainer(folder, corpus, **settings).fit(resume=resume)
    assert isinstance(network, EMMR)
    return network, report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EMMR, FitReport]:
    """The folder and the result of a run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, *fit(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EMMR, FitReport]:
    """As `finished`, of four epochs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, *fit(folder, epochs=4)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "seed-0" / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same(one: EMMR, other: EMMR) -> None:
    states: list[dict[str, Tensor]] = [one.state_dict(), other.state_dict()]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_separable_corpus_is_learned_from_every_subset(tmp_path: Path, device: str) -> None:
    network, report = fit(tmp_path, epochs=6, learning_rate=1e-2, device=device)
    assert report.by_pattern.keys() == {s.name for s in SUBSETS}
    assert min(report.by_pattern.values()) > 0.9
    assert not network.training
    recorded = scalars(tmp_path)
    for name, left in (("transformer", 0.5), ("ensemble", 0.5), ("auxiliary", 0.8), ("backward", 1.0)):
        values = [value for _, value in recorded[f"loss/{name}"]]
        assert values[-1] < left * values[0], name


def test_the_network_of_the_best_epoch_is_returned(tmp_path: Path) -> None:
    made = trainer(tmp_path, epochs=6, learning_rate=3e-2, patience=6)
    network, report = made.fit()
    assert report.best_macro_f1 == max(report.history) == report.history[report.best_epoch - 1]
    assert made.validate(network) == report.by_pattern


def test_the_averaged_parameters_are_validated_and_stored(tmp_path: Path) -> None:
    stopped = Toy(CORPUS.parts, fail_at=2)  # after the guidance network's epoch and one of thirty
    slow: dict[str, Any] = {
        "warmup": 0,
        "batch_size": 4,
        "average_decay": 0.95,
        "learning_rate": 2e-3,
        "encoder_rate": 0.1,
    }
    made = trainer(tmp_path, stopped, epochs=30, **slow)  # so slow that the two decide differently after one epoch
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    state = load_state(tmp_path / "seed-0")
    assert state is not None
    tensors, facts = state
    kept, last = EMMR(CONFIG), EMMR(CONFIG)
    kept.load_state_dict(with_prefix(tensors, "best."))
    last.load_state_dict(with_prefix(tensors, "network."))
    assert made.validate(kept) == facts["report"]["by_pattern"]
    assert made.validate(last) != facts["report"]["by_pattern"]


def test_weights_depend_on_the_seed_only(finished: tuple[Path, EMMR, FitReport], tmp_path: Path) -> None:
    _, first, report = finished
    again, same = fit(tmp_path / "b")
    assert_same(first, again)
    assert report == same
    other, _ = fit(tmp_path / "c", seed=1)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    uninterrupted: tuple[Path, EMMR, FitReport], tmp_path: Path, stopped_after: int
) -> None:
    folder, whole, report = uninterrupted
    with pytest.raises(KeyboardInterrupt):  # one draw is the guidance network's epoch
        fit(tmp_path / "torn", Toy(CORPUS.parts, fail_at=1 + stopped_after), epochs=4)
    state = load_state(tmp_path / "torn" / "seed-0")
    assert state is not None
    assert state[1]["epoch"] == stopped_after
    rest = Toy(CORPUS.parts)
    resumed, same = fit(tmp_path / "torn", rest, resume=True, epochs=4)
    assert rest.redraws == 4 - stopped_after
    assert_same(whole, resumed)
    assert report == same
    assert scalars(tmp_path / "torn") == scalars(folder)


def test_a_run_interrupted_in_its_first_epoch_starts_anew(
    finished: tuple[Path, EMMR, FitReport], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "torn", Toy(CORPUS.parts, fail_at=1))
    _, whole, _ = finished
    resumed, _ = fit(tmp_path / "torn", resume=True)
    assert_same(whole, resumed)


def test_resuming_a_finished_run_returns_its_result(finished: tuple[Path, EMMR, FitReport]) -> None:
    folder, network, report = finished
    untouched = Toy(CORPUS.parts, fail_at=0)
    again, same = fit(folder, untouched, resume=True)
    assert_same(network, again)
    assert report == same


def test_a_run_starts_anew_unless_resumed(finished: tuple[Path, EMMR, FitReport], tmp_path: Path) -> None:
    folder, first, _ = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    fresh = Toy(CORPUS.parts)
    again, _ = fit(tmp_path, fresh)
    assert fresh.redraws == 3
    assert_same(first, again)


@pytest.mark.parametrize("change", [{"epochs": 3}, {"learning_rate": 3e-3}], ids=lambda c: next(iter(c)))
def test_a_run_is_not_resumed_with_another_recipe(
    finished: tuple[Path, EMMR, FitReport], change: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="another recipe"):
        fit(finished[0], resume=True, **change)


def test_training_stops_when_validation_does_not_improve(tmp_path: Path) -> None:
    corpus = Toy(CORPUS.parts)
    _, report = fit(tmp_path, corpus, epochs=10, patience=2, learning_rate=1e-12, guidance_epochs=0)
    assert report.best_epoch == 1
    assert len(report.history) == corpus.redraws == 3
    assert len(set(report.history)) == 1


def test_without_selection_the_last_epoch_is_kept(tmp_path: Path) -> None:
    _, report = fit(tmp_path, epochs=3, patience=1, learning_rate=1e-12, guidance_epochs=0, select_epoch=False)
    assert report.best_epoch == len(report.history) == 3


def test_scalars_are_written_for_every_epoch(tmp_path: Path) -> None:
    _, report = fit(tmp_path, epochs=3)
    recorded = scalars(tmp_path)
    parts = ("total", "transformer", "ensemble", "auxiliary", "modality", "forward", "backward")
    assert recorded.keys() == {
        "validation/macro_f1",
        *(f"validation/{s.name}" for s in SUBSETS),
        *(f"loss/{part}" for part in parts),
    }
    assert {tuple(step for step, _ in points) for points in recorded.values()} == {(1, 2, 3)}
    assert [value for _, value in recorded["validation/macro_f1"]] == pytest.approx(report.history)
    assert [value for _, value in recorded["loss/total"]] == pytest.approx([means["total"] for means in report.losses])


def test_the_guidance_network_is_stored(finished: tuple[Path, EMMR, FitReport]) -> None:
    folder, *_ = finished
    state = load_state(folder / "seed-0")
    assert state is not None
    assert any(name.startswith("guidance.") for name in state[0])
    assert all(value > 0 for _, value in scalars(folder)["loss/forward"])


@pytest.mark.parametrize(
    "without", [{"guidance_epochs": 0}, {"losses": {"forward_weight": 0}}], ids=["epochs", "weight"]
)
def test_a_run_without_guidance_can_be_resumed(tmp_path: Path, without: dict[str, Any]) -> None:
    network, _ = fit(tmp_path, **without)
    state = load_state(tmp_path / "seed-0")
    assert state is not None
    assert not any(name.startswith("guidance.") for name in state[0])
    assert {value for _, value in scalars(tmp_path)["loss/forward"]} == {0.0}
    assert_same(network, fit(tmp_path, resume=True, **without)[0])


def test_without_redrawing_the_fixed_pairs_are_used(tmp_path: Path) -> None:
    corpus = Toy(CORPUS.parts, fail_at=0)
    _, report = fit(tmp_path, corpus, redraw=False)
    assert len(report.history) == 2


def test_a_corpus_whose_examples_lack_modalities_trains(tmp_path: Path) -> None:
    corpus, features = toy(train=49, val=21, mixed=True)
    _, report = make_trainer(tmp_path, corpus, features, epochs=5, learning_rate=1e-2).fit()
    assert report.by_pattern.keys() == {s.name for s in SUBSETS}
    assert report.best_macro_f1 > 0.7


def test_without_visual_features_there_is_no_guidance_or_visual_score(
    tmp_path: Path,
) -> None:
    faces = {s for e in (*CORPUS.parts["train"], *CORPUS.parts["val"]) for m, s in e.sources.items() if m == "visual"}
    features = {s: x for s, x in FEATURES.items() if s not in faces}
    _, report = make_trainer(tmp_path, CORPUS, features).fit()
    assert report.by_pattern.keys() == {"text+audio", "text", "audio"}
    assert {value for _, value in scalars(tmp_path)["loss/forward"]} == {0.0}


def test_a_corpus_without_validation_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no validation examples"):
        trainer(tmp_path, Toy({"train": CORPUS.parts["train"]}))


def test_training_examples_without_features_are_rejected(tmp_path: Path) -> None:
    held = {s for e in CORPUS.parts["val"] for s in e.sources.values()}
    with pytest.raises(ConfigError, match="no training example with any features"):
        make_trainer(tmp_path, CORPUS, {s: FEATURES[s] for s in held})


def test_every_epoch_prints_its_scores(tmp_path: Path) -> None:
    console = Console(record=True, width=200, quiet=False, file=(tmp_path / "log").open("w", encoding="utf-8"))
    with console.file:
        trainer(tmp_path, console=console).fit()
        text = console.export_text()
    assert "epoch   1 * validation macro-F1" in text
    assert all(f"{m} " in text for m in Modality)


def test_soft_targets_replace_wrong_labels(tmp_path: Path) -> None:
    known = [replace(e, modality_labels=dict.fromkeys(e.sources, e.label)) for e in CORPUS.examples("train")]
    teacher = fit_teacher(Toy({"train": known, "val": known}), FEATURES, CONFIG, variants=0, steps=80)
    assert teacher is not None
    wrong = {"negative": "positive", "neutral": "negative", "positive": "neutral"}
    mislabelled = Toy({"train": [replace(e, label=wrong[e.label]) for e in known], "val": CORPUS.examples("val")})
    _, report = trainer(tmp_path, mislabelled, teacher=teacher, epochs=6, learning_rate=1e-2).fit()
    assert min(report.by_pattern.values()) > 0.8
