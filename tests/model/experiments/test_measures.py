import csv
import io
from pathlib import Path

import numpy as np
import pytest

from model.experiments.measures import NOT_RUN, Measures, spread
from tests.support.experiments import write_cell


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> Measures:
    work = tmp_path_factory.mktemp("work")
    return Measures([write_cell(work, "mosi", "emmr", seed) for seed in (0, 1)] + [write_cell(work, "mosi", "mctn")])


def test_every_row_names_its_cell(measures: Measures) -> None:
    rows = list(csv.DictReader(io.StringIO(measures.csv())))
    assert {(row["corpus"], row["variant"], row["seed"]) for row in rows} == {
        ("mosi", "emmr", "0"), ("mosi", "emmr", "1"), ("mosi", "mctn", "0"),
    }  # fmt: skip
    assert {row["config_hash"] for row in rows} == {"0123456789abcdef"}
    assert {row["commit"] for row in rows} == {"c" * 12}
    assert {row["protocol"] for row in rows} == {
        "rates", "subsets", "validation", "key-missing", "reconstruction", "gate", "losses", "time", "cost",
    }  # fmt: skip


def test_figures_equal_those_of_the_file(measures: Measures) -> None:
    rows = csv.DictReader(io.StringIO(measures.csv()))
    key = ("mosi", "emmr", "test", "rates", "0.3", "macro_f1")
    names = ("corpus", "variant", "split", "protocol", "condition", "metric")
    found = [float(row["value"]) for row in rows if tuple(row[name] for name in names) == key]
    assert found == measures.values(*key)
    assert measures.mean(*key) == pytest.approx(np.mean(found))


def test_a_condition_without_cells_has_no_mean(measures: Measures) -> None:
    assert measures.mean("mosi", "tate", "test", "rates", "0.3", "macro_f1") is None
    assert spread(measures.values("mosi", "tate", "test", "rates", "0.3", "macro_f1")) == NOT_RUN


def test_the_deviation_is_that_of_a_sample() -> None:
    assert spread([0.5, 0.52]) == "51.00 ± 1.41"
    assert spread([0.5]) == "50.00"
    assert spread([1234.5], 1, 1) == "1,234.5"


def test_epochs_keep_their_order(measures: Measures) -> None:
    assert measures.conditions("mosi", "emmr", "train", "losses", "forward") == ["1", "2", "3"]


def test_two_class_f1_leaves_out_neutral_items(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "mosi", "emmr", items=200)
    answers = cell.answers()
    truth = answers["test_labels"]
    signed = truth != 1
    right = (answers["test_answers"][0][signed].take([0, 2], axis=1).argmax(axis=1) * 2) == truth[signed]
    (f1,) = Measures([cell]).values("mosi", "emmr", "test", "subsets", "text+audio+visual", "two_class_f1")
    assert f1 == pytest.approx(right.mean(), abs=0.02)  # of nearly equal classes


def test_other_classes_have_no_two_class_f1(tmp_path: Path) -> None:
    measures = Measures([write_cell(tmp_path, "composite-4", "emmr", classes="abcd")])
    assert not measures.values("composite-4", "emmr", "test", "rates", "0.0", "two_class_f1")
    assert measures.values("composite-4", "emmr", "test", "rates", "0.0", "macro_f1")
