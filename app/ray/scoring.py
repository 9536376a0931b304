"""`emmr score --engine ray`: the rows of a manifest on all machines of a cluster, into a folder of Parquet files."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from app.api.schemas import Prediction
from app.engine.engine import Engine
from app.ray.parts import PartActor, answer_manifest
from app.scoring.results import Failure, columns_of, record_of, schema_of
from app.scoring.rows import Row, read_rows
from app.scoring.run import UNREADABLE_ROW, answer_form, fill_form, start_engine
from app.settings import Settings
from app.uploads.form import RawForm

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS: Final = 256
"""Rows of a part: what an interruption costs, and some ten seconds of work."""


def score(
    settings: Settings,
    source: str,
    out: str,
    actors: int | None = None,
    *,
    part_rows: int = PART_ROWS,
    storage: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write an answer or an error for every row of `source` that `out` does not have; report to standard error.

    Arguments and errors are those of `app.ray.parts.answer_manifest`.
    """
    answer_manifest(Scorer, settings, source, out, actors, part_rows, storage)


class Scorer(PartActor):
    """Answers the rows of a part as `app.scoring.run` does."""

    unit = "rows"

    @staticmethod
    def read_rows(manifest: Path, notify: Callable[[str], object]) -> Iterator[Row]:
        """Yield the rows of a manifest."""
        return read_rows(manifest, (), notify)

    @staticmethod
    async def start_engine(settings: Settings) -> Engine:
        """Return the engine."""
        return await start_engine(settings)

    def schema(self) -> "pa.Schema":
        """Return the schema of the results of `emmr score`."""
        return schema_of(columns_of(self.model.classes))

    def answer(self, rows: Sequence[Row]) -> tuple[Sequence[Mapping[str, Any]], list[bool]]:
        """Answer the rows at the same time, as far as the queue has room for them."""
        outcomes = self.runner.run(self._answer_rows(rows))
        records = [record_of(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]
        return records, [isinstance(outcome, Failure) for outcome in outcomes]

    async def _answer_rows(self, rows: Sequence[Row]) -> list[Prediction | Failure]:
        free = asyncio.Semaphore(self.engine.settings.queue_size)

        async def answer(row: Row) -> Prediction | Failure:
            async with free:
                return await self._answer_row(row)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(row)) for row in rows]
        return [task.result() for task in tasks]

    async def _answer_row(self, row: Row) -> Prediction | Failure:
        if row.fault is not None:
            return Failure(UNREADABLE_ROW, row.fault)
        form = RawForm()
        try:
            await asyncio.to_thread(fill_form, row, form, self.engine.settings, self.open)
        except OSError as error:
            form.close()
            return self.unreadable(error)
        return await answer_form(self.engine, row, form)
