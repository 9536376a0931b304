"""Features computed once and kept on disk, keyed by what they were computed from.

For: training runs that start in seconds after the first, and that resume where an interrupted one stopped.
Does not know: how features are computed; that is a function passed in. Needs no torch, so its workers start quickly.

An entry's name is the SHA-256 of the source's content (not of its path) and of the recipe, so that a moved file keeps
its entry, a changed file gets a new one, and so does a changed recipe. An entry is written aside and renamed, and holds
its own checksum: one that was cut short or altered is computed again.
"""

import hashlib
import io
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import CorpusError, EmptyModality, ModalityError
from model.training.datasets.base import ActionUnitMeansSource, OpenFaceSource, SoundSource, Source, TextSource
from model.types import FloatArray

AnySource = TypeVar("AnySource", bound=Source)

_FORMAT: Final = b"emmr-feature-1"  # part of every key: raise it when the entry layout changes
_CHECKSUM_SIZE: Final = hashlib.sha256().digest_size
_ARRAY, _ABSENCE = b"A", b"E"


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a source's modality counts as missing.

    Args:
        reason: the short code of `EmptyModality`: `silent`, `too_short`, `no_face`.
        detail: the same in words.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Fault:
    """Content that could not be read; travels from a worker in place of an exception."""

    detail: str


_Outcome = FloatArray | Absence


class Features(Mapping[Source, FloatArray]):
    """Source → `(T, d)` float32 features, for the sources that have some.

    Args:
        outcomes: an array or an absence for each source.

    Attributes:
        absent: source → why it has no features; never zeros in their place.
    """

    def __init__(self, outcomes: Mapping[Source, _Outcome]) -> None:
        self._arrays = {s: outcome for s, outcome in outcomes.items() if not isinstance(outcome, Absence)}
        self.absent = {s: outcome for s, outcome in outcomes.items() if isinstance(outcome, Absence)}

    def __getitem__(self, source: Source) -> FloatArray:
        return self._arrays[source]

    def __iter__(self) -> Iterator[Source]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class FeatureCache:
    """A folder of computed features.

    Args:
        folder: where entries are kept; made when missing.
        recipe: everything besides the content that the features depend on, as one string (the extractor's
            configuration and version, for example).
        console: where progress is shown; none is shown for what is already cached.
    """

    def __init__(self, folder: Path, recipe: str, console: Console | None = None) -> None:
        self.folder = folder
        self._recipe = recipe.encode()
        self._console = console
        self._digests: dict[Path, bytes] = {}  # a file is hashed once, however many variants of it are asked for

    def prepare(
        self,
        sources: Iterable[AnySource],
        compute: Callable[[AnySource], FloatArray],
        *,
        workers: int = 1,
        title: str = "Features",
    ) -> Features:
        """Get each source's features, computing those that are not kept yet.

        Args:
            sources: repeated ones are computed once.
            compute: source → `(T, d)` float32; a module-level function or a `functools.partial` of one where `workers`
                is more than 1, as it travels to other processes.
            workers: processes; 1 computes here.
            title: what the progress bar is called.

        Raises:
            CorpusError: a source's content is at fault or cannot be read; what was computed before it is kept.
        """
        outcomes, entries = self._load(sources)
        with self._progress(title, len(entries)) as advance:
            for source, result in _results(entries, compute, workers):
                outcomes[source] = self._keep(source, entries[source], result)
                advance(1)
        return Features(outcomes)

    def prepare_batches(
        self,
        sources: Iterable[AnySource],
        compute: Callable[[Sequence[AnySource]], Sequence[FloatArray]],
        *,
        batch_size: int = 64,
        title: str = "Features",
    ) -> Features:
        """Get each source's features, computing those that are not kept yet many at a time, in this process.

        Args:
            sources: repeated ones are computed once.
            compute: sources → their `(T, d)` float32 in the same order; sees at most `batch_size` sources, texts of
                about equal length together.
            batch_size: how many sources one call gets.
            title: what the progress bar is called.

        Raises:
            CorpusError: a batch's content is at fault; earlier batches are kept.
        """
        outcomes, entries = self._load(sources)
        waiting = sorted(entries, key=_length)
        with self._progress(title, len(entries)) as advance:
            for start in range(0, len(waiting), batch_size):
                batch = waiting[start : start + batch_size]
                try:
                    arrays = compute(batch)
                except ModalityError as error:
                    raise CorpusError(_place(batch[0]), None, str(error)) from error
                for source, array in zip(batch, arrays, strict=True):
                    outcomes[source] = self._keep(source, entries[source], array)
                advance(len(batch))
        return Features(outcomes)

    def _load(self, sources: Iterable[AnySource]) -> tuple[dict[Source, _Outcome], dict[AnySource, Path]]:
        """What is kept, and where what is not shall be."""
        outcomes: dict[Source, _Outcome] = {}
        entries: dict[AnySource, Path] = {}
        for source in dict.fromkeys(sources):
            entry = self._entry(source)
            outcome = _read_entry(entry)
            if outcome is None:
                entries[source] = entry
            else:
                outcomes[source] = outcome
        return outcomes, entries

    def _keep(self, source: Source, entry: Path, result: "_Outcome | _Fault") -> _Outcome:
        if isinstance(result, _Fault):
            raise CorpusError(_place(source), None, result.detail)
        _write_entry(entry, result)
        return result if isinstance(result, Absence) else _as_features(result)

    def _entry(self, source: Source) -> Path:
        key = hashlib.sha256(_FORMAT)
        for part in (self._recipe, *self._content(source)):
            key.update(len(part).to_bytes(8, "little") + part)
        name = key.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.feature"

    def _content(self, source: Source) -> tuple[bytes, ...]:
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

    @contextmanager
    def _progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, disable=total == 0) as progress:
            task = progress.add_task(title, total=total)
            yield lambda count: progress.advance(task, count)


