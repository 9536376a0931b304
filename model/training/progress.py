"""The course of a training run: its record for early stopping, its console lines and its TensorBoard scalars."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter


@dataclass(slots=True)
class FitReport:
    """The validation scores of a run.

    Args:
        best_epoch: the one that is kept, counted from 1.
        best_macro_f1: validation macro-F1 of that epoch, the mean over the missing patterns.
        by_pattern: the same by pattern.
        history: mean validation macro-F1 of every epoch.
        losses: mean of each part of the training loss, of every epoch.
        trained_share: of the trained parameters in the average with the initial ones, whose scores then are the best
            ones; None where they are not averaged.
    """

    best_epoch: int = 0
    best_macro_f1: float = -1.0
    by_pattern: dict[str, float] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    trained_share: float | None = None

    def record(self, by_pattern: dict[str, float], *, select: bool = True) -> bool:
        """Add an epoch's validation macro-F1 by pattern; return whether it is kept.

        It is if its mean is the best so far, or without `select`.
        """
        mean = float(np.mean(list(by_pattern.values())))
        self.history.append(mean)
        kept = mean > self.best_macro_f1 or not select
        if kept:
            self.best_epoch, self.best_macro_f1, self.by_pattern = len(self.history), mean, by_pattern
        return kept

    def stale(self, patience: int) -> bool:
        """Whether none of the last `patience` epochs was the best."""
        return len(self.history) - self.best_epoch >= patience


class Monitor:
    """Console and TensorBoard of one run.

    Args:
        console: for a line an epoch.
        folder: of the run, for the scalars; None to write none.
        start: the next epoch, counted from 0; scalars from it on, left by an interrupted run, are dropped.
    """

    def __init__(self, console: Console, folder: Path | None, start: int) -> None:
        self._console = console
        self._writer = None if folder is None else SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def losses(self, epoch: int, means: Mapping[str, float]) -> None:
        """Write an epoch's mean losses."""
        self._scalars("loss", epoch, means)

    def validated(self, epoch: int, by_pattern: Mapping[str, float], *, best: bool) -> None:
        """Write and print an epoch's validation macro-F1 by pattern."""
        mean = float(np.mean(list(by_pattern.values())))
        self._scalars("validation", epoch, {"macro_f1": mean, **by_pattern})
        figures = "  ".join(f"{name} {score:.3f}" for name, score in by_pattern.items())
        mark = "*" if best else " "
        self._console.print(f"epoch {epoch + 1:>3} {mark} validation macro-F1 {mean:.4f}   {figures}", highlight=False)

    def close(self) -> None:
        """Flush the scalars."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, group: str, epoch: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, epoch + 1)


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar during the block; calling the yielded function advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
