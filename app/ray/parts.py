"""A manifest answered in parts by the machines of a cluster, into a folder of Parquet files."""

# A part is a number of rows, the unit of work and a file of the results. It is written by the process that answers it,
# at once and under a name made of its ids, so that a part that is answered twice is in the results once.

import asyncio
import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, ClassVar, Final

import fsspec
import pyarrow as pa
import ray
import ray.data
from pyarrow import parquet
from rich.console import Console
from rich.text import Text

from app.api.response import model_name
from app.api.schemas import ModelName
from app.engine.engine import Engine
from app.logging import configure_logging
from app.ray.server import cluster
from app.scoring.results import Failure
from app.scoring.rows import Row
from app.scoring.run import UNREADABLE_FILE, open_file, reporting
from app.settings import Settings
from model.checkpoint import verify_hashes
from model.config import ModelConfig
from model.errors import ConfigError

SEPARATOR: Final = "://"
"""Of the protocol and the path in an address of fsspec; a source or result without it is on this machine."""


class PartActor(ABC):
    """Answers parts with an engine of one decoder process, which it keeps, and writes each.

    Args:
        settings: of the engine.
        out: folder of the results, or its address.
        folder: of the manifest on the machine that has read it.
        base: address of that folder; None if it is the same on every machine.
        storage: options of fsspec for the addresses.
    """

    unit: ClassVar[str]
    """What a row is, in the plural, for reports."""

    def __init__(
        self, settings: Settings, out: str, folder: Path, base: str | None, storage: Mapping[str, Any]
    ) -> None:
        configure_logging("error")
        self._folder, self._base, self._storage = folder, base, storage
        self._system, self._out = fsspec.url_to_fs(out, **storage)
        self.runner = asyncio.Runner()
        """Of the engine; it is idle between two calls of `answer`."""
        one = {"decode_workers": 1, "feature_threads": 1, "compute_workers": 1, "compute_threads": 1}
        self.engine = self.runner.run(self.start_engine(settings.model_copy(update=one)))
        self.model = model_name(self.engine.checkpoint)

    @staticmethod
    @abstractmethod
    def read_rows(manifest: Path, notify: Callable[[str], object]) -> Iterator[Row]:
        """Yield the rows of a manifest; see `app.scoring.rows.read_rows`."""

    @staticmethod
    @abstractmethod
    async def start_engine(settings: Settings) -> Engine:
        """Return the engine; raises `CheckpointError`."""

    @abstractmethod
    def schema(self) -> "pa.Schema":
        """Return the schema of a part, of which `id` and `model` are columns."""

    @abstractmethod
    def answer(self, rows: Sequence[Row]) -> tuple[Sequence[Mapping[str, Any]], list[bool]]:
        """Return the cells of a part, but for `model`, and for each row whether it has no answer."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the parts of a batch; return for each row of a part whether it has no answer."""
        return {"failed": [self._answer_part(part) for part in batch["rows"]]}

    def _answer_part(self, rows: Sequence[Row]) -> list[bool]:
        records, failed = self.answer(rows)
        records = [{**record, "model": _written(self.model)} for record in records]
        digest = hashlib.sha256("\n".join(row.id for row in rows).encode()).hexdigest()
        table = pa.Table.from_pylist(records, schema=self.schema())
        self._system.makedirs(self._out, exist_ok=True)
        # In a transaction the file is there when it is complete, and not before.
        with self._system.transaction, self._system.open(f"{self._out}/part-{digest[:32]}.parquet", "wb") as file:
            parquet.write_table(table, file)
        return failed

    @property
    def remote(self) -> bool:
        """Whether the files of the manifest are elsewhere than on this machine's file system."""
        return self._base is not None

    def open(self, path: Path) -> IO[bytes]:
        """Open a file of the manifest."""
        if self._base is None:
            return open_file(path)
        if not path.is_relative_to(self._folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        address = f"{self._base}/{path.relative_to(self._folder).as_posix()}"
        system, name = fsspec.url_to_fs(address, **self._storage)
        file: IO[bytes] = system.open(name, "rb")
        return file

    def unreadable(self, error: OSError) -> Failure:
        """Return why a row has no answer of which a file cannot be opened.

        Raises:
            OSError: a fault of the network, which is none of the row: it ends the run, which can be repeated.
        """
        if self.remote and not isinstance(error, FileNotFoundError | PermissionError):
            raise error
        return Failure(UNREADABLE_FILE, f"{error.filename}: {error.strerror}" if error.filename else str(error))


def answer_manifest(
    actor: type[PartActor],
    settings: Settings,
    source: str,
    out: str,
    actors: int | None,
    part_rows: int,
    storage: Mapping[str, Any],
    actor_arguments: Sequence[Any] = (),
) -> None:
    """Write an answer or an error for every row of `source` that `out` does not have; report to standard error.

    Args:
        actor: answers the parts.
        settings: the weights and the limits of each file.
        source: a manifest, or an address of fsspec (`s3://bucket/clips.csv`); its files are relative to it.
        out: folder of Parquet files, or an address of one.
        actors: processes that answer, each on one processor; one for each processor of the cluster if None.
        part_rows: rows that are answered and written together.
        storage: options of fsspec for the addresses, beside those of its configuration and the environment.
        actor_arguments: those of `actor` after those of `PartActor`.

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
    with _local_manifest(source, storage) as (manifest, base):
        notices: list[str] = []
        done = _ids_of(out, model, storage)
        rows = list(actor.read_rows(manifest, notices.append))
        for notice in notices:
            Console(stderr=True).print(Text(f"warning: {notice}", style="yellow"), soft_wrap=True)
        left = (row for row in rows if row.id not in done)
        parts = [{"rows": part} for part in iter(lambda: list(islice(left, part_rows)), [])]
        with cluster(), reporting(len(rows), sum(row.id in done for row in rows), actor.unit) as report:
            if not parts:
                return
            actors = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
            answered = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
                actor,
                fn_constructor_args=(settings, out, manifest.parent, base, dict(storage), *actor_arguments),
                batch_size=1,
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
            )
            for counts in answered.iter_rows():
                for failed in counts["failed"]:
                    report.add(failed=bool(failed))


@contextmanager
def _local_manifest(source: str, storage: Mapping[str, Any]) -> Iterator[tuple[Path, str | None]]:
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
