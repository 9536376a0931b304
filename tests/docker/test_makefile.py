"""What `make serve` installs: the build of torch, and the message before the download."""

import os
import subprocess
from pathlib import Path

import pytest

PIP = '#!/bin/sh\necho "installed: $*"\n'


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose Python prints what it is asked to install."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP, encoding="utf-8")
    python.chmod(0o755)
    return tmp_path / "venv"


def install(repository: Path, environment: Path, *variables: str) -> str:
    variables = (f"VENV={environment}", f"SERVE_STAMP={environment}/stamp", *variables)
    command = ["make", "--no-print-directory", *variables, f"{environment}/stamp"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=repository, env=inherited, check=True, capture_output=True, text=True).stdout


def cpu_build(repository: Path) -> str:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.removeprefix("torch==") for line in lines if line.startswith("torch=="))
    return f"torch=={version}+cpu"


def test_an_index_of_cpu_builds_is_an_address_or_a_folder(repository: Path, environment: Path, tmp_path: Path) -> None:
    address = "https://packages.example/cpu"
    installed = install(repository, environment, "TORCH=cpu", f"TORCH_INDEX={address}")
    assert f"{cpu_build(repository)} --extra-index-url {address} --editable ." in installed
    (environment / "stamp").unlink()
    installed = install(repository, environment, "TORCH=cpu", f"TORCH_INDEX={tmp_path}")
    assert f"{cpu_build(repository)} --find-links {tmp_path} --editable ." in installed
    assert "no NVIDIA GPU" not in installed


def test_the_size_is_printed_before_the_download_without_a_gpu(repository: Path, environment: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    message, installed, _ = install(repository, environment).partition("installed:")
    assert "no NVIDIA GPU" in message
    assert "make serve TORCH=cpu TORCH_INDEX=" in message
    assert installed.strip()


def test_nothing_is_printed_once_torch_is_installed(repository: Path, environment: Path) -> None:
    (environment / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    assert "no NVIDIA GPU" not in install(repository, environment)
