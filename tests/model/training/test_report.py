import copy
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from model.modality import Modality
from model.training.decision_table import Item
from model.training.evaluation import Evaluation, evaluate
from model.training.report import ReportTable, markdown, tables, write_json
from tests.support.predictor import CLASSES, ITEMS, Judged, Strongest, item


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(Judged(), ITEMS, CLASSES, resamples=20)


def shown(evaluation: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=160, record=True)
    for table in tables(evaluation):
        console.print(table)
    return console.export_text()


def test_json_holds_the_whole_evaluation(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "reports" / "out.json"
    write_json(evaluation, path)
    assert json.loads(path.read_text(encoding="utf-8")) == evaluation
    assert [child.name for child in path.parent.iterdir()] == ["out.json"]


def test_tables_show_every_protocol(evaluation: Evaluation) -> None:
    text = shown(evaluation)
    for title in (
        "By what is present", "By missing rate", "what carries the label", "of 9 steps", "Key missing modality",
        "The decision changes", "Scores for a key missing", "Score minus 1", "Named first", "Score of each missing",
        "Gate, over", "Gate, differences",
    ):  # fmt: skip
        assert title in text
    row = next(line for line in text.splitlines() if "text+audio+visual" in line and "0.5556" in line)
    assert "0.7500" in row
    assert re.search(r"by the paper.s rule │ +16.7% │", text)


def test_json_has_a_line_for_each_list_of_figures(evaluation: Evaluation, tmp_path: Path) -> None:
    write_json(evaluation, tmp_path / "out.json")
    lines = (tmp_path / "out.json").read_text(encoding="utf-8").splitlines()
    assert '      "confusion": [[1, 0, 0], [0, 1, 0], [0, 1, 1]],' in lines
    assert max(map(len, lines)) < 1000


def test_corpora_have_tables_and_their_names_are_not_markup() -> None:
    voice = item("a", 0, {Modality.AUDIO: 0})
    items = [Item("a", 0, voice.utterance, origins={Modality.AUDIO: "[red]odd[/red]"})]
    text = shown(evaluate(Judged(), items, CLASSES))
    assert "By corpus, a single modality" in text
    assert "Decisions by corpus and true class" in text
    assert "[red]odd[/red]" in text
    assert "By missing rate" not in text


def test_what_was_not_measured_has_no_table() -> None:
    text = shown(evaluate(Strongest(), [item("a", 0, {Modality.TEXT: 0})], CLASSES))
    assert "Gate" not in text
    assert "Key missing" not in text
    assert "carries the label" not in text
    assert "–" in text


def test_cells_are_formatted_by_their_type() -> None:
    interval = {"difference": 0.1, "low": -0.25, "high": 0.5}
    columns = {"name": "name", "none": "none", "count": "n", "figure": "x", "share": "x:.1%", "interval": "parts[y]"}
    row = {"name": "{n}", "none": None, "n": 3, "x": 0.25, "parts": {"y": interval}}
    table = ReportTable.of("title", columns, [row])
    assert table.rows == [["{n}", "–", "3", "0.2500", "25.0%", "+0.100 [-0.250, +0.500]"]]
    assert list(table.markdown("---:"))[1:] == [
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| {n} | – | 3 | 0.2500 | 25.0% | +0.100 [-0.250, +0.500] |",
    ]


def test_markdown_of_one_run_shows_its_figures(evaluation: Evaluation) -> None:
    lines = markdown([evaluation]).splitlines()
    assert lines[0] == "| Present | Macro-F1 | Accuracy | Calibration error | Items |"
    assert lines[2].startswith("| text+audio+visual | 0.556 | 0.750 | ")
    assert "| 0.0 | 0.556 | 0.750 | 4 |" in lines
    assert len(lines) == 2 + 7 + 1 + 2 + 6 + 1 + 2 + 3


def test_markdown_of_several_runs_shows_mean_and_deviation(evaluation: Evaluation) -> None:
    other = copy.deepcopy(evaluation)
    other["patterns"]["text+audio+visual"]["accuracy"] = 0.65
    assert "| text+audio+visual | 0.556 ± 0.000 | 0.700 ± 0.071 | " in markdown([evaluation, other])


def test_markdown_marks_patterns_without_items() -> None:
    text = markdown([evaluate(Strongest(), [item("a", 0, {Modality.TEXT: 0})], CLASSES)])
    assert "| visual | – | – | – | 0 |" in text


def test_runs_of_other_items_are_not_averaged(evaluation: Evaluation) -> None:
    with pytest.raises(ValueError, match="not of the same items"):
        markdown([evaluation, evaluate(Strongest(), ITEMS[:2], CLASSES)])


def test_markdown_without_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no evaluation to show"):
        markdown([])


def test_scores_of_a_regression_have_a_table() -> None:
    items = [replace(item, score=score) for item, score in zip(ITEMS, (1.0, 1.0, 0.0, -1.0), strict=True)]
    scored = evaluate(Strongest(), items, ("-1", "0", "1"), resamples=20)
    table = next(table for table in tables(scored) if table.title == "Scores, by what is present")
    assert table.headers[:3] == ["present", "MAE", "r"]
    assert next(row for row in table.rows if row[0] == "audio")[1] == "0.4000"
    assert "Scores, by what" not in shown(evaluate(Strongest(), ITEMS, CLASSES, resamples=20))
