import xml.etree.ElementTree as ET

import pytest

from docs import drawing


def test_a_bar_is_as_long_as_its_share() -> None:
    lines = list(drawing.bar(0, 0, "a", 0.5, "positive"))
    assert f'width="{drawing.BAR // 2}"' in lines[2]
    assert lines[3].endswith(">50%</text>")


def test_a_picture_has_both_schemes_of_colours_and_a_label() -> None:
    drawn = drawing.picture(40, 20, "a < b", [drawing.text(0, 10, "x & y"), *drawing.box(0, 0, 10, "title", ["line"])])
    root = ET.fromstring(drawn)
    assert root.get("aria-label") == "a < b"
    assert "prefers-color-scheme:dark" in drawn
    assert set(drawing.LIGHT) == set(drawing.DARK)
    assert "x & y" in [element.text for element in root]


@pytest.mark.parametrize(("to_x", "path"), [(5, "M5 0V20"), (9, "M5 0V10H9V20")])
def test_an_arrow_is_vertical_at_both_ends(to_x: int, path: str) -> None:
    assert f'd="{path}"' in drawing.arrow(5, 0, to_x, 20)
