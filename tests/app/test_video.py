import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.errors import CorruptPart, EmptyForm
from app.offline import predict_once
from app.settings import Settings
from app.video import OpenFaceFailed, open_video, run_openface
from tests.support.openface import simulate_openface_csv
from tests.support.video import make_video

WRITES = """
while [ $# -gt 0 ]; do
  case "$1" in
    -f) video=$2 ;;
    -out_dir) folder=$2 ;;
    -aus) units=yes ;;
  esac
  shift
done
[ "$units" = yes ] || exit 9
name=$(basename "$video")
cp "$(dirname "$0")/face.csv" "$folder/${name%.*}.csv"
echo details > "$folder/${name%.*}_of_details.txt"
"""
Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a `FeatureExtraction` that runs the lines of a shell script; `face.csv` lies beside it."""
    (tmp_path / "face.csv").write_bytes(simulate_openface_csv(30, "action_units"))

    def make(lines: str) -> Path:
        path = tmp_path / "FeatureExtraction"
        path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_video())
    return path


def test_a_video_is_answered_with_its_words_voice_and_face(
    program: Program, clip: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMMR_OPENFACE", str(program(WRITES)))
    options = ["--video", str(clip), "--face-id", "0", "--weights", str(tiny_weights), "--json"]
    result = CliRunner().invoke(cli, ["predict", *options])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [use["status"] for use in answer["modalities"].values()] == ["present"] * 3
    assert answer["modalities"]["visual"]["frames"] == 30
    assert not {"picture", "face_not_read"} & {warning["code"] for warning in answer["warnings"]}


def test_the_parts_of_a_video_are_files_until_the_end(program: Program, clip: Path) -> None:
    with open_video(clip, Settings(openface=program("exit 3"))) as parts:
        assert parts.audio is not None
        assert parts.audio.stat().st_size
        assert parts.words == "What a lovely surprise! Thank you."
        assert parts.openface is None
        assert parts.warnings == {"face_not_read": "The face was not read: OpenFace ended with status 3."}
    assert not parts.audio.exists()


def test_a_video_with_nothing_to_use_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    silent = tmp_path / "silent.mp4"
    silent.write_bytes(make_video(sound=None, subtitles=()))
    settings = Settings(weights=tiny_weights, openface=tmp_path / "absent")
    with pytest.raises(EmptyForm) as refused:
        predict_once(settings, text=None, audio=None, openface=None, video=silent, explain=False)
    assert refused.value.detail.startswith("the video holds neither sound nor subtitles. The face was not read:")


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(12))
    with pytest.raises(CorruptPart) as refused, open_video(path, Settings(), face=False):
        pass
    assert refused.value.part == "video"
    assert refused.value.place == "byte 24"


def test_openface_is_found_on_the_path(
    program: Program, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(WRITES)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    written = run_openface(clip, tmp_path / "out", Settings())
    assert written.read_bytes() == (tmp_path / "face.csv").read_bytes()


def test_openface_that_is_not_installed_is_a_message(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpenFaceFailed) as failed:
        run_openface(clip, tmp_path / "out", Settings())
    assert "EMMR_OPENFACE" in str(failed.value)
    assert "docker/openface" in str(failed.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("exit 1", "OpenFace ended with status 1"),
        ("kill -SEGV $$", "OpenFace was ended by SIGSEGV"),
        ("exit 0", "OpenFace wrote no CSV"),
    ],
)
def test_an_openface_that_fails_is_a_message(
    program: Program, clip: Path, tmp_path: Path, lines: str, message: str
) -> None:
    with pytest.raises(OpenFaceFailed) as failed:
        run_openface(clip, tmp_path / "out", Settings(openface=program(lines)))
    assert str(failed.value) == message


def test_a_program_that_cannot_be_started_is_a_message(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OpenFaceFailed) as failed:
        run_openface(clip, tmp_path / "out", Settings(openface=clip))
    assert "cannot be started: Permission denied" in str(failed.value)


def test_an_openface_out_of_time_is_ended_with_its_children(program: Program, clip: Path, tmp_path: Path) -> None:
    # Reading ends when the last process that has the pipe open for writing has ended: the script or its child.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    settings = Settings(openface=program(f"exec 9> '{pipe}'\nsleep 600 &\nwait"), openface_timeout=0.5)
    with pytest.raises(OpenFaceFailed) as failed:
        run_openface(clip, tmp_path / "out", settings)
    assert str(failed.value) == "OpenFace did not end within 0.5 s (EMMR_OPENFACE_TIMEOUT)"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # no writer is left
    os.close(reader)


def test_an_openface_that_ignores_sigterm_is_killed(
    program: Program, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.video.TERM_SECONDS", 0.2)
    settings = Settings(openface=program("trap '' TERM\nwhile :; do sleep 600; done"), openface_timeout=0.5)
    with pytest.raises(OpenFaceFailed) as failed:
        run_openface(clip, tmp_path / "out", settings)
    assert "did not end within" in str(failed.value)
