from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError
from model.experiments.comparisons import (
    CONDITIONS,
    ENSEMBLE_PATH,
    TRANSFORMER_PATH,
    SplitAnswers,
    best_baseline,
    compare,
    read_answers,
)
from model.experiments.measures import Measures
from model.experiments.results import CellResult
from model.training.metrics import macro_f1, paired_bootstrap
from tests.support.experiments import write_cell

RESAMPLES = 50


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[CellResult]:
    work = tmp_path_factory.mktemp("work")
    cells = [("emmr", 0), ("emmr", 1), ("mctn", 0), ("tate", 0), ("no-forward", 0), ("only-text", 0)]
    return [write_cell(work, "mosi", variant, seed) for variant, seed in cells]


@pytest.fixture(scope="module")
def answers(results: list[CellResult]) -> SplitAnswers:
    found = read_answers(results, "mosi", "test")
    assert found is not None
    return found


def test_answers_have_the_shape_of_their_condition(answers: SplitAnswers) -> None:
    assert answers.at("emmr", "0.5").shape == (2, 60)
    assert answers.at("mctn", "two missing").shape == (3, 60)
    assert (answers.at("emmr", "0.0") == answers.decisions["emmr"][:, 0]).all()
    assert (answers.at("emmr", "0.5") != answers.decisions["emmr"][:, 0]).any()


def test_cells_with_some_modalities_alone_are_not_compared(answers: SplitAnswers) -> None:
    assert set(answers.decisions) == {"emmr", TRANSFORMER_PATH, ENSEMBLE_PATH, "mctn", "tate", "no-forward"}


def test_every_pair_has_every_condition_and_metric(answers: SplitAnswers) -> None:
    found = list(compare(answers, RESAMPLES))
    pairs = [("emmr", "mctn"), ("emmr", "tate"), ("emmr", "no-forward"), ("emmr", TRANSFORMER_PATH)]
    pairs += [("emmr", ENSEMBLE_PATH), (ENSEMBLE_PATH, TRANSFORMER_PATH)]
    assert {(c.first, c.second) for c in found} == set(pairs)
    assert len(found) == len(pairs) * len(CONDITIONS) * 2


def test_differences_are_those_of_means_over_seeds(answers: SplitAnswers) -> None:
    (found,) = (
        c
        for c in compare(answers, RESAMPLES)
        if (c.second, c.condition, c.metric) == ("mctn", "one missing", "macro_f1")
    )
    first, second = (
        np.mean([macro_f1(answers.labels, run) for run in answers.at(name, "one missing")]) for name in ("emmr", "mctn")
    )
    assert found.interval.difference == pytest.approx(first - second)
    alone = paired_bootstrap(
        answers.labels, answers.at("emmr", "one missing"), answers.at("mctn", "one missing"), resamples=RESAMPLES
    )
    assert found.interval == alone
    assert found.outcome == 1


def test_complete_items_take_the_transformer_path(answers: SplitAnswers) -> None:
    gates = [c for c in compare(answers, RESAMPLES) if c.second == TRANSFORMER_PATH and c.condition == "0.0"]
    assert len(gates) == 4
    assert all(c.interval.difference == c.outcome == 0 for c in gates)


def test_cells_of_different_items_are_refused(results: list[CellResult], tmp_path: Path) -> None:
    other = write_cell(tmp_path, "mosi", "mmin", items=61)
    with pytest.raises(ConfigError, match="evaluated on different items") as caught:
        read_answers([*results, other], "mosi", "test")
    assert str(other.folder) in str(caught.value)


def test_a_part_without_cells_has_no_answers(results: list[CellResult]) -> None:
    assert read_answers(results, "mosi", "ood") is None
    assert read_answers(results, "composite2", "test") is None


def test_without_emmr_nothing_is_compared(tmp_path: Path) -> None:
    answers = read_answers([write_cell(tmp_path, "mosi", "mctn")], "mosi", "test")
    assert answers is not None
    assert not list(compare(answers, RESAMPLES))


def test_the_best_baseline_is_chosen_on_validation_data(results: list[CellResult]) -> None:
    assert best_baseline(Measures(results), "mosi") == "tate"
    assert best_baseline(Measures(results[:2]), "mosi") is None
