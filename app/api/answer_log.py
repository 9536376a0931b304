"""The answer log: a line of JSON for each answer, without content, for audits and for measuring drift."""

# A line is handed to the operating system at once, so that it survives the end of the process; a machine that stops may
# lose the last seconds. Files are synchronised (fsync) when they are rotated and at the end.

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Final

from app.api.schemas import Prediction
from app.logging import get_logger
from app.settings import Settings

WAITING: Final = 4096  # lines that may wait to be written
WRITTEN_AT_ONCE: Final = 256  # lines
STOP_SECONDS: Final = 5.0


class AnswerLog:
    """Appends answers to a file, on a thread of its own. Where that is not possible, lines are lost and counted.

    The file is opened for each write, so that it may be renamed or deleted by others.

    Args:
        path: of the file; its folder exists.
        max_bytes: size of the file from which it is renamed to `.1`, `.1` to `.2`, and so on.
        files: renamed files that are kept.
        on_loss: called with the number of lines that were lost, on any thread.
    """

    def __init__(self, path: Path, max_bytes: int, files: int, on_loss: Callable[[int], None] = lambda _: None) -> None:
        self._path, self._max_bytes, self._files, self._on_loss = path, max_bytes, files, on_loss
        self._lines: Queue[bytes | None] = Queue(WAITING)
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="emmr-answers", daemon=True)

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings, on_loss: Callable[[int], None]) -> Iterator["AnswerLog | None"]:
        """The log that the settings ask for, as long as the context; None if they ask for none."""
        if settings.log_answers is None:
            yield None
            return
        log = cls(settings.log_answers, settings.log_answers_bytes, settings.log_answers_files, on_loss)
        log.start()
        try:
            yield log
        finally:
            log.stop()

    def start(self) -> None:
        """Start to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, and end; a write that hangs is not waited for."""
        with suppress(Full):
            self._lines.put(None, timeout=STOP_SECONDS)
        self._thread.join(STOP_SECONDS)

    def record(self, prediction: Prediction) -> None:
        """Append an answer; returns at once."""
        try:
            self._lines.put_nowait(line(prediction))
        except Full:
            self._on_loss(1)

    def _run(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            with suppress(Empty):
                while len(lines) < WRITTEN_AT_ONCE:
                    lines.append(self._lines.get_nowait())
            ended = None in lines
            self._write([entry for entry in lines if entry is not None])
        with suppress(OSError):
            self._synchronise()

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._append(b"".join(lines))
        except OSError as error:
            self._on_loss(len(lines))
            if not self._failing:
                get_logger().warning("answers are not logged", reason=error.strerror)
            self._failing = True
            return
        if self._failing:
            get_logger().info("answers are logged again")
        self._failing = False

    def _append(self, content: bytes) -> None:
        """Write all of `content`, or nothing."""
        with suppress(FileNotFoundError):
            if self._path.stat().st_size >= self._max_bytes:
                self._synchronise()
                self._rotate()
        with self._path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise

    def _synchronise(self) -> None:
        with self._path.open("ab") as file:
            os.fsync(file.fileno())

    def _rotate(self) -> None:
        numbered = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._files + 1))]
        for newer, older in reversed(list(pairwise(numbered))):
            with suppress(FileNotFoundError):
                newer.replace(older)


def line(prediction: Prediction) -> bytes:
    """Return the line of an answer. Nothing of it is content: no text, no file name, no detail of a warning."""
    modalities = dict(prediction.modalities)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": prediction.request_id,
        "weights": prediction.model.name,
        "version": prediction.model.version,
        "subset": "+".join(name for name, use in modalities.items() if use.status == "present"),
        "polarity": prediction.polarity,
        "probabilities": {name: round(p, 6) for name, p in prediction.probabilities.items()},
        "key_score": prediction.key_missing.score,
        "key_missing": prediction.key_missing.modalities,
        "familiarity": {name: use.familiarity for name, use in modalities.items() if use.familiarity is not None},
        "warnings": [warning.code for warning in prediction.warnings],
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
