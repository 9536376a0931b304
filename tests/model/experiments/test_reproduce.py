import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from model.experiments.cell import run_cell
from model.experiments.grid import Cell, read_grid
from model.experiments.reproduce import EXIT_FAILED, reproduce, run_cells
from model.experiments.results import ANSWERS, ERROR, RESULT
from model.training.trainer import RunPaths
from model.training.training_state import FACTS
from tests.model.experiments.conftest import mini_grid

ROOT = Path(__file__).parents[3]
RUN = """
import sys
from pathlib import Path
from rich.console import Console
from model.experiments.grid import read_grid
from model.experiments.reproduce import run_cells

if __name__ == "__main__":
    grid, data, work = map(Path, sys.argv[1:])
    run_cells(read_grid(grid), data, work, work / "features", 1, Console())
"""


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and content of each file."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_killed_grid_continues_without_running_finished_cells(
    tmp_path: Path, mosi_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, script = tmp_path / "work", tmp_path / "run.py"
    grid = mini_grid(tmp_path / "grid.yaml", "late-fusion", "ae", "emmr")
    script.write_text(RUN, encoding="utf-8")
    first, second, broken = (cell.folder(work) for cell in read_grid(grid))
    # The state of a training that cannot be read: its cell fails.
    (broken / "run" / "seed-0").mkdir(parents=True)
    (broken / "run" / "seed-0" / FACTS).write_text("{", encoding="utf-8")
    command = [sys.executable, *map(str, (script, grid, mosi_data, work))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:  # ends with the last process that writes to it: the workers end with their parent
            lines.append(line)
            if line.startswith("1/3 mosi late-fusion, seed 0: validation macro-F1 "):
                process.kill()
    assert process.returncode < 0, lines
    before = content(first)
    assert before.keys() == {RESULT, ANSWERS}

    failed = run_cells(read_grid(grid), mosi_data, work, work / "features", 1, Console())
    assert failed == 1
    assert content(first) == before
    assert content(second).keys() == {RESULT, ANSWERS}
    assert "CheckpointError" in (broken / ERROR).read_text(encoding="utf-8")
    assert not (broken / RESULT).exists()
    printed = capsys.readouterr().out
    assert re.search(r"^3 cells, [12] of them finished before$", printed, re.MULTILINE)
    assert re.search(r"^[12]/[12] mosi emmr, seed 0: failed: CheckpointError: .*cannot be read", printed, re.MULTILINE)


def test_a_corpus_without_data_fails_all_its_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, out = mini_grid(tmp_path / "grid.yaml", "ae", "tate"), tmp_path / "out"
    status = reproduce(str(grid), tmp_path / "absent", out, tmp_path / "work", tmp_path / "features", 1)
    assert status == EXIT_FAILED
    errors = [cell.folder(tmp_path / "work") / ERROR for cell in read_grid(grid)]
    assert all("utterances.csv" in error.read_text(encoding="utf-8") for error in errors)
    assert "2/2 mosi tate, seed 0: failed: CorpusError" in capsys.readouterr().out
    assert (out / "report.md").is_file()


def test_the_report_alone_is_written_of_the_cells_chosen(
    cells: Mapping[str, Cell], mosi_data: Path, paths: RunPaths, tmp_path: Path
) -> None:
    for variant in ("late-fusion", "ae"):
        run_cell(cells[variant], mosi_data, paths)
    grid = mini_grid(tmp_path / "grid.yaml", "late-fusion", "ae", "emmr", "tate")
    status = reproduce(
        str(grid),
        mosi_data,
        tmp_path,
        paths.folder,
        paths.cache,
        1,
        only=["variant=ae", "variant=tate"],
        report_only=True,
    )
    assert status == 0
    assert {line.split(",")[1] for line in (tmp_path / "runs.csv").read_text().splitlines()[1:]} == {"ae"}
