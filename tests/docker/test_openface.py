import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.video import run_openface

DOCKER = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/arguments"
while [ $# -gt 0 ]; do
  [ "$1" != -out_dir ] || folder=$2
  shift
done
echo frame > "$folder/clip.csv"
"""


def test_openface_comes_only_when_asked_for_and_without_privileges(compose: dict[str, Any]) -> None:
    service = compose["services"]["openface"]
    assert service["profiles"] == ["openface"]
    assert re.fullmatch(r"\$\{OPENFACE_IMAGE:-[a-z]+/openface:[a-z]+\}", service["image"])
    assert service["network_mode"] == "none"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert not service.get("volumes")


def test_the_program_runs_the_container_on_the_video_alone(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text(DOCKER, encoding="utf-8")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    video, folder = tmp_path / "my clip.mp4", tmp_path / "out"
    video.touch()
    written = run_openface(video, folder, Settings(openface=repository / "docker" / "openface"))
    assert written == folder / "clip.csv"
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
    at = arguments.index("openface")
    assert arguments[at + 1 :] == ["-f", str(video), "-out_dir", str(folder), "-aus"]
    mounts = [arguments[i + 1] for i, argument in enumerate(arguments[:at]) if argument == "--volume"]
    assert mounts == [f"{video}:{video}:ro", f"{folder}:{folder}"]
    file = Path(arguments[arguments.index("--file") + 1])
    assert file.samefile(repository / "docker-compose.yml")


def test_the_program_without_a_video_is_refused(repository: Path) -> None:
    refused = subprocess.run([repository / "docker" / "openface", "-aus"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("usage:")
