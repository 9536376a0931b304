import hashlib
from pathlib import Path

import pytest

from model.errors import CheckpointError, ConfigError
from model.features.packaged import packaged_file, verify_file


def test_file_of_a_package_is_located_without_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_file("some-weights", "a.bin", "encoder") == tmp_path / "some_weights" / "model" / "a.bin"


def test_missing_package_is_named() -> None:
    with pytest.raises(ConfigError, match="the package 'no-such-weights', which carries the encoder, is not installed"):
        packaged_file("no-such-weights", "a.bin", "encoder")


def test_missing_or_altered_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    published = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(CheckpointError, match=r"the encoder's a\.bin is missing or not the published one"):
        verify_file(path, published, "encoder")
    path.write_bytes(b"weights")
    verify_file(path, published, "encoder")
    path.write_bytes(b"weighty")
    with pytest.raises(CheckpointError, match="missing or not the published one"):
        verify_file(path, published, "encoder")
