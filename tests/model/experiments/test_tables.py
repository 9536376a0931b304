import csv
from pathlib import Path

import pytest

from model.experiments import tables
from model.experiments.comparisons import SplitAnswers, compare, read_answers
from model.experiments.measures import NOT_RUN, Measures
from model.experiments.results import CellResult
from model.experiments.tables import Published
from model.training.report import ReportTable
from tests.support.experiments import write_cell

ANCHORS = Path(__file__).resolve().parents[4] / "shared" / "anchors"
TABLES = {"1": "systems", "2": "modules", "3": "ensembles", "4": "classes"}
PAPER_NAMES = {
    "V": "only-visual", "A": "only-audio", "T": "only-text", "V+A": "only-audio+visual", "V+T": "only-text+visual",
    "A+T": "only-text+audio", "V+A+T": "emmr", "-w/o Lforward": "no-forward", "-w/o Lbackward": "no-backward",
    "TF": "tf", "TF+AE": "tf+ae", "TF+MMIN": "tf+mmin", "Max": "maximum", "Average": "average", "Ours": "emmr",
    "TF+AE+MMIN": "emmr", "2-class": "composite-2", "4-class": "composite-4", "7-class": "composite-7",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[CellResult]:
    work = tmp_path_factory.mktemp("work")
    cells = [("emmr", 0), ("emmr", 1), ("mctn", 0), ("tate", 0), ("mmin", 0), ("tf", 0), ("only-text", 0)]
    return [write_cell(work, "mosi", variant, seed) for variant, seed in cells]


@pytest.fixture(scope="module")
def measures(results: list[CellResult]) -> Measures:
    return Measures(results)


@pytest.fixture(scope="module")
def answers(results: list[CellResult]) -> SplitAnswers:
    found = read_answers(results, "mosi", "test")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def published() -> Published:
    return Published.load()


def row(table: ReportTable, name: str) -> list[str]:
    (found,) = (cells for cells in table.rows if cells[0] == name)
    assert all(len(cells) == len(table.headers) for cells in table.rows)
    return found


def read(name: str) -> list[dict[str, str]]:
    if not (ANCHORS / name).is_file():
        pytest.skip(f"the published figures are checked against ../shared/anchors/{name}")
    with (ANCHORS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_papers_figures_are_typed_in_without_error(published: Published) -> None:
    rows = read("paper_tables.csv")
    for cell in rows:
        if cell["table"] == "8":
            metric = cell["metric"].partition("_")[0]
            found = published.paper["seconds"].at(PAPER_NAMES[cell["row"]], metric, cell["missing_rate_or_gpu"])
            assert found == cell["value"]
            continue
        table = "iemocap" if (cell["table"], cell["dataset"]) == ("1", "IEMOCAP") else TABLES[cell["table"]]
        name = PAPER_NAMES.get(cell["row"], cell["row"].lower())
        found = published.paper[table].at(name, cell["metric"], str(float(cell["missing_rate_or_gpu"])))
        assert found == f"{cell['value']} ± {cell['sd']}", cell
    assert len(rows) == 330


def test_figures_of_later_methods_are_typed_in_without_error(published: Published) -> None:
    subsets = {"l": "text", "a": "audio", "v": "visual", "la": "text+audio", "lv": "text+visual", "av": "audio+visual"}
    later = published.later
    for cell in read("mosi_missing_modality_sota.csv"):
        if cell["protocol"] == "fixed":
            found = later["subsets"].at(cell["method"], "", subsets.get(cell["setting"], "mean"))
            assert found == cell["F1"], cell
        elif cell["protocol"] == "random_MR":
            conditions = cell["setting"].split("|") if "|" in cell["setting"] else ["mean"]
            assert [later["rates"].at(cell["method"], "", c) for c in conditions] == cell["F1"].split("|"), cell
        else:
            name = cell["method"] + (", area 0.1 to 1.0" if "AUILC" in cell["setting"] else "")
            found = " ".join(later["tokens"].rows[name][""])
            assert found == f"{cell['F1'] or '–'} {cell['Acc2_negpos']} {cell['Acc2_negnonneg']}", cell


def test_rates_stand_beside_published_figures(measures: Measures, published: Published) -> None:
    macro_f1, accuracy = tables.by_rate(measures, tables.system_rows("mosi"), published=published.paper["systems"])
    assert row(macro_f1, "EMMR, published")[2] == "68.08 ± 0.78"
    assert row(accuracy, "TATE, published")[-1] == "73.82 ± 1.44"
    assert row(macro_f1, "EMMR")[1] == "2"
    assert "±" in row(macro_f1, "EMMR")[2]
    assert "±" not in row(macro_f1, "MCTN")[2]
    assert row(macro_f1, "CRA")[1:3] == [NOT_RUN, "–"]


def test_the_best_mean_of_a_column_is_bold(measures: Measures) -> None:
    (table, _) = tables.by_subset(measures, "mosi", "test", "title")
    for column in range(2, len(table.headers)):
        cells = [cells[column] for cells in table.rows if cells[column] != "–"]
        best = max(cells, key=lambda text: float(text.strip("*").split()[0]))
        assert [text for text in cells if text.startswith("**")] == [best]


def test_of_errors_the_lowest_is_bold(measures: Measures) -> None:
    table, _ = tables.calibration(measures, "mosi", "test", "title")
    cells = [cells[2] for cells in table.rows if cells[2] != "–"]
    best = min(cells, key=lambda text: float(text.strip("*").split()[0]))
    assert [text for text in cells if text.startswith("**")] == [best]


def test_a_system_given_text_alone_has_no_other_subset(measures: Measures) -> None:
    table = tables.by_condition(
        measures, "", [("text", "mosi", "only-text")], "subsets", "macro_f1", {"audio": "audio"}
    )
    assert table.rows == [["text", NOT_RUN, "–"]]


def test_differences_show_interval_and_sign(answers: SplitAnswers) -> None:
    names = dict.fromkeys(answers.decisions, "") | {"emmr": "EMMR", "mctn": "MCTN"}
    table = tables.differences(list(compare(answers, 50)), "macro_f1", names)
    cells = row(table, "EMMR − MCTN")
    assert len(cells) == 9
    assert cells[1].startswith("▲ +")
    assert cells[1].endswith("]")


def test_cases_follow_their_rule(answers: SplitAnswers) -> None:
    found = tables.cases(answers)
    assert found is not None
    table, (won, lost, total), seed = found
    assert total == 180
    assert seed == 0
    at = {header: column for column, header in enumerate(table.headers)}
    marks = [[cells[at[name]][0] for name in ("EMMR", "TATE", "MMIN")] for cells in table.rows]
    first = min(tables.CASES, won)
    assert all(mark == ["✓", "✗", "✗"] for mark in marks[:first])
    assert all(mark == ["✗", "✓", "✓"] for mark in marks[first:])
    assert won > 0
    assert lost > 0
    ids = [cells[0] for cells in table.rows[:first]]
    assert ids == sorted(ids)


def test_cases_need_all_three_systems(results: list[CellResult]) -> None:
    answers = read_answers([result for result in results if result.variant != "mmin"], "mosi", "test")
    assert answers is not None
    assert tables.cases(answers) is None


def test_later_methods_stand_below_ours(measures: Measures, published: Published) -> None:
    by_rate = tables.later(measures, "mosi", published.later["rates"], "rates")
    assert row(by_rate, "CyIN, published")[2:4] == ["84.6", "83.0"]
    assert row(by_rate, "EMMR")[-3:] == ["–", "–", "–"]
    by_subset = tables.later(measures, "mosi", published.later["subsets"], "subsets")
    assert "±" in row(by_subset, "EMMR")[-1]
    assert row(by_subset, "CRA")[1] == NOT_RUN


def test_remaining_tables_show_what_was_run(
    measures: Measures, results: list[CellResult], published: Published
) -> None:
    assert row(tables.seconds(measures, "mosi", published.paper["seconds"]), "TF")[-1] == "24.10"
    assert row(tables.cost(measures, "mosi"), "EMMR")[2] == "4,000"
    assert row(tables.cost(measures, "mosi"), "AE")[1] == NOT_RUN
    ranked = tables.key_missing(measures, "mosi")
    assert [cells[2] for cells in ranked.rows if cells[0] == "EMMR"] == ["1 − max", "entropy", "verdict"]
    assert [cells[1] for cells in ranked.rows if cells[0] == "AE"] == [NOT_RUN]
    similar = tables.reconstruction(measures, [("EMMR", "mosi", "emmr"), ("none", "mosi", "mctn")])
    assert row(similar, "EMMR")[2] == "0.800 ± 0.000"
    assert row(similar, "none")[1] == NOT_RUN
    counted = tables.runs(results, {"mosi": "CMU-MOSI", "composite": "Composite"})
    assert row(counted, "CMU-MOSI")[1:4] == ["7", "6", "0, 1"]
    assert row(counted, "Composite")[1] == NOT_RUN
