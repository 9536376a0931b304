"""`emmr timeline --engine ray`: the recordings of a manifest on all machines of a cluster, each into a Parquet file."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from app.engine.engine import Engine
from app.errors import DeviceLost, NoRoom, NotReady, ServiceError
from app.logging import get_logger
from app.ray.parts import PartActor, answer_manifest
from app.recordings.command import answer_recording, columns_of, open_files, rows, schema_of, start_engine
from app.recordings.timeline import Channels, Files, encode
from app.scoring.results import Failure
from app.scoring.rows import Row, read_recordings
from app.scoring.run import INTERNAL_ERROR, UNREADABLE_ROW, failure_of
from app.settings import Settings, Transcribe
from app.transcription.recogniser import installed
from model.errors import ConfigError, ModalityError

if TYPE_CHECKING:
    import pyarrow as pa


def timeline(
    settings: Settings,
    source: str,
    out: str,
    actors: int | None = None,
    *,
    channels: Channels = "mix",
    explain: bool = False,
    transcribe: Transcribe = "never",
    speaker_normalization: bool = True,
    storage: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a part for every recording of `source` that `out` does not have; report to standard error.

    A part has the utterances and gaps of a recording as `app.recordings.command.write` has them, with the columns id,
    error_title, error_detail and model. A recording that cannot be answered is one row with the error, and one without
    utterances and gaps a row of id and model alone.

    Args:
        settings: see `app.ray.parts.answer_manifest`.
        source: see `app.ray.parts.answer_manifest`; its columns are those of `app.scoring.rows.read_recordings`.
        out: see `app.ray.parts.answer_manifest`.
        actors: see `app.ray.parts.answer_manifest`.
        channels: see `app.recordings.command.answer_recording`.
        explain: see `app.recordings.command.answer_recording`.
        transcribe: see `app.recordings.command.answer_recording`.
        speaker_normalization: see `app.recordings.command.answer_recording`.
        storage: see `app.ray.parts.answer_manifest`.

    Raises:
        CorpusError, CheckpointError, ConfigError: see `app.ray.parts.answer_manifest`.
        ConfigError: `transcribe` is `always`, and the extra `asr` is not installed.
    """
    if transcribe == "always" and not installed():  # or else every recording would be an error
        raise ConfigError("--transcribe always needs the extra asr (faster-whisper)")
    options = {
        "channels": channels,
        "explain": explain,
        "transcribe": transcribe,
        "speaker_normalization": speaker_normalization,
    }
    answer_manifest(RecordingActor, settings, source, out, actors, 1, storage, [options])


class RecordingActor(PartActor):
    """Answers a recording as `app.recordings.command` does.

    Args:
        settings: see `PartActor`.
        out: see `PartActor`.
        folder: see `PartActor`.
        base: see `PartActor`.
        storage: see `PartActor`.
        options: keyword arguments of `app.recordings.command.answer_recording`.
    """

    unit = "recordings"

    def __init__(
        self,
        settings: Settings,
        out: str,
        folder: Path,
        base: str | None,
        storage: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(settings, out, folder, base, storage)
        self._options = options

    @staticmethod
    def read_rows(manifest: Path, notify: Callable[[str], object]) -> Iterator[Row]:
        """Yield the recordings of a manifest."""
        return read_recordings(manifest, notify)

    @staticmethod
    async def start_engine(settings: Settings) -> Engine:
        """Return the engine."""
        return await start_engine(settings)

    def schema(self) -> "pa.Schema":
        """Return the schema of the tables of `emmr timeline`, with further columns."""
        columns = {"id": str, **columns_of(self.model.classes), "error_title": str, "error_detail": str, "model": str}
        return schema_of(columns)

    def answer(self, rows: Sequence[Row]) -> tuple[Sequence[Mapping[str, Any]], list[bool]]:
        """Answer the recordings one after another."""
        records: list[dict[str, Any]] = []
        failed: list[bool] = []
        for row in rows:
            outcome = self._answer_recording(row)
            failed.append(isinstance(outcome, Failure))
            if isinstance(outcome, Failure):
                records.append({"id": row.id, "error_title": outcome.title, "error_detail": outcome.detail})
            else:
                records += [{"id": row.id, **record} for record in outcome or [{}]]
        return records, failed

    def _answer_recording(self, row: Row) -> list[dict[str, Any]] | Failure:
        """Return the rows of a recording, or why it has none.

        Raises:
            DeviceLost, NotReady, NoRoom, OSError: not for this recording alone.
        """
        if row.fault is not None:
            return Failure(UNREADABLE_ROW, row.fault)
        with ExitStack() as stack:
            try:
                _, files = stack.enter_context(open_files(self.engine.settings, *self._paths(row, stack)))
                return self.runner.run(self._rows_of(files))
            except OSError as error:
                return self.unreadable(error)
            except (DeviceLost, NotReady, NoRoom):
                raise
            except (ServiceError, ModalityError) as error:
                return failure_of(error)
            except Exception as error:
                log = get_logger()
                log.error("unhandled exception", exc_info=error)
                return Failure(INTERNAL_ERROR, type(error).__name__)

    def _paths(self, row: Row, stack: ExitStack) -> tuple[Path | None, Path | None, Path | None]:
        """Return sound, transcript and face as files of this machine; copies are deleted with the stack.

        Raises:
            OSError: a file cannot be copied.
        """
        assert not isinstance(row.text, str)  # of a recording it is a file
        if not self.remote:
            return row.audio, row.text, row.openface
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="emmr-recording-")))
        audio = self._copy(row.audio, folder / "audio")
        transcript = self._copy(row.text, folder / "transcript")
        return audio, transcript, self._copy(row.openface, folder / "openface")

    def _copy(self, path: Path | None, target: Path) -> Path | None:
        if path is None:
            return None
        copy = target.with_suffix(path.suffix)  # which tells a video
        with self.open(path) as source, copy.open("wb") as file:
            shutil.copyfileobj(source, file)
        return copy

    async def _rows_of(self, files: Files) -> list[dict[str, Any]]:
        lines = answer_recording(self.engine, files, **self._options)
        return rows([json.loads(encode(line)) async for line in lines])
