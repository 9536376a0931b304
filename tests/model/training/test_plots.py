import base64
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from model.errors import ConfigError
from model.modality import Modality
from model.training import plots
from model.training.decision_table import Item
from model.training.evaluation import Evaluation, evaluate
from model.training.plots import check_packages, write_report
from model.training.progress import FitReport
from model.training.report import ReportTable, tables
from tests.support.predictor import CLASSES, ITEMS, Judged, item

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(Judged(), ITEMS, CLASSES, resamples=20)


def page(evaluation: Evaluation, folder: Path, title: str = "title") -> str:
    write_report(evaluation, folder / "reports" / "out.html", title)
    assert [child.name for child in (folder / "reports").iterdir()] == ["out.html"]
    return (folder / "reports" / "out.html").read_text(encoding="utf-8")


def test_the_report_is_one_file_that_loads_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    html = page(evaluation, tmp_path)
    sources = re.findall(r"(?:src|href)=\"([^\"]{1,30})", html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import", html)


def test_the_report_shows_diagrams_confusion_and_every_table(evaluation: Evaluation, tmp_path: Path) -> None:
    html = page(evaluation, tmp_path)
    for heading in ("Reliability by what is present", "precision and recall", "reliability of the score", "Confusion"):
        assert heading in html
    assert html.count("<caption>") == 7
    for table in tables(evaluation):
        assert f"<h2>{table.title}</h2>".replace("'", "&#39;") in html
    for figure in re.findall(r"base64,([^\"]+)", html):
        assert b"<svg" in base64.b64decode(figure)


def test_equal_evaluations_give_equal_reports(evaluation: Evaluation, tmp_path: Path) -> None:
    assert page(evaluation, tmp_path / "a") == page(evaluation, tmp_path / "b")


def test_names_of_corpora_classes_and_kinds_are_escaped(tmp_path: Path) -> None:
    items = [
        Item(name, 0, item(name, 0, {Modality.AUDIO: 0}).utterance, origins={Modality.AUDIO: origin})
        for name, origin in (("a", MARKUP), ("b", "$x_$"))
    ]
    html = page(evaluate(Judged(), items, (MARKUP, "{{ classes }}", "$y$")), tmp_path, MARKUP)
    assert "<script" not in html
    assert "{{ classes }}" in html
    assert "Reliability by corpus" in html
    assert "1 &lt;script&gt;alert(1)&lt;/script&gt;, 2 $x_$" in html or "1 $x_$, 2 &lt;script&gt;" in html


def test_without_complete_items_the_report_has_no_verdict(tmp_path: Path) -> None:
    html = page(evaluate(Judged(), [item("a", 0, {Modality.TEXT: 0})], CLASSES, resamples=20), tmp_path)
    assert "Reliability by what is present" in html
    assert "Key missing" not in html


def test_without_a_key_modality_there_is_no_curve(tmp_path: Path) -> None:
    html = page(evaluate(Judged(), [ITEMS[1]], CLASSES, resamples=20), tmp_path)
    assert "precision and recall" in html


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_package_not_installed_is_named_with_its_extra(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'emmr\[train\]'"):
        check_packages()
    with pytest.raises(ConfigError, match=package):
        write_report(evaluation, tmp_path / "out.html", "title")
    assert not (tmp_path / "out.html").exists()


def test_the_course_of_a_training_is_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    course = FitReport(2, 0.6, {}, [0.5, 0.6, 0.55], [{"total": 1.0}, {"total": 0.5}, {"total": 0.25}])
    table = ReportTable("Compared", ["system"], [["EMMR"]])
    write_report(evaluation, tmp_path / "out.html", "t", course, ["a note <b>"], [table])
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert html.index("a note &lt;b&gt;") < html.index("Course of the training") < html.index("<h2>Compared</h2>")
    first = base64.b64decode(re.findall(r"base64,([^\"]+)", html)[0])
    assert b"<svg" in first
    assert len(re.findall(r"data:image/svg", html)) == 4


def test_without_epochs_no_course_is_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path / "out.html", "t", FitReport(1, 0.6, {}, [0.6]))
    assert "Course of the training" not in (tmp_path / "out.html").read_text(encoding="utf-8")
