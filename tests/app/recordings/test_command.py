import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from app.cli import cli
from app.recordings.command import rows, write
from app.recordings.transcript import Cue
from model.errors import ConfigError
from tests.support.recordings import srt
from tests.support.sound import voice_like

LINES: list[dict[str, Any]] = [
    {"type": "recording", "duration": 4.0},
    {
        "type": "utterance",
        "index": 0,
        "start": 0.0,
        "end": 2.0,
        "speaker": "Anna",
        "text": "Hi.",
        "polarity": "positive",
        "confidence": 0.7,
        "probabilities": {"negative": 0.3, "positive": 0.7},
        "modalities": {
            name: {"status": "present", "reason": None, "coverage": 1.0, "familiarity": 0.9}
            for name in ("text", "audio", "visual")
        },
        "key_missing": {"detected": True, "score": 0.8, "modalities": ["text", "audio"]},
        "warnings": [{"code": "language", "detail": "…"}],
    },
    {
        "type": "gap",
        "index": 1,
        "start": 2.0,
        "end": 4.0,
        "speaker": None,
        "text": None,
        "modalities": {
            name: {"status": "missing", "reason": "silent", "coverage": 0.0, "familiarity": None}
            for name in ("text", "audio", "visual")
        },
        "reasons": {},
    },
    {"type": "summary"},
]


def test_utterances_and_gaps_are_rows_with_the_same_columns() -> None:
    utterance, gap = rows(LINES)
    assert list(utterance) == list(gap)
    assert (utterance["p_positive"], utterance["key_modalities"], utterance["warnings"]) == (
        0.7,
        "text audio",
        "language",
    )
    assert (gap["type"], gap["polarity"], gap["audio_reason"]) == ("gap", None, "silent")


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", LINES)
    header, first, second = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("index,type,start,end,speaker,text,polarity,confidence,p_negative,p_positive,text_status")
    assert first.startswith("0,utterance,0.0,2.0,Anna,Hi.,positive,0.7,0.3,0.7,present")
    assert second.startswith("1,gap,2.0,4.0,,,,,,,missing")


def test_an_empty_recording_has_a_header_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [LINES[0], LINES[-1]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "index\n"


def test_a_table_is_written_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.parquet", LINES)
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["text"] for row in table] == ["Hi.", None]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError) as caught:
        write(tmp_path / "a.parquet", LINES)
    assert "emmr[parquet]" in str(caught.value)


def test_a_recording_is_answered_from_files(tiny_weights: Path, tmp_path: Path) -> None:
    voice = np.concatenate([voice_like(2.0), np.zeros(32_000, dtype=np.float32)])
    soundfile.write(tmp_path / "a.wav", voice, 16_000)
    (tmp_path / "a.srt").write_bytes(srt([Cue(0.0, 2.0, "Hi."), Cue(2.0, 4.0, "Bye.")]))
    options = ["--transcript", str(tmp_path / "a.srt"), "--weights", str(tiny_weights), "--device", "cpu"]
    options += ["--out", str(tmp_path / "a.json"), "--transcribe", "never"]
    result = CliRunner().invoke(cli, ["timeline", str(tmp_path / "a.wav"), *options])
    assert result.exit_code == 0, result.output
    lines = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [line["type"] for line in lines] == ["recording", "utterance", "utterance", "summary"]
    assert lines[2]["modalities"]["audio"]["reason"] == "silent"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "Nothing to answer"), (["--transcript", "a.srt", "--out", "a.xls"], "--out must end with one of")],
)
def test_unusable_arguments_end_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.srt").write_bytes(srt([Cue(0.0, 2.0, "Hi.")]))
    result = CliRunner().invoke(cli, ["timeline", *arguments])
    assert result.exit_code == 2
    assert message in result.output
