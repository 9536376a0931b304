"""`emmr score`: answers for all rows of a manifest or folder, with the service's engine in this process."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from app.api.problems import as_service_error
from app.api.response import compose, model_name
from app.api.schemas import Prediction
from app.engine.engine import Engine, ready_engine
from app.engine.predictor import Options
from app.errors import DeviceLost, NotReady, ServiceError
from app.logging import configure_logging, get_logger
from app.scoring.results import Failure, Results, open_results
from app.scoring.rows import Row, read_rows
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import ConfigError, ModalityError

WINDOW: Final = 4  # batches of rows that are read ahead of the row that is written next
REPORT_SECONDS: Final = 10.0  # between lines of progress, where standard error is not a terminal
UNREADABLE_ROW: Final = "Unreadable row"
UNREADABLE_FILE: Final = "Unreadable file"
INTERNAL_ERROR: Final = "Internal error"


def score(settings: Settings, source: Path, out: Path) -> None:
    """Write an answer or an error for every row of `source` that `out` does not have; report to standard error.

    Args:
        settings: the weights, the limits of each part, and the number of decoder processes.
        source: see `app.scoring.rows.read_rows`.
        out: see `app.scoring.results.Results`.

    Raises:
        CorpusError: the source cannot be read.
        CheckpointError: the weights cannot be loaded.
        ConfigError: `out` cannot be written, or has other results.
        DeviceLost: the device no longer computes; `out` has the rows before.
    """
    configure_logging("error")
    notices: list[str] = []
    total = sum(1 for _ in read_rows(source, [out], notices.append))
    for notice in notices:
        Console(stderr=True).print(Text(f"warning: {notice}", style="yellow"), soft_wrap=True)
    asyncio.run(_score(settings, source, out, total))


async def _score(settings: Settings, source: Path, out: Path, total: int) -> None:
    window = WINDOW * settings.max_batch
    engine = await start_engine(settings)
    try:
        with open_results(out, model_name(engine.checkpoint)) as results:
            left = (row for row in read_rows(source, [out]) if row.id not in results.done)
            with reporting(total, len(results.done)) as report:
                try:
                    await _answer_rows(engine, left, results, window, report)
                    results.finish()
                except OSError as error:
                    raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        await engine.stop()


async def start_engine(settings: Settings) -> Engine:
    """Return an engine whose rows wait for each other and never are refused.

    Raises:
        CheckpointError: the weights cannot be loaded.
    """
    window = WINDOW * settings.max_batch
    return await ready_engine(settings.model_copy(update={"queue_size": window, "transcribe_queue": window}))


async def _answer_rows(engine: Engine, rows: Iterable[Row], results: Results, window: int, report: "Report") -> None:
    """Answer at most `window` rows at a time, and write them in their order."""
    waiting: deque[tuple[Row, asyncio.Task[Prediction | Failure]]] = deque()

    async def write_first() -> None:
        row, answer = waiting[0]
        outcome = await answer
        waiting.popleft()
        results.write(row, outcome)
        report.add(failed=isinstance(outcome, Failure))

    try:
        for row in rows:
            waiting.append((row, asyncio.create_task(_answer(engine, row))))
            if len(waiting) == window:
                await write_first()
        while waiting:
            await write_first()
    finally:
        for _, answer in waiting:
            answer.cancel()
        await asyncio.gather(*(answer for _, answer in waiting), return_exceptions=True)


async def _answer(engine: Engine, row: Row) -> Prediction | Failure:
    """Answer one row of this machine's files; raises as `answer_form`."""
    if row.fault is not None:
        return Failure(UNREADABLE_ROW, row.fault)
    form = RawForm()
    try:
        fill_form(row, form, engine.settings)
    except OSError as error:
        form.close()
        return Failure(UNREADABLE_FILE, f"{error.filename}: {error.strerror}")
    return await answer_form(engine, row, form)


async def answer_form(engine: Engine, row: Row, form: RawForm) -> Prediction | Failure:
    """Answer one row, and close its form.

    Raises:
        DeviceLost, NotReady: no row can be answered any more.
    """
    settings, log = engine.settings, get_logger()
    try:
        options = Options(threshold=settings.key_threshold, face_id=row.face_id, transcribe=settings.transcribe)
        result = await engine.answer(form, options)
        return compose(row.id, result, parsed=0.0)
    except (DeviceLost, NotReady):
        raise
    except (ServiceError, ModalityError) as error:
        return failure_of(error)
    except Exception as error:
        log.error("unhandled exception", exc_info=error)
        return Failure(INTERNAL_ERROR, type(error).__name__)
    finally:
        form.close()


def failure_of(error: ServiceError | ModalityError) -> Failure:
    """Return why a row has no answer."""
    problem = as_service_error(error)
    places = ("; ".join(filter(None, (fault.part, fault.place))) for fault in problem.faults)
    where = ", ".join(filter(None, places))
    return Failure(problem.title, f"{problem.detail} ({where})" if where else problem.detail)


def open_file(path: Path) -> IO[bytes]:
    """Open a file of this machine."""
    return path.open("rb")


def fill_form(row: Row, form: RawForm, settings: Settings, opened: Callable[[Path], IO[bytes]] = open_file) -> None:
    """Open the files of a row, and read its text.

    Raises:
        OSError: a file cannot be opened; that of `open_file` has the file name.
    """
    if isinstance(row.text, Path):
        with opened(row.text) as file:
            form.text = file.read(settings.max_text_bytes + 1)
    elif row.text is not None:
        form.text = row.text.encode()
    form.audio = None if row.audio is None else opened(row.audio)
    form.openface = None if row.openface is None else opened(row.openface)


class Report:
    """Counts rows, or what a manifest has of another `unit`, as they are written, and reports to standard error."""

    def __init__(self, total: int, done: int, console: Console, unit: str) -> None:
        self._total, self._before, self._console, self._unit = total, done, console, unit
        self._began = self._reported = time.monotonic()
        self.answered = self.failed = 0
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s, {{task.fields[failed]}} without an answer, left:"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("", total=total, completed=done, rate=0.0, failed=0)

    def add(self, *, failed: bool) -> None:
        """Count a row."""
        self.answered += not failed
        self.failed += failed
        now = time.monotonic()
        self.bar.update(self._task, advance=1, rate=self.rate, failed=self.failed)
        if self.bar.disable and now - self._reported >= REPORT_SECONDS:
            self._reported = now
            written = self._before + self.answered + self.failed
            seconds = (self._total - written) / self.rate
            self._console.print(
                f"{written:,} of {self._total:,} {self._unit}, {self.rate:.1f} {self._unit}/s, "
                f"{self.failed:,} without an answer, {seconds:.0f} s left",
                highlight=False,
            )

    @property
    def rate(self) -> float:
        """Rows a second since the first."""
        return (self.answered + self.failed) / max(1e-9, time.monotonic() - self._began)

    def close(self) -> None:
        """Report the sums."""
        line = f"{self.answered:,} answers, {self.failed:,} errors, {self.rate:.1f} {self._unit}/s"
        before = f"; {self._before:,} {self._unit} were there before" if self._before else ""
        self._console.print(line + before, highlight=False)


@contextmanager
def reporting(total: int, done: int, unit: str = "rows") -> Iterator[Report]:
    """Report the rows that are added to standard error: a bar on a terminal, lines elsewhere."""
    report = Report(total, done, Console(file=sys.stderr), unit)
    try:
        with report.bar:
            yield report
    finally:
        report.close()
