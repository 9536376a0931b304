import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from model.experiments import figures
from model.experiments.comparisons import compare, read_answers
from model.experiments.figures import DARK, Figure
from model.experiments.measures import Measures
from model.experiments.results import CellResult
from model.types import FloatArray
from tests.support.experiments import write_cell


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[CellResult]:
    work = tmp_path_factory.mktemp("work")
    return [write_cell(work, "mosi", variant, seed) for variant in ("emmr", "mctn", "mae") for seed in (0, 1)]


@pytest.fixture(scope="module")
def measures(results: list[CellResult]) -> Measures:
    return Measures(results)


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    root = ET.fromstring(figure.svg)
    ids = [element.get("id", figure.name) for element in root.iter() if element.get("id")]
    assert all(name.startswith(f"{figure.name}-") for name in ids)
    assert len(ids) == len(set(ids))
    return figure


def texts(figure: Figure) -> set[str]:
    return {element.text or "" for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("text")}


def test_rates_show_systems_and_published_figures(measures: Measures) -> None:
    percent = {"emmr": {metric: [50.0] * 6 for metric in ("macro_f1", "accuracy")}}
    figure = drawn(figures.rates(measures, "mosi", "test", "CMU-MOSI", percent))
    shown = {"EMMR", "MCTN", "macro-F1 (%)", "missing rate η", "This report", "Published (Table 1)"}
    assert shown <= texts(figure)
    assert "at most n = 2" in figure.text


def test_equal_figures_are_equal_files(measures: Measures) -> None:
    first, second = (drawn(figures.parameters(measures, "mosi")) for _ in range(2))
    assert first.svg == second.svg
    assert {"EMMR", "MCTN", "trained parameters"} <= texts(first)


def test_losses_have_a_panel_for_each_variant(measures: Measures) -> None:
    shown = texts(drawn(figures.losses(measures, "mosi", {"emmr": "KL", "mae": "MAE"})))
    assert {"KL", "MAE", "forward", "epoch"} <= shown


def test_a_dark_page_gets_other_colours(measures: Measures) -> None:
    figure = drawn(figures.parameters(measures, "mosi"))
    used = {colour for colour in re.findall(r"#[0-9a-f]{6}", figure.svg) if colour in DARK}
    assert len(used) >= 3
    assert not any(colour in figure.dark_svg for colour in used)
    assert all(f"var(--c-{colour[1:]})" in figure.inline_svg for colour in used)
    assert figure.inline_svg.startswith("<svg")
    assert f'aria-label="{figure.text}"' in figure.inline_svg


@pytest.mark.parametrize(("page", "dark"), [("#ffffff", False), ("#0d1117", True)])
def test_lines_and_markers_contrast_with_the_page(page: str, dark: bool) -> None:
    def luminance(colour: str) -> float:
        linear = [(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in
                  (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))]  # fmt: skip
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    lines = [DARK[colour] if dark else colour for colour in DARK if colour != figures.RULE]
    bounds = [sorted((luminance(page), luminance(colour))) for colour in lines]
    ratios = {colour: (high + 0.05) / (low + 0.05) for colour, (low, high) in zip(lines, bounds, strict=True)}
    assert min(ratios.values()) >= 3, ratios


def test_differences_have_a_panel_for_each_condition(results: list[CellResult]) -> None:
    answers = read_answers(results, "mosi", "test")
    assert answers is not None
    figure = drawn(figures.differences(list(compare(answers, 20)), "differences", "text"))
    assert {"η = 0.0", "η = 0.5", "one missing", "two missing", "− MCTN"} <= texts(figure)
    assert "− MAE" not in texts(figure)


def test_joint_representations_are_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    points: FloatArray = rng.normal(size=(12, 4)).astype(np.float32)
    arrays = {"0.5": points, "labels": (np.arange(12) % 2).astype(np.float32)}
    first, second = (drawn(figures.embedded({"tf": arrays}, ("$a", "b"))) for _ in range(2))
    assert first.svg == second.svg
    assert {"$a", "b", "TF, η = 0.5"} <= texts(first)
    assert "12 test items" in first.text


def test_costs_and_word_vectors_have_a_panel_each(measures: Measures, tmp_path: Path) -> None:
    assert {"CMU-MOSI", "operations"} <= texts(drawn(figures.costs(measures, {"mosi": "CMU-MOSI", "composite": "C"})))
    words = Measures([write_cell(tmp_path, "mosi", "emmr")])
    names = {"mosi": "MiniLM", "mosi-static": "static"}
    shown = texts(drawn(figures.embeddings(words, names)))
    assert "MiniLM" in shown
    assert "static" not in shown


def test_without_cells_there_is_no_figure() -> None:
    nothing = Measures([])
    assert figures.rates(nothing, "mosi", "test", "CMU-MOSI", {}) is None
    assert figures.losses(nothing, "mosi", {"emmr": "KL"}) is None
    assert figures.parameters(nothing, "mosi") is None
    assert figures.costs(nothing, {"mosi": "CMU-MOSI"}) is None
    assert figures.embeddings(nothing, {"mosi": "MiniLM"}) is None
    assert figures.embedded({}, ()) is None
    assert figures.differences([], "name", "text") is None
