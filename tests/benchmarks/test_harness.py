import json
from pathlib import Path

import pytest

from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, ratio_of, time_rounds


def test_contestants_run_once_a_round_in_alternating_order() -> None:
    ran: list[str] = []
    contestants = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    seconds = time_rounds(contestants, rounds=3, warmups=1)
    assert "".join(ran) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert min(min(times) for times in seconds.values()) >= 0.0


def test_ratios_are_taken_within_each_round() -> None:
    # A slow round slows both: the ratio of medians would be 5 here.
    seconds = {"theirs": [2.0, 20.0, 10.0], "ours": [1.0, 10.0, 2.0]}
    assert ratio_of(seconds, "theirs", "ours") == 2.0
    assert medians_of(seconds) == {"theirs": 10.0, "ours": 2.0}


def test_reports_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("audio", machine_line(), {"clip_ms": 14.5}, {"clips": 12.0}, {"equal": True})
    path = tmp_path / "results" / "audio.json"
    finish(report, path)
    written = json.loads(path.read_text())
    assert written["name"] == "audio"
    assert written["machine"] == report.machine
    assert (written["medians"], written["ratios"], written["facts"]) == (
        {"clip_ms": 14.5},
        {"clips": 12.0},
        {"equal": True},
    )
    assert "14.500" in capsys.readouterr().out


def test_nothing_is_written_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finish(Report("audio", "a machine"), None)
    assert not list(tmp_path.iterdir())


def test_the_machine_line_has_processor_cores_and_libraries() -> None:
    line = machine_line()
    assert " cores" in line
    assert "Python 3." in line
    assert "numpy " in line
    assert "\n" not in line


def test_benchmarks_have_options_for_file_and_rounds() -> None:
    options = arguments("A bench.").parse_args(["--json", "out.json", "--rounds", "2"])
    assert (options.json, options.rounds) == (Path("out.json"), 2)
