"""`emmr score --engine ray`, compared with a run in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.scoring.run import score
from app.settings import Settings
from model.errors import ConfigError
from tests.app.ray.conftest import assert_equal_cells, read_parts
from tests.app.scoring.test_run import manifest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")]
__all__ = ["manifest"]


def by_id(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {record["id"]: record for record in records}
    assert len(found) == len(records)
    return found


def read_one(path: Path) -> dict[str, dict[str, Any]]:
    from pyarrow import parquet

    return {record["id"]: record for record in parquet.read_table(path).to_pylist()}


def assert_equal(rows: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> None:
    assert set(rows) == set(expected)
    for name, row in expected.items():
        assert_equal_cells(rows[name], row)


@pytest.mark.ray_core
def test_rows_are_those_of_one_process(address: str, settings: Settings, manifest: Path, tmp_path: Path) -> None:
    from app.ray.scoring import score as score_on_ray

    out = tmp_path / "parts"
    score_on_ray(settings, str(manifest), str(out), actors=2, part_rows=16)
    score(settings, manifest, tmp_path / "one.parquet")
    assert_equal(by_id(read_parts(str(out))), read_one(tmp_path / "one.parquet"))


def test_a_run_goes_on_with_the_rows_that_are_left(
    address: str, settings: Settings, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.ray.scoring import score as score_on_ray

    out = tmp_path / "parts"
    score_on_ray(settings, str(manifest), str(out), actors=1, part_rows=16)
    first, *rest = sorted(out.glob("part-*.parquet"))
    kept = {part: part.stat().st_mtime_ns for part in rest}
    complete = by_id(read_parts(str(out)))
    left = len(read_one(first))
    first.unlink()
    capsys.readouterr()
    score_on_ray(settings, str(manifest), str(out), actors=1, part_rows=16)
    assert f"{len(complete) - left} rows were there before" in capsys.readouterr().err
    assert_equal(by_id(read_parts(str(out))), complete)
    assert {part: part.stat().st_mtime_ns for part in rest} == kept


def test_results_of_other_weights_are_refused(address: str, settings: Settings, manifest: Path, tmp_path: Path) -> None:
    from app.ray.scoring import score as score_on_ray

    manifest.write_text("id,text\none,Hello.\n", encoding="utf-8")
    score_on_ray(settings, str(manifest), str(tmp_path / "parts"), actors=1)
    other = settings.model_copy(update={"weights": settings.weights.with_name("two")})
    with pytest.raises(ConfigError, match=r"part-\w+\.parquet was written with other weights"):
        score_on_ray(other, str(manifest), str(tmp_path / "parts"), actors=1)


def test_a_part_that_is_cut_is_an_error(address: str, settings: Settings, manifest: Path, tmp_path: Path) -> None:
    from app.ray.scoring import score as score_on_ray

    (tmp_path / "part-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"part-0\.parquet exists, and is no part of these results"):
        score_on_ray(settings, str(manifest), str(tmp_path), actors=1)


def test_manifest_files_and_results_may_be_on_object_storage(
    address: str, storage: str, settings: Settings, manifest: Path, tmp_path: Path
) -> None:
    import fsspec

    from app.ray.scoring import score as score_on_ray

    access = {"key": "key", "secret": "secret", "endpoint_url": storage}
    system = fsspec.filesystem("s3", **access)
    for path in manifest.parent.iterdir():
        if path.is_file():
            system.put_file(str(path), f"clips/{path.name}")
    score_on_ray(settings, "s3://clips/manifest.csv", "s3://clips/results", actors=1, storage=access)
    score(settings, manifest, tmp_path / "one.parquet")
    rows, expected = by_id(read_parts("s3://clips/results", **access)), read_one(tmp_path / "one.parquet")
    assert "nowhere.wav" in rows["nowhere"]["error_detail"]
    for found in (rows, expected):
        del found["nowhere"]["error_detail"]  # the address of the file
    assert_equal(rows, expected)
