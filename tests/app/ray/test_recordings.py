"""`emmr timeline --engine ray`, compared with runs in one process."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from app.cli import cli
from app.recordings.command import run
from app.recordings.timeline import Channels
from app.recordings.transcript import Cue
from app.settings import Settings
from model.errors import ConfigError
from tests.app.ray.conftest import assert_equal_cells, read_parts
from tests.support.openface import simulate_openface_csv
from tests.support.recordings import srt
from tests.support.sound import voice_like
from tests.support.video import make_video

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]

FILES = {
    "talk": {"audio": "talk.wav", "transcript": "talk.srt"},
    "face": {"openface": "face.csv"},
    "film": {"audio": "film.mp4"},
    "silent": {"audio": "silent.wav"},
    "cut": {"audio": "cut.wav", "transcript": "talk.srt"},
    "nowhere": {"audio": "nowhere.wav"},
    "nothing": {},
}
ANSWERED = ("talk", "face", "film")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A manifest in a folder of its own, of which some recordings are bad."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    voice = np.concatenate([voice_like(2.0), np.zeros(8_000, dtype=np.float32), voice_like(2.0)])
    soundfile.write(folder / "talk.wav", np.stack([voice, 0.5 * voice[::-1]], axis=1), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    (folder / "cut.wav").write_bytes((folder / "talk.wav").read_bytes()[:1000])
    (folder / "talk.srt").write_bytes(srt([Cue(0.0, 2.0, "Anna: Hi."), Cue(2.5, 4.5, "Anna: Bye.")]))
    (folder / "film.mp4").write_bytes(make_video())
    (folder / "face.csv").write_bytes(simulate_openface_csv(60, "action_units"))
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["id", "audio", "transcript", "openface"])
        table.writeheader()
        table.writerows({"id": name, **files} for name, files in FILES.items())
    return folder / "manifest.csv"


def by_recording(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row.pop("id")].append(row)
    return dict(found)


def in_one_process(
    settings: Settings, folder: Path, name: str, channels: Channels = "mix", *, normalized: bool = True
) -> list[dict[str, Any]]:
    """The rows that `emmr timeline --out x.parquet` writes."""
    from pyarrow import parquet

    out, files = folder / f"{name}.parquet", FILES[name]
    paths = {part: folder / files[part] if part in files else None for part in ("audio", "transcript", "openface")}
    run(
        settings,
        out,
        audio=paths["audio"],
        transcript=paths["transcript"],
        openface=paths["openface"],
        channels=channels,
        explain=False,
        transcribe="never",
        speaker_normalization=normalized,
        embed_sound=False,
    )
    rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return rows


def assert_equal(rows: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    assert len(rows) == len(expected) > 0
    for row, wanted in zip(rows, expected, strict=True):
        assert list(row) == [*wanted, "error_title", "error_detail", "model"]
        assert_equal_cells({key: row[key] for key in wanted}, wanted)


def test_rows_are_those_of_one_process(address: str, settings: Settings, recordings: Path, tmp_path: Path) -> None:
    from app.ray.recordings import timeline

    out = tmp_path / "parts"
    timeline(settings, str(recordings), str(out), actors=2)
    found = by_recording(read_parts(str(out)))
    assert set(found) == set(FILES)
    assert len(list(out.iterdir())) == len(FILES)
    for name in ANSWERED:
        assert_equal(found[name], in_one_process(settings, recordings.parent, name))
    assert any(row["audio_speaker_normalized"] for row in found["talk"])
    assert found["film"][0]["text"]  # a subtitle
    (silent,) = found["silent"]
    assert {key: value for key, value in silent.items() if value is not None} == {"model": silent["model"]}
    assert {name: rows[0]["error_title"] for name, rows in found.items() if rows[0]["error_title"]} == {
        "cut": "Corrupt part",
        "nowhere": "Unreadable file",
        "nothing": "Unreadable row",
    }
    assert "nowhere.wav: No such file" in found["nowhere"][0]["error_detail"]


def test_a_run_goes_on_with_the_recordings_that_are_left(
    address: str, settings: Settings, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.ray.recordings import timeline

    manifest, out = recordings.with_name("manifest.jsonl"), tmp_path / "parts"
    lines = [json.dumps({"id": name, **FILES[name]}) + "\n" for name in ("silent", "nothing", "face")]
    manifest.write_text("".join(lines[:2]), encoding="utf-8")
    timeline(settings, str(manifest), str(out), actors=1)
    kept = {part: part.stat().st_mtime_ns for part in out.iterdir()}
    assert len(kept) == 2
    manifest.write_text("".join(lines), encoding="utf-8")
    capsys.readouterr()
    timeline(settings, str(manifest), str(out), actors=1)
    assert "2 recordings were there before" in capsys.readouterr().err
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert set(by_recording(read_parts(str(out)))) == {"silent", "nothing", "face"}
    other = settings.model_copy(update={"weights": settings.weights.with_name("two")})
    with pytest.raises(ConfigError, match=r"part-\w+\.parquet was written with other weights"):
        timeline(other, str(manifest), str(out), actors=1)


def test_manifest_files_and_results_may_be_on_object_storage(
    address: str, storage: str, settings: Settings, recordings: Path
) -> None:
    import fsspec

    from app.ray.recordings import timeline

    access = {"key": "key", "secret": "secret", "endpoint_url": storage}
    system = fsspec.filesystem("s3", **access)
    for path in recordings.parent.iterdir():
        system.put_file(str(path), f"clips/recordings/{path.name}")
    timeline(
        settings,
        "s3://clips/recordings/manifest.csv",
        "s3://clips/recordings/results",
        actors=1,
        channels="speakers",
        speaker_normalization=False,
        storage=access,
    )
    found = by_recording(read_parts("s3://clips/recordings/results", **access))
    assert set(found) == set(FILES)
    assert_equal(found["talk"], in_one_process(settings, recordings.parent, "talk", "speakers", normalized=False))
    assert not any(row["audio_speaker_normalized"] for row in found["talk"])
    assert "nowhere.wav" in found["nowhere"][0]["error_detail"]
    assert found["silent"][0]["error_title"] == "Invalid query"  # one channel


def test_transcription_without_its_extra_is_refused(
    settings: Settings, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.ray.recordings import timeline

    monkeypatch.setattr("app.ray.recordings.installed", lambda: False)
    with pytest.raises(ConfigError, match="needs the extra asr"):
        timeline(settings, str(recordings), str(tmp_path / "parts"), transcribe="always")


def test_the_command_writes_parts(address: str, weights: Path, recordings: Path, tmp_path: Path) -> None:
    recordings.write_text("id,audio\nnowhere,nowhere.wav\n", encoding="utf-8")
    options = ["--engine", "ray", "--out", str(tmp_path / "out"), "--weights", str(weights), "--workers", "1"]
    result = CliRunner().invoke(cli, ["timeline", str(recordings), *options])
    assert result.exit_code == 0, result.output
    assert [row["id"] for row in read_parts(str(tmp_path / "out"))] == ["nowhere"]
