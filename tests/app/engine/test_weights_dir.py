from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.types import StringConstraints

from app.engine.weights_dir import NAME, weights_folder
from app.settings import Settings
from model.errors import CheckpointError

Name = TypeAdapter(Annotated[str, StringConstraints(pattern=NAME)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("weights/one", "weights/two", "elsewhere", "weights/one/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "weights" / "file").write_text("no folder")
    (tmp_path / "weights" / "way-out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "weights" / "latest").symlink_to(tmp_path / "weights" / "two")
    return tmp_path / "weights"


def test_without_a_name_it_is_the_configured_folder(root: Path) -> None:
    assert weights_folder(Settings(weights=root / "one"), None) == root / "one"


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_name_is_a_folder_beside_the_configured_one(root: Path, name: str) -> None:
    assert weights_folder(Settings(weights=root / "one"), name) == root / name


def test_a_link_may_lead_to_a_neighbour(root: Path) -> None:
    assert weights_folder(Settings(weights=root / "one"), "latest") == root / "two"


def test_the_folder_of_folders_can_be_set(root: Path, tmp_path: Path) -> None:
    assert weights_folder(Settings(weights=root / "one", weights_root=tmp_path), "elsewhere") == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "name",
    ["nowhere", "file", "way-out", "..", ".", "../elsewhere", "one/../../elsewhere", "one/inner", "/tmp", ""],
)
def test_nothing_else_is(root: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no weights folder"):
        weights_folder(Settings(weights=root / "one"), name)


@pytest.mark.parametrize("name", ["a", "default", "v1.2_b-3", "A" * 128])
def test_a_folders_own_name_passes_for_one(name: str) -> None:
    assert Name.validate_python(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "ä", "-rf", "A" * 129, "a b"])
def test_a_path_does_not(name: str) -> None:
    with pytest.raises(ValidationError):
        Name.validate_python(name)
