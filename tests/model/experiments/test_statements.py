from pathlib import Path

import numpy as np
import pytest

from model.experiments import statements
from model.experiments.comparisons import CONDITIONS, Comparison, SplitAnswers
from model.experiments.measures import Measures
from model.training.metrics import Interval
from tests.support.experiments import write_cell


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> Measures:
    work = tmp_path_factory.mktemp("work")
    return Measures([write_cell(work, "mosi", variant, items=100) for variant in ("emmr", "tate", "mctn")])


def test_a_better_system_is_named_with_both_figures(measures: Measures) -> None:
    text = statements.ranking(measures, "mosi", "test", "macro_f1")
    means = {
        system: measures.mean("mosi", system, "test", "subsets", "visual", "macro_f1") or 0.0
        for system in ("emmr", "tate", "mctn")
    }
    best = max(means, key=lambda system: means[system])
    given = f"with visual ({100 * means[best]:.2f} against {100 * means['emmr']:.2f})"
    assert text.startswith("macro-F1: the mean of EMMR is the highest in ")
    assert " of 12 conditions" in text
    assert (given in text) == (best != "emmr")


def test_of_errors_the_lowest_is_the_best(measures: Measures) -> None:
    text = statements.ranking(measures, "mosi", "test", "log_loss")
    assert text.startswith("log loss: the mean of EMMR is the lowest in ")
    assert " of 7 conditions" in text


def test_a_ranking_needs_emmr_and_another_system(tmp_path: Path) -> None:
    alone = Measures([write_cell(tmp_path, "mosi", "emmr")])
    assert statements.ranking(alone, "mosi", "test", "accuracy") == "accuracy: not run."


def test_the_answers_of_the_rarest_class_are_counted() -> None:
    decisions = {
        "emmr": np.stack([np.zeros((7, 4), np.int64), np.ones((7, 4), np.int64)]),
        "tate": np.full((1, 7, 4), 2),
    }
    decisions["tate"][:, 1:] = 1  # with a modality missing
    labels = np.array([0, 0, 1, 2])
    kept = np.zeros((6, 4), np.int64)
    answers = SplitAnswers("mosi", "test", ("low", "none", "high"), tuple("abcd"), labels, kept, decisions, {})
    text = statements.rarest_class(answers)
    assert "Items by class: low 2, none 1, high 1." in text
    assert text.endswith("none (25.0 % of the items) is answered by: EMMR 50.0 %, TATE 0.0 %.")


def test_every_outcome_of_a_difference_is_named() -> None:
    intervals = {1: Interval(0.1, 0.05, 0.2), 0: Interval(0.0, -0.1, 0.1), -1: Interval(-0.1, -0.2, -0.05)}
    outcomes = dict(zip(CONDITIONS, (1, 1, 0, 0, -1, -1, 1, 0), strict=True))
    found = [
        Comparison("emmr", "tate", condition, metric, intervals[outcome if metric == "macro_f1" else 0])
        for condition, outcome in outcomes.items()
        for metric in ("macro_f1", "accuracy")
    ]
    (text,) = statements.differences(found, {"emmr": "EMMR", "tate": "TATE"})
    assert text == (
        "EMMR minus TATE: higher at η = 0, 0.1, with one missing; lower at η = 0.4, 0.5; "
        "no difference at η = 0.2, 0.3, with two missing."
    )


def test_reconstruction_is_compared_with_the_training_mean(measures: Measures) -> None:
    rows = [("EMMR", "mosi", "emmr"), ("MCTN", "mosi", "mctn")]
    (text,) = statements.reconstruction(measures, rows)
    assert text == "EMMR: the network is nearer than the training mean for text, audio, visual, farther for none."
