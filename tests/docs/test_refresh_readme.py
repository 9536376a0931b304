import json
import re
import sys
from pathlib import Path

import pytest

from docs import refresh_readme
from model.config import SYSTEMS


def pages() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in refresh_readme.PAGES)


def test_the_pages_have_three_answers_and_their_blocks_of_figures() -> None:
    page = pages()
    commands = [found["command"] for found in refresh_readme.ANSWER.finditer(page)]
    assert len(commands) == page.count("<!-- answer -->") == page.count("<!-- /answer -->") == 3
    assert all(refresh_readme.ADDRESS in command for command in commands)
    assert len(refresh_readme.TABLES.findall(page)) == len(refresh_readme.SIZING.findall(page)) == 1
    assert len(refresh_readme.SUMMARY.findall(page)) == 2


def test_the_committed_figures_are_those_of_the_recorded_results() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in refresh_readme.PAGES}
    assert not [name for name, text in texts.items() if refresh_readme.with_results(text) != text]


def test_the_report_of_a_reproduction_is_linked_where_it_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(refresh_readme, "REPORT", tmp_path / "report.md")
    assert "results/report.md" not in refresh_readme.results()
    (tmp_path / "report.md").write_text("# Report\n", encoding="utf-8")
    assert "(results/report.md)" in refresh_readme.results()


def test_every_file_that_the_commands_send_exists() -> None:
    page = pages()
    sent = [
        name for found in refresh_readme.ANSWER.finditer(page) for name in re.findall(r"[<@](\S+)\"", found["command"])
    ]
    assert {Path(name).suffix for name in sent} == {".txt", ".wav", ".csv"}
    assert all((refresh_readme.ROOT / name).is_file() for name in sent)


def test_an_answer_has_one_line_per_field_and_stays_json() -> None:
    answer = {"polarity": "positive", "confidence": 0.98765, "modalities": {"text": {"words": "x" * 120, "tokens": 7}}}
    written = refresh_readme.in_lines(answer)
    assert json.loads(written) == refresh_readme.rounded(answer)
    assert written.splitlines()[1:3] == ['  "polarity": "positive",', '  "confidence": 0.988,']


def test_a_command_is_run_against_the_service_and_fenced(tmp_path: Path) -> None:
    command = (
        f"""{sys.executable} -c 'import json, sys; print(json.dumps(dict(polarity=sys.argv[1])))' 127.0.0.1:8000"""
    )
    assert refresh_readme.answered(command, "127.0.0.1:4321") == '```json\n{\n  "polarity": "127.0.0.1:4321"\n}\n```\n'


def test_an_error_is_not_accepted_as_an_answer() -> None:
    with pytest.raises(SystemExit, match="422"):
        refresh_readme.answered("""echo '{"status": 422}'""", "127.0.0.1:4321")


def test_each_table_of_the_comparison_has_a_row_for_each_system_of_the_report() -> None:
    table = refresh_readme.comparison()
    readme = (refresh_readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(table.strip().splitlines()) == len(refresh_readme.COMPARED) * (3 + len(SYSTEMS)) - 1
    assert f"<!-- comparison -->\n{table}<!-- /comparison -->" in readme
