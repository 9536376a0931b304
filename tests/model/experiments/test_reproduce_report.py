import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from model.errors import ConfigError
from model.experiments.reproduce_report import write_reproduction
from model.experiments.results import load_results
from model.training import plots
from tests.support.experiments import write_cell

FILES = ["index.html", "report.md", "runs.csv"]


class Checker(HTMLParser):
    """Collects ids and links, and checks that elements are closed in order."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.targets += [(found["href"] or "")[1:]] if tag == "a" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("out")
    for variant, seed in (("emmr", 0), ("emmr", 1), ("tate", 0), ("mmin", 0)):
        write_cell(work, "mosi", variant, seed, items=30)
    write_cell(work, "my-corpus", "emmr", classes=("<b>", "$x$"), items=12)
    write_reproduction(load_results(work), out)
    return out


def test_the_page_is_one_file_that_loads_nothing(out: Path) -> None:
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<img|<link|@import|url\((?!#)", html)
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert len(checker.targets) > 15
    assert set(checker.targets) <= set(checker.ids)


def test_the_markdown_has_the_same_tables_and_links_every_figure(out: Path) -> None:
    html, markdown = ((out / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    assert html.count("<table>") == len(re.findall(r"^\| ---", markdown, re.MULTILINE))
    linked = re.findall(r'(?:src|srcset)="(figures/[^"]+)"', markdown)
    assert sorted(linked) == sorted(str(path.relative_to(out)) for path in (out / "figures").iterdir())
    assert len(linked) == 2 * html.count("<figure>")


def test_what_was_not_run_is_named(out: Path) -> None:
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "| Composite 2 | not run | – |" in markdown
    assert "| CRA | not run | – |" in markdown
    assert "| EMMR, published |  | 68.08 ± 0.78 |" in markdown


def test_sections_are_those_of_the_corpora_that_were_run(out: Path, tmp_path: Path) -> None:
    write_cell(tmp_path / "work", "composite-2", "emmr", items=12)
    write_reproduction(load_results(tmp_path / "work"), tmp_path / "out")
    found = {
        folder: re.findall(r"^## (.*)", (folder / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
        for folder in (out, tmp_path / "out")
    }
    assert "Table 1: CMU-MOSI" in found[out]
    assert {"Table 1: Composite 2", "Table 4: number of classes"}.isdisjoint(found[out])
    assert found[tmp_path / "out"] == ["What was run", "Table 4: number of classes"]


def test_claims_are_sentences_of_the_numbers(out: Path) -> None:
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert re.search(r"- EMMR minus TATE \(best on validation data\): (higher|lower|no difference) ", markdown)
    assert "CMU-MOSI, test, macro-F1: the mean of EMMR is the highest in" in markdown
    assert "transformer path alone" in markdown


def test_names_of_classes_and_corpora_are_escaped(out: Path) -> None:
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "Table 1: my-corpus" in html
    assert "<b>" not in html


def test_shown_figures_are_means_of_the_csv(out: Path) -> None:
    with (out / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {"corpus": "mosi", "variant": "emmr", "split": "test", "protocol": "rates", "metric": "accuracy"}
    values = [float(r["value"]) for r in rows if wanted.items() <= r.items() and r["condition"] == "0.5"]
    assert len(values) == 2
    assert f"{50 * sum(values):.2f} ± " in (out / "report.md").read_text(encoding="utf-8")


def test_a_report_without_cells_is_written_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_reproduction([], tmp_path / name)
    first, second = ({file: (tmp_path / name / file).read_bytes() for file in FILES} for name in ("a", "b"))
    assert first == second
    assert b"not run" in first["report.md"]


def test_packages_of_the_extra_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="train") as caught:
        write_reproduction([], tmp_path / "out")
    assert not (tmp_path / "out").exists(), caught
