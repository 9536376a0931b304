import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import cli

runner = CliRunner()


def checks(output: str) -> Mapping[str, Mapping[str, Any]]:
    return {check["name"]: check for check in json.loads(output)["checks"]}


def test_the_doctor_reports_what_is_there(tiny_weights: Path) -> None:
    result = runner.invoke(cli, ["doctor", "--weights", str(tiny_weights), "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    found = checks(result.stdout)
    assert {"python", "torch", "device", "weights", "text encoder", "open files", "extra asr"} <= set(found)
    assert "tiny, hash " in found["weights"]["detail"]
    assert found["WebM and M4A"]["ok"]
    assert not found["extra train"]["needed"]


def test_absent_weights_end_with_status_1(tmp_path: Path) -> None:
    result = runner.invoke(cli, ["doctor", "--weights", str(tmp_path), "--device", "cpu", "--json"])
    assert result.exit_code == 1
    weights = checks(result.stdout)["weights"]
    assert not weights["ok"]
    assert "hashes.json" in weights["detail"]


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_an_absent_device_is_in_the_table(tmp_path: Path, device: str) -> None:
    result = runner.invoke(cli, ["doctor", "--weights", str(tmp_path), "--device", device])
    assert result.exit_code == 1
    assert any("device" in line and "absent" in line for line in result.stdout.splitlines())
    assert "Something needed is absent." in result.stderr


def test_an_absent_extra_is_no_failure(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.doctor.find_spec", lambda name: None)
    result = runner.invoke(cli, ["doctor", "--weights", str(tiny_weights), "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    assert "pip install 'emmr[asr]'" in checks(result.stdout)["extra asr"]["detail"]
