import argparse
import json
from pathlib import Path

import pytest

from tools.load.report import PAGE, Result, formatted, line, report, table, with_section


def result(*failures: str, name: str = "case") -> Result:
    return Result(name, {"answers": {"200": 3, "422": 1}, "seconds": 0.12345}, list(failures))


def test_load_tests_fail_when_one_result_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(json=tmp_path / "new" / "out.json", record=False)
    assert report("chaos", [result()], options) == 0
    assert report("chaos", iter([result(), result("it broke")]), options) == 1
    written = json.loads(options.json.read_text())
    assert written["bench"] == "chaos"
    assert [one["passed"] for one in written["results"]] == [True, False]
    assert "it broke" in capsys.readouterr().out


def test_conditions_that_do_not_hold_are_failures() -> None:
    found = result()
    found.expect(True, "not recorded")
    assert found.passed
    found.expect(False, "recorded")
    assert (found.passed, found.failures) == (False, ["recorded"])


def test_lines_contain_every_figure() -> None:
    assert line(result()) == "ok    case: answers 200 × 3; 422 × 1, seconds 0.123"
    assert line(result("no")).startswith("FAIL")
    assert [formatted(value) for value in (None, 1234.5, [], ["1", "2"], True)] == ["–", "1234", "–", "1, 2", "True"]


def test_results_with_the_same_figures_share_a_table() -> None:
    both = table([result(name="one"), result("no", name="two")])
    assert both.splitlines()[0] == "| | answers | seconds | passed |"
    assert both.splitlines()[2:] == [
        "| one | 200 × 3; 422 × 1 | 0.123 | yes |",
        "| two | 200 × 3; 422 × 1 | 0.123 | **no**: no |",
    ]
    assert table([result()]).splitlines()[:3] == ["|  | case |", "| --- | --- |", "| answers | 200 × 3; 422 × 1 |"]


def test_only_the_text_between_the_markers_is_replaced() -> None:
    page = "a\n<!-- soak -->\nold\n<!-- /soak -->\nz\n"
    new = with_section(page, "soak", [result()])
    assert (new.startswith("a\n"), new.endswith("\nz\n"), "old" in new) == (True, True, False)
    assert with_section(new, "soak", [result()]) == new
    with pytest.raises(ValueError, match="no section marked chaos"):
        with_section(page, "chaos", [])


@pytest.mark.parametrize("test", ["schemathesis", "http", "sequences", "atheris", "chaos", "overload", "soak"])
def test_the_page_has_a_section_for_every_load_test(test: str) -> None:
    assert with_section(PAGE.read_text(encoding="utf-8"), test, [result()])
