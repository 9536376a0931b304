import xml.etree.ElementTree as ET

import pytest

from docs import figures


@pytest.mark.parametrize("name", list(figures.FIGURES))
def test_the_committed_figure_is_the_drawn_one(name: str) -> None:
    assert (figures.FOLDER / name).read_text(encoding="utf-8") == figures.FIGURES[name]()


@pytest.mark.parametrize("name", list(figures.FIGURES))
def test_a_figure_is_within_its_bounds(name: str) -> None:
    root = ET.fromstring(figures.FIGURES[name]())
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    shapes = [element for element in root if element.get("x")]
    assert len(shapes) > 20
    assert all(0 <= float(shape.attrib["x"]) < width and 0 <= float(shape.attrib["y"]) < height for shape in shapes)


@pytest.mark.parametrize("name", list(figures.FIGURES))
def test_every_figure_is_shown_on_a_page(name: str) -> None:
    pages = [page for page in figures.FOLDER.glob("*.md") if f"]({name})" in page.read_text(encoding="utf-8")]
    assert len(pages) == 1
