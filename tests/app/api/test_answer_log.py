import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from app.api import answer_log
from app.api.answer_log import AnswerLog, line
from app.api.metrics import Metrics
from app.logging import configure_logging
from app.settings import Settings
from tests.support.answers import prediction
from tests.support.service import Part

ANSWER = prediction(detected=True)


@contextmanager
def writing(path: Path, max_bytes: int = 2**20, files: int = 2) -> Iterator[tuple[AnswerLog, list[int]]]:
    """A log that writes until the end of the context, and the numbers of lines that it lost."""
    lost: list[int] = []
    log = AnswerLog(path, max_bytes, files, lost.append)
    log.start()
    yield log, lost
    log.stop()


def test_line_holds_figures_and_no_content() -> None:
    entry = json.loads(line(ANSWER))
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "request_id": "trace-1",
        "weights": "tiny",
        "version": "0123456789ab",
        "subset": "text+audio",
        "polarity": "negative",
        "probabilities": {"negative": 0.75, "positive": 0.25},
        "key_score": 0.5,
        "key_missing": ["visual"],
        "familiarity": {"audio": 0.25},
        "warnings": ["frames_skipped"],
    }


def test_answers_of_a_service_are_appended_without_their_words(
    application: FastAPI, client: TestClient, parts: Mapping[str, Part], canary: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    with writing(path) as (log, lost):
        application.state.answers = log
        try:
            answers = [client.post("/predict", files=dict(parts)).json(), client.post("/predict", files={}).json()]
        finally:
            application.state.answers = None
    (entry,) = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (entry["request_id"], entry["subset"]) == (answers[0]["request_id"], "text+audio+visual")
    assert canary not in path.read_text(encoding="utf-8")
    assert not lost


def test_log_is_opened_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerLog.opened(Settings(log_answers=None), print) as log:
        assert log is None
    with AnswerLog.opened(Settings(log_answers=path), print) as log:
        assert log is not None
        log.record(ANSWER)
    assert path.read_bytes().count(b"\n") == 1


def test_files_are_rotated_and_the_oldest_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for _ in range(5):
        with writing(path, max_bytes=1) as (log, _):
            log.record(ANSWER)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"answers.jsonl{suffix}" for suffix in ("", ".1", ".2")]
    assert {file.read_bytes().count(b"\n") for file in tmp_path.iterdir()} == {1}


def test_renamed_file_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    for _ in range(2):
        with writing(path) as (log, _):
            log.record(ANSWER)
        path.replace(tmp_path / "moved")
    assert (tmp_path / "moved").read_bytes().count(b"\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full of Linux")
def test_full_disk_costs_lines_and_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    with writing(Path("/dev/full")) as (log, lost):
        log.record(ANSWER)
    with writing(Path("/dev/full")) as (log, more):
        log.record(ANSWER)
        log.record(ANSWER)
    assert (sum(lost), sum(more)) == (1, 2)
    assert capsys.readouterr().err.count("No space left on device") == 2


def test_log_goes_on_once_the_disk_can_be_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    folder = tmp_path / "logs"
    log = AnswerLog(folder / "answers.jsonl", 2**20, 1)
    log._write([b"lost\n"])
    folder.mkdir()
    log._write([b"kept\n"])
    assert (folder / "answers.jsonl").read_bytes() == b"kept\n"
    assert capsys.readouterr().err.count("answers are logged again") == 1


def test_answers_beyond_the_queue_are_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "WAITING", 2)
    metrics = Metrics()
    log = AnswerLog(tmp_path / "answers.jsonl", 2**20, 1, metrics.answers_lost.inc)
    for _ in range(3):
        log.record(ANSWER)
    assert metrics.registry.get_sample_value("emmr_answers_lost_total") == 1


def test_file_in_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(log_answers=tmp_path / "none" / "answers.jsonl")
    assert "its folder does not exist" in str(refused.value)
