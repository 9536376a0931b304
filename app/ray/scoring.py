"""`emmr score --engine ray`: the rows of a manifest on all machines of a cluster, into a folder of Parquet files."""

# A part is a number of rows, the unit of work and a file of the results. It is written by the process that answers it,
# at once and under a name made of its ids, so that a part that is answered twice is in the results once.

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, Any, Final

import fsspec
import pyarrow as pa
import ray
import ray.data
from pyarrow import parquet
from rich.console import Console
from rich.text import Text

from app.api.response import model_name
from app.api.schemas import ModelName, Prediction
from app.logging import configure_logging
from app.ray.server import cluster
from app.scoring.results import Failure, columns_of, record_of, schema_of
from app.scoring.rows import Row, read_rows
from app.scoring.run import UNREADABLE_FILE, UNREADABLE_ROW, answer_form, fill_form, open_file, reporting, start_engine
from app.settings import Settings
from app.uploads.form import RawForm
from model.checkpoint import verify_hashes
from model.config import ModelConfig
from model.errors import ConfigError

PART_ROWS: Final = 256
"""Rows of a part: what an interruption costs, and some ten seconds of work."""
SEPARATOR: Final = "://"
"""Of the protocol and the path in an address of fsspec; a source or result without it is on this machine."""


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

    Args:
        settings: the weights and the limits of each part.
        source: a manifest, or an address of fsspec (`s3://bucket/clips.csv`); its files are relative to it.
        out: folder of Parquet files, or an address of one.
        actors: processes that answer, each on one processor; one for each processor of the cluster if None.
        part_rows: rows that are answered and written together.
        storage: options of fsspec for the addresses, beside those of its configuration and the environment.

    Raises:
        CorpusError: the source cannot be read.
        CheckpointError: the weights cannot be loaded.
        ConfigError: `out` has other results.
    """
    configure_logging("error")
    model = ModelName(
        version=verify_hashes(settings.weights),
        **ModelConfig.model_validate_json((settings.weights / "config.json").read_bytes()).model_dump(
            include={"name", "classes"}
        ),
    )
    with local_manifest(source, storage) as (manifest, base):
        notices: list[str] = []
        done = _ids_of(out, model, storage)
        rows = list(read_rows(manifest, (), notices.append))
        for notice in notices:
            Console(stderr=True).print(Text(f"warning: {notice}", style="yellow"), soft_wrap=True)
        left = (row for row in rows if row.id not in done)
        parts = [{"rows": part} for part in iter(lambda: list(islice(left, part_rows)), [])]
        with cluster(), reporting(len(rows), sum(row.id in done for row in rows)) as report:
            if not parts:
                return
            actors = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
            answered = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
                Scorer,
                fn_constructor_args=(settings, out, manifest.parent, base, dict(storage)),
                batch_size=1,
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
            )
            for counts in answered.iter_rows():
                for failed in counts["failed"]:
                    report.add(failed=bool(failed))


@contextmanager
def local_manifest(source: str, storage: Mapping[str, Any]) -> Iterator[tuple[Path, str | None]]:
    """Provide a manifest as a file of this machine, and the address of its folder if it is elsewhere."""
    if SEPARATOR not in source:
        yield Path(source).absolute(), None
        return
    base, _, name = source.rpartition("/")
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / name
        with fsspec.open(source, "rb", **storage) as remote:
            manifest.write_bytes(remote.read())
        yield manifest, base


def _ids_of(out: str, model: ModelName, storage: Mapping[str, Any]) -> set[str]:
    """Return the ids of the rows that the parts have.

    Raises:
        ConfigError: a part is no Parquet file of these results.
    """
    system, folder = fsspec.url_to_fs(out, **storage)
    ids = set[str]()
    for path in system.glob(f"{folder}/part-*.parquet"):
        try:
            with system.open(path, "rb") as file:
                table = parquet.read_table(file, columns=["id", "model"])
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path} exists, and is no part of these results: {error}") from error
        if set(table["model"].to_pylist()) != {_written(model)}:
            raise ConfigError(f"{path} was written with other weights; remove it or choose another --out")
        ids.update(table["id"].to_pylist())
    return ids


def _written(model: ModelName) -> str:
    return f"{model.name} {model.version}"


class Scorer:
    """Answers parts with an engine of one decoder process, and writes each.

    Args:
        settings: of the engine.
        out: folder of the results, or its address.
        folder: of the manifest on the machine that has read it.
        base: address of that folder; None if it is the same on every machine.
        storage: options of fsspec for the addresses.
    """

    def __init__(
        self, settings: Settings, out: str, folder: Path, base: str | None, storage: Mapping[str, Any]
    ) -> None:
        configure_logging("error")
        self._folder, self._base, self._storage = folder, base, storage
        self._system, self._out = fsspec.url_to_fs(out, **storage)
        self._runner = asyncio.Runner()
        one = {"decode_workers": 1, "feature_threads": 1, "compute_threads": 1}
        self._engine = self._runner.run(start_engine(settings.model_copy(update=one)))
        self._model = model_name(self._engine.checkpoint)
        self._columns = columns_of(self._model.classes)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the parts of a batch; return for each row of a part whether it has no answer."""
        return {"failed": [self._runner.run(self._answer(part)) for part in batch["rows"]]}

    async def _answer(self, rows: Sequence[Row]) -> list[bool]:
        free = asyncio.Semaphore(self._engine.settings.queue_size)

        async def answer(row: Row) -> Prediction | Failure:
            async with free:
                return await self._answer_row(row)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(row)) for row in rows]
        outcomes = [task.result() for task in tasks]
        await asyncio.to_thread(self._write, rows, outcomes)
        return [isinstance(outcome, Failure) for outcome in outcomes]

    async def _answer_row(self, row: Row) -> Prediction | Failure:
        if row.fault is not None:
            return Failure(UNREADABLE_ROW, row.fault)
        form = RawForm()
        try:
            await asyncio.to_thread(fill_form, row, form, self._engine.settings, self._open)
        except OSError as error:
            form.close()
            # A fault of the network is none of the row: it ends the run, which can be repeated.
            if self._base is not None and not isinstance(error, FileNotFoundError | PermissionError):
                raise
            return Failure(UNREADABLE_FILE, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return await answer_form(self._engine, row, form)

    def _open(self, path: Path) -> IO[bytes]:
        if self._base is None:
            return open_file(path)
        address = f"{self._base}/{path.relative_to(self._folder).as_posix()}"
        system, name = fsspec.url_to_fs(address, **self._storage)
        file: IO[bytes] = system.open(name, "rb")
        return file

    def _write(self, rows: Sequence[Row], outcomes: Sequence[Prediction | Failure]) -> None:
        records = [
            dict.fromkeys(self._columns) | record_of(row, outcome) | {"model": _written(self._model)}
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
        digest = hashlib.sha256("\n".join(row.id for row in rows).encode()).hexdigest()
        table = pa.Table.from_pylist(records, schema=schema_of(self._columns))
        self._system.makedirs(self._out, exist_ok=True)
        # In a transaction the file is there when it is complete, and not before.
        with self._system.transaction, self._system.open(f"{self._out}/part-{digest[:32]}.parquet", "wb") as file:
            parquet.write_table(table, file)
