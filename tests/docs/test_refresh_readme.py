import json
import re
import sys
from pathlib import Path

import pytest

from docs import refresh_readme


def test_the_readme_has_three_answers_and_one_block_of_results() -> None:
    page = refresh_readme.README.read_text(encoding="utf-8")
    commands = [found["command"] for found in refresh_readme.ANSWER.finditer(page)]
    assert len(commands) == page.count("<!-- answer -->") == page.count("<!-- /answer -->") == 3
    assert all(refresh_readme.ADDRESS in command for command in commands)
    assert len(refresh_readme.TABLES.findall(page)) == 1


def test_every_file_that_the_commands_send_exists() -> None:
    page = refresh_readme.README.read_text(encoding="utf-8")
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