def _results(
    sources: Iterable[AnySource], compute: Callable[[AnySource], FloatArray], workers: int
) -> Iterator[tuple[AnySource, "_Outcome | _Fault"]]:
    """Each source's result, in the order they are done."""
    waiting = list(sources)
    if workers <= 1 or len(waiting) <= 1:
        yield from ((source, _attempt(compute, source)) for source in waiting)
        return
    # Spawned, not forked: the parent may hold threads (torch, BLAS) that a forked child would find half-alive.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context)
    try:
        futures: dict[Future[_Outcome | _Fault], AnySource] = {
            pool.submit(_attempt, compute, source): source for source in waiting
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(compute: Callable[[AnySource], FloatArray], source: AnySource) -> "_Outcome | _Fault":
    """Compute, with what the content may do wrong as a value: it is to cross a process boundary."""
    try:
        return _as_features(compute(source))
    except EmptyModality as error:
        return Absence(error.reason, error.detail)
    except ModalityError as error:
        return _Fault(str(error))
    except OSError as error:
        return _Fault(f"cannot be read: {error.strerror}")


def _as_features(array: FloatArray) -> FloatArray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _place(source: Source) -> object:
    match source:
        case TextSource():
            return "a sentence"
        case ActionUnitMeansSource(clip):
            return clip
        case SoundSource(path) | OpenFaceSource(path):
            return path


def _length(source: Source) -> int:
    return len(source.text) if isinstance(source, TextSource) else 0


def _read_entry(entry: Path) -> _Outcome | None:
    """What an entry holds; None when it is not there, or not whole."""
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
    """Write beside and rename: a reader, or a later run, sees the whole entry or none."""
    body = io.BytesIO()
    if isinstance(outcome, Absence):
        body.write(_ABSENCE + json.dumps({"reason": outcome.reason, "detail": outcome.detail}).encode())
    else:
        body.write(_ARRAY)
        np.save(body, outcome, allow_pickle=False)
    payload = body.getvalue()
    entry.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=entry.parent, suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        Path(aside).replace(entry)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
