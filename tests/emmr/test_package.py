import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import emmr
from app.settings import DEFAULT_WEIGHTS

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_client_imports_neither_pytorch_nor_the_service() -> None:
    loaded = run("import sys, emmr; emmr.Client, emmr.AsyncClient, emmr.ProblemError; print(*sys.modules)").split()
    assert "httpx2" in loaded
    assert not {"torch", "transformers", "fastapi", "soundfile", "app.engine"} & set(loaded)


def test_client_without_its_extra_names_it() -> None:
    code = "import sys; sys.modules['httpx2'] = None; import emmr\ntry: emmr.Client\nexcept ImportError as e: print(e)"
    assert "pip install 'emmr[client]'" in run(code)


def test_public_names_can_be_imported() -> None:
    assert [name for name in emmr.__all__ if getattr(emmr, name).__name__ != name] == []


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as refused:
        _ = emmr.nothing
    assert "'emmr' has no attribute 'nothing'" in str(refused.value)


def test_wheel_holds_code_page_and_shipped_weights(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("app", "emmr", "model", "weights/default"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True, cwd=source)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        weights = {info.filename: info.file_size for info in archive.infolist() if info.filename.startswith("weights/")}
    assert {"app/cli/__init__.py", "app/web/index.html", "app/py.typed", "emmr/client.py", "emmr/py.typed"} <= names
    assert weights == {f"weights/default/{path.name}": path.stat().st_size for path in DEFAULT_WEIGHTS.iterdir()}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "app",
        "emmr",
        "model",
        "weights",
    }
    assert wheel.stat().st_size < 12 * 2**20
