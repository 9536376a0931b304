"""`emmr reproduce`: run the cells of a grid in parallel processes, then write the report."""

import statistics
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from model.errors import EMMRError
from model.experiments.cell import prepare_corpus, run_cell
from model.experiments.grid import GRIDS, Cell, read_grid, select_cells
from model.experiments.results import ERROR, RESULT, load_result, load_results
from model.training.cache import process_pool
from model.training.trainer import RunPaths

EXIT_FAILED: Final = 1


def reproduce(
    grid: str,
    data: Path,
    out: Path,
    work: Path,
    cache: Path,
    jobs: int,
    *,
    only: Sequence[str] = (),
    report_only: bool = False,
) -> int:
    """Run the unfinished cells of a grid and write the report of those that are finished.

    Args:
        grid: `full` or `quick`, or a YAML file.
        data: folder of the corpora.
        out: folder of the report.
        work: folder of the cells.
        cache: feature cache.
        jobs: processes, each with one thread; with CUDA the devices are dealt to the cells in turn.
        only: see `model.experiments.grid.select_cells`.
        report_only: run nothing.

    Returns:
        0, or `EXIT_FAILED` if a cell failed: its traceback is in its folder, and the next call tries it again.

    Raises:
        ConfigError: a grid or filter that cannot be used, or a result that cannot be read.
    """
    from model.experiments.reproduce_report import write_reproduction

    packaged = GRIDS / f"{grid}.yaml"
    cells = select_cells(read_grid(packaged if packaged.is_file() else Path(grid)), only)
    console = Console()
    failed = 0 if report_only else run_cells(cells, data, work, cache, jobs, console)
    folders = {cell.folder(work) for cell in cells}
    results = [result for result in load_results(work) if result.folder in folders]
    write_reproduction(results, out)
    console.print(f"{out}: {len(results)} of {len(cells)} cells", highlight=False)
    return EXIT_FAILED if failed else 0


def run_cells(cells: Sequence[Cell], data: Path, work: Path, cache: Path, jobs: int, console: Console) -> int:
    """Run the cells that are not finished, in their order; returns how many failed.

    What the cells of a corpus share is computed here, while cells of the corpus before are running.
    """
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] or [torch.device("cpu")]
    paths = RunPaths(work, cache, jobs, devices[0])
    unfinished = [cell for cell in cells if not (cell.folder(work) / RESULT).is_file()]
    progress = _Progress(unfinished, work, jobs, console)
    console.print(f"{len(cells)} cells, {len(cells) - len(unfinished)} of them finished before", highlight=False)
    with process_pool(jobs) as pool:
        try:
            for corpus, group in groupby(unfinished, key=lambda cell: cell.corpus):
                own, started = list(group), time.monotonic()
                try:
                    prepare_corpus(own[0], data, paths)
                except EMMRError as error:
                    for cell in own:
                        progress.failed(cell, error)
                    continue
                console.print(f"{corpus} prepared in {time.monotonic() - started:.0f} s", highlight=False)
                for number, cell in enumerate(own):
                    used = replace(paths, workers=1, device=devices[number % len(devices)])
                    pool.submit(run_cell, cell, data, used).add_done_callback(partial(progress.ended, cell))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return progress.failures


class _Progress:
    """Prints a line for each cell that ends, and records errors.

    Args:
        cells: that are to be run.
        work: folder of the cells.
        jobs: processes.
        console: for the lines.
    """

    def __init__(self, cells: Sequence[Cell], work: Path, jobs: int, console: Console) -> None:
        self.failures = 0
        self._left, self._total, self._work, self._jobs, self._console = list(cells), len(cells), work, jobs, console
        self._seconds: dict[str, list[float]] = defaultdict(list)  # by corpus
        self._lock = threading.Lock()  # cells end in a thread of the pool

    def ended(self, cell: Cell, future: "Future[None]") -> None:
        """A cell has ended, or its process has."""
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self.failed(cell, error)
            return
        (cell.folder(self._work) / ERROR).unlink(missing_ok=True)
        result = load_result(cell.folder(self._work))
        seconds, score = sum(filter(None, result.seconds.values())), statistics.fmean(result.validation.values())
        with self._lock:
            self._seconds[cell.corpus].append(seconds)
            self._line(cell, f"validation macro-F1 {score:.4f}, {seconds:.0f} s")

    def failed(self, cell: Cell, error: BaseException) -> None:
        """Record the error of a cell."""
        folder = cell.folder(self._work)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        with self._lock:
            self.failures += 1
            self._line(cell, f"failed: {type(error).__name__}: {error} ({folder / ERROR})")

    def _line(self, cell: Cell, text: str) -> None:
        self._left.remove(cell)
        every = [seconds for corpus in self._seconds.values() for seconds in corpus]
        left = ""
        if every:
            expected = sum(statistics.fmean(self._seconds.get(cell.corpus) or every) for cell in self._left)
            left = f"; about {expected / self._jobs / 60:.0f} min left"
        done = self._total - len(self._left)
        line = f"{done}/{self._total} {cell.name}: {text}{left}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
