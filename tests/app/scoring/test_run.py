import asyncio
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.errors import DeviceLost
from app.scoring import run
from app.scoring.results import Results
from app.scoring.rows import Row
from app.settings import Settings
from tests.support.service import Part

GOOD = 40


@pytest.fixture
def settings(tiny_weights: Path) -> Settings:
    return Settings(weights=tiny_weights, device="cpu", decode_workers=1, max_batch=2)


@pytest.fixture
def manifest(tmp_path: Path, parts: Mapping[str, Part]) -> Path:
    """Rows of every kind, some of them bad."""
    (tmp_path / "voice.wav").write_bytes(parts["audio"][1])
    (tmp_path / "cut.wav").write_bytes(parts["audio"][1][:1000])
    (tmp_path / "face.csv").write_bytes(parts["openface"][1])
    (tmp_path / "silent.wav").write_bytes(parts["audio"][1][:44])
    rows = [
        ["all", "Hello there.", "voice.wav", "face.csv", "positive"],
        ["nowhere", "", "nowhere.wav", "", ""],
        ["cut", "Hello.", "cut.wav", "", ""],
        ["nothing", "", "", "", "neutral"],
        ["blank", "\ufeff", "", "", ""],
        *([f"text-{number}", f"Hello {number}.", "", "", ""] for number in range(GOOD)),
        ["face", "", "", "face.csv", ""],
    ]
    path = tmp_path / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text", "audio", "openface", "label"], *rows])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read(path)]


def test_every_row_gets_an_answer_or_an_error(
    client: TestClient,
    parts: Mapping[str, Part],
    settings: Settings,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.csv"
    run.score(settings, manifest, out)
    rows = read(out)
    assert ids(out) == ids(manifest)
    assert {row["id"]: row["error_title"] for row in rows if row["error_title"]} == {
        "nowhere": "Unreadable file",
        "cut": "Corrupt part",
        "nothing": "Unreadable row",
        "blank": "Corrupt part",
    }
    by_id = {row["id"]: row for row in rows}
    assert "nowhere.wav: No such file" in by_id["nowhere"]["error_detail"]
    assert by_id["cut"]["error_detail"].endswith(")")
    assert by_id["nothing"]["label"] == "neutral"
    served = client.post("/predict", files={**parts, "text": (None, b"Hello there.", "text/plain")}).json()
    assert float(by_id["all"]["p_positive"]) == pytest.approx(served["probabilities"]["positive"], abs=1e-4)
    assert (by_id["all"]["polarity"], by_id["all"]["audio_status"]) == (served["polarity"], "present")
    assert by_id["face"]["text_reason"] == "not_provided"
    assert f"{GOOD + 2} answers, 4 errors" in capsys.readouterr().err


async def interrupted(settings: Settings, manifest: Path, out: Path, after: int) -> None:
    """Score, and cancel it after a number of rows, as Ctrl-C does."""
    written = 0
    task = asyncio.current_task()
    assert task is not None
    cancel = task.cancel

    class Watched(Results):
        def write(self, row: Row, outcome: Any) -> None:
            nonlocal written
            super().write(row, outcome)
            written += 1
            if written == after:
                cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.scoring.results.Results", Watched)
        await run._score(settings, manifest, out, GOOD)


def test_an_interrupted_run_goes_on_without_a_duplicate(settings: Settings, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted(settings, manifest, out, after=20))
    before = out.read_bytes()
    assert 20 <= len(ids(out)) < GOOD
    run.score(settings, manifest, out)
    assert out.read_bytes().startswith(before)
    assert ids(out) == ids(manifest)


def test_a_lost_device_ends_the_run_without_error_rows(
    settings: Settings, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> Any:
        raise DeviceLost("The device no longer computes.")

    monkeypatch.setattr("app.engine.engine.Engine.answer", lost)
    with pytest.raises(DeviceLost) as caught:
        run.score(settings, manifest, tmp_path / "out.csv")
    assert caught.value.status == 503
    assert ids(tmp_path / "out.csv") == []


def test_progress_is_reported_in_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "REPORT_SECONDS", 0.0)
    with run.reporting(total=10, done=4) as report:
        report.add(failed=False)
        report.add(failed=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("6 of 10 rows, ")
    assert "1 without an answer" in lines[1]
    assert "s left" in lines[1]
    assert lines[2].startswith("1 answers, 1 errors, ")
    assert lines[2].endswith("; 4 rows were there before")
