import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from app.cli import cli
from app.recordings.command import columns_of, rows, write
from app.recordings.transcript import Cue
from model.errors import ConfigError
from tests.support.recordings import srt
from tests.support.sound import voice_like


def uses(status: str, reason: str | None, transcript: Any, *, normalized: bool) -> dict[str, Any]:
    """Return what was used of each modality."""
    use = {"status": status, "reason": reason, "coverage": 1.0, "familiarity": None}
    return {
        "text": {**use, "source": None if transcript is None else "transcribed", "transcript": transcript},
        "audio": {**use, "speaker_normalized": normalized},
        "visual": {**use, "speaker_normalized": False},
    }


LINES: list[dict[str, Any]] = [
    {"type": "recording", "duration": 4.0, "model": {"classes": ["negative", "positive"]}},
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
        "modalities": uses("present", None, {"text": "Hi there.", "confidence": 0.8}, normalized=True),
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
        "modalities": uses("missing", "silent", None, normalized=False),
        "reasons": {},
    },
    {"type": "summary"},
]


def test_rows_have_the_figures_of_utterances_and_gaps() -> None:
    utterance, gap = rows(LINES)
    assert list(utterance) == list(columns_of(["negative", "positive"]))
    assert gap.keys() < utterance.keys()
    assert (utterance["p_positive"], utterance["key_missing_modalities"], utterance["warnings"]) == (
        0.7,
        "text audio",
        "language",
    )
    assert (gap["type"], gap["polarity"], gap["audio_reason"]) == ("gap", None, "silent")


def test_rows_have_the_words_of_a_voice() -> None:
    utterance, gap = rows(LINES)
    columns = ("text_source", "transcribed_text", "transcribed_confidence", "audio_speaker_normalized")
    assert [utterance[name] for name in columns] == ["transcribed", "Hi there.", 0.8, True]
    assert [gap[name] for name in columns] == [None, None, None, False]


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", LINES)
    header, first, second = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("index,type,start,end,speaker,text,polarity,confidence,p_negative,p_positive,text_status")
    assert first.startswith("0,utterance,0.0,2.0,Anna,Hi.,positive,0.7,0.3,0.7,present")
    assert second.startswith("1,gap,2.0,4.0,,,,,,,missing")


def test_an_empty_recording_has_a_header_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [LINES[0], LINES[-1]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == ",".join(columns_of(["negative", "positive"])) + "\n"


def test_a_table_is_written_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.parquet", LINES)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column("text").to_pylist() == ["Hi.", None]
    write(tmp_path / "b.parquet", [LINES[0], LINES[2], LINES[-1]])
    assert parquet.read_table(tmp_path / "b.parquet").schema == table.schema


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


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(srt([Cue(0.0, 2.0, "Hi.")]))
    arguments = ["--transcript", str(tmp_path / "a.srt"), "--out", str(tmp_path / "none" / "a.csv")]
    result = CliRunner().invoke(cli, ["timeline", *arguments, "--weights", str(tmp_path)])
    assert result.exit_code == 2
    assert "a.csv cannot be written" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to answer"),
        (["--transcript", "a.srt", "--out", "a.xls"], "--out must end with one of"),
        (["none.wav"], "none.wav does not exist"),
        (["."], ". is a folder"),
        (["a.csv", "--out", "out"], "a manifest of recordings needs --engine ray"),
        (["a.csv", "--engine", "ray"], "--engine ray needs a manifest"),
        (["a.csv", "--engine", "ray", "--out", "out", "--transcript", "a.srt"], "--engine ray needs a manifest"),
    ],
)
def test_unusable_arguments_end_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.srt").write_bytes(srt([Cue(0.0, 2.0, "Hi.")]))
    Path("a.csv").write_text("id,transcript\na,a.srt\n", encoding="utf-8")
    result = CliRunner().invoke(cli, ["timeline", *arguments])
    assert result.exit_code == 2
    assert message in result.output
