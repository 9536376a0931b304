"""Disk cache of computed features. The name of an entry is the SHA-256 of the source's content and of the recipe.

A moved file keeps its entry; a changed file or recipe gets a new one. Imports no torch, so that workers start quickly.
"""

import hashlib
import io
import json
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from model.errors import CorpusError, EmptyModality, ModalityError
from model.training.datasets.base import (
    ActionUnitMeansSource,
    ComputedSource,
    OpenFaceSource,
    SoundSource,
    Source,
    TextSource,
)
from model.types import FloatArray

Batch = TypeVar("Batch")
Result = TypeVar("Result")
AnySource = TypeVar("AnySource", bound=ComputedSource)

_FORMAT: Final = b"emmr-feature-1"  # part of every key: raise it when the entry layout changes
_CHECKSUM_SIZE: Final = hashlib.sha256().digest_size
_ARRAY, _ABSENCE = b"A", b"E"


@dataclass(frozen=True, slots=True)
class Absence:
    """An entry of a source whose modality counts as missing.

    Args:
        reason: the code of `EmptyModality`: `silent`, `too_short`, `no_face`.
        detail: the same in words.
    """

    reason: str
    detail: str


_Outcome = FloatArray | Absence


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A folder of computed features.

    Args:
        folder: of the entries; created where it does not exist.
        recipe: everything besides the content that the features depend on (the configuration and version of the
            extractor, for example).
        console: for the progress bar, which is shown only if something is computed.
    """

    folder: Path
    recipe: str
    console: Console | None = None
    _digests: dict[Path, bytes] = field(default_factory=dict, init=False)  # each file is hashed once for all variants

    def get_or_compute(
        self,
        sources: Iterable[AnySource],
        compute: Callable[[Sequence[AnySource]], Sequence[FloatArray]],
        *,
        title: str = "Features",
        batch_size: int = 1,
        workers: int = 1,
    ) -> dict[Source, FloatArray]:
        """Return the features of each source that has some, computing those without an entry.

        Args:
            sources: repeated ones are computed once.
            compute: at most `batch_size` sources → their `(T, d)` float32 in the same order; must be picklable if
                `workers` is more than 1.
            title: of the progress bar.
            batch_size: sources of one call; texts of similar length share a batch.
            workers: processes; 1 computes in this one.

        Raises:
            CorpusError: the content of a source is invalid or cannot be read; results before it are stored.
        """
        entries = {source: self._entry(source) for source in dict.fromkeys(sources)}
        outcomes = {source: _read_entry(entry) for source, entry in entries.items()}
        missing = [source for source, outcome in outcomes.items() if outcome is None]
        if batch_size > 1:
            missing.sort(key=lambda source: len(source.text) if isinstance(source, TextSource) else 0)
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        # Closed here also after an error, whose traceback would keep processes and threads running.
        with (
            closing(_map(partial(_attempt, compute), batches, workers)) as results,
            Progress(console=self.console, disable=not batches) as progress,
        ):
            task = progress.add_task(title, total=len(batches))
            for batch, result in zip(batches, results, strict=True):
                if isinstance(result, str):
                    location = getattr(batch[0], "path", None) or getattr(batch[0], "clip", "a sentence")
                    raise CorpusError(location, None, result)
                for source, outcome in zip(batch, result, strict=True):
                    _write_entry(entries[source], outcome)
                    outcomes[source] = outcome
                progress.advance(task)
        return {source: outcome for source, outcome in outcomes.items() if isinstance(outcome, np.ndarray)}

    def _entry(self, source: ComputedSource) -> Path:
        key = hashlib.sha256(_FORMAT)
        for part in (self.recipe.encode(), *self._content(source)):
            key.update(len(part).to_bytes(8, "little") + part)
        name = key.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.feature"

    def _content(self, source: ComputedSource) -> tuple[bytes, ...]:
        match source:
            case TextSource(text):
                return b"text", text.encode()
            case SoundSource(path, augmentation):
                return b"sound", self._digest(path), str(augmentation).encode()
            case OpenFaceSource(path):
                return b"openface", self._digest(path)
            case ActionUnitMeansSource(_, values):
                return b"action_units", np.asarray(values, dtype="<f8").tobytes()

    def _digest(self, path: Path) -> bytes:
        if path not in self._digests:
            try:
                with path.open("rb") as file:
                    self._digests[path] = hashlib.file_digest(file, "sha256").digest()
            except OSError as error:
                raise CorpusError(path, None, f"cannot be read: {error.strerror}") from error
        return self._digests[path]


def _map(function: Callable[[Batch], Result], batches: Sequence[Batch], workers: int) -> Generator[Result, None, None]:
    if workers <= 1 or len(batches) <= 1:
        yield from map(function, batches)
        return
    with process_pool(min(workers, len(batches))) as pool:
        yield from pool.map(function, batches)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that compute in one thread each: a thread per core in each is five times slower on small matrices."""
    # Spawned, not forked: a forked child may deadlock on locks of the parent's threads (torch, BLAS).
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_initialise)


def _initialise() -> None:
    threadpool_limits(1)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended; otherwise it would go on with queued work, then wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt(
    compute: Callable[[Sequence[AnySource]], Sequence[FloatArray]], batch: Sequence[AnySource]
) -> list[_Outcome] | str:
    """Return the features of a batch, the absence of a single source, or the message of an error in the content."""
    try:
        return [np.ascontiguousarray(array, dtype=np.float32) for array in compute(batch)]
    except ModalityError as error:
        if isinstance(error, EmptyModality) and len(batch) == 1:
            return [Absence(error.reason, error.detail)]
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _read_entry(entry: Path) -> _Outcome | None:
    """The content of an entry; None where it does not exist or its checksum is wrong."""
    try:
        content = entry.read_bytes()
    except FileNotFoundError:
        return None
    checksum, payload = content[:_CHECKSUM_SIZE], content[_CHECKSUM_SIZE:]
    if hashlib.sha256(payload).digest() != checksum:
        return None
    kind, body = payload[:1], payload[1:]
    if kind == _ABSENCE:
        return Absence(**json.loads(body))
    return cast(FloatArray, np.load(io.BytesIO(body), allow_pickle=False))


def _write_entry(entry: Path, outcome: _Outcome) -> None:
    """Write to a temporary file and rename it: readers see the whole entry or none."""
    body = io.BytesIO()
    if isinstance(outcome, Absence):
        body.write(_ABSENCE + json.dumps(asdict(outcome)).encode())
    else:
        body.write(_ARRAY)
        np.save(body, outcome, allow_pickle=False)
    payload = body.getvalue()
    entry.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        Path(temporary).replace(entry)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
