"""`emmr timeline`: the lines of recordings from files, with an engine in this process, and their tables."""

import asyncio
import csv
import io
import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import Progress

from app.api.response import compose, model_name
from app.api.schemas import InputWarning, Prediction
from app.engine.engine import Engine, ready_engine
from app.engine.predictor import Options, PreparedRequest
from app.logging import configure_logging
from app.recordings.html import embedded_audio, render_timeline
from app.recordings.schemas import GapLine, Line, RecordingLine, UtteranceLine
from app.recordings.timeline import Channels, Files, encode, open_recording, timeline
from app.settings import Settings, Transcribe
from app.uploads.form import RawForm
from app.video import VideoParts, open_video
from model.errors import ConfigError
from model.modality import Modality

if TYPE_CHECKING:
    import pyarrow as pa

NO_PYARROW: Final = "a Parquet file needs the package pyarrow: pip install 'emmr[parquet]'"
FORMATS: Final = (".html", ".json", ".csv", ".parquet")
_USES: Final[Mapping[str, type]] = {"status": str, "reason": str, "coverage": float, "familiarity": float}
VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm")


async def start_engine(settings: Settings) -> Engine:
    """Return an engine that answers one recording after another.

    Raises:
        CheckpointError: the weights cannot be loaded.
    """
    voices = settings.recording_parallel  # that wait to be transcribed at most
    return await ready_engine(settings.model_copy(update={"transcribe_queue": voices}))


@contextmanager
def open_files(
    settings: Settings, audio: Path | None, transcript: Path | None, openface: Path | None
) -> Iterator[tuple[VideoParts, Files]]:
    """Open the files of a recording; provides their paths, and the files.

    Args:
        settings: of taking a video apart.
        audio: the sound; or a video, whose subtitles and face serve where there is no `transcript` or `openface`.
        transcript: the transcript.
        openface: the OpenFace CSV.

    Raises:
        ServiceError: see `app.video.open_video`.
        OSError: a file cannot be opened.
    """
    with ExitStack() as stack:
        parts = VideoParts(audio, transcript, openface)
        if audio is not None and audio.suffix.lower() in VIDEO_SUFFIXES:
            parts = stack.enter_context(open_video(audio, settings, face=openface is None))
            parts.transcript, parts.openface = transcript or parts.transcript, openface or parts.openface
        sound, face = (
            None if path is None else stack.enter_context(path.open("rb")) for path in (parts.audio, parts.openface)
        )
        words = None if parts.transcript is None else parts.transcript.read_bytes()
        yield parts, Files(audio=sound, transcript=words, openface=face)


async def answer_recording(
    engine: Engine,
    files: Files,
    *,
    channels: Channels = "mix",
    explain: bool = False,
    transcribe: Transcribe = "never",
    speaker_normalization: bool = True,
) -> AsyncGenerator[Line]:
    """Yield the lines of a recording; see `app.recordings.timeline.timeline`.

    Args:
        engine: of `start_engine`.
        files: at least one.
        channels: `speakers` to take each channel of the sound as a speaker.
        explain: whether to return votes and reconstruction figures.
        transcribe: whether the words of a voice are transcribed; `auto` where the transcript has none.
        speaker_normalization: whether voice and face are made relative to their speaker's level.

    Raises:
        ServiceError, ModalityError: a file is not accepted.
    """
    settings, predictor = engine.settings, engine.predictor
    assert predictor is not None  # as the engine is ready
    options = Options(explain, settings.key_threshold, transcribe=transcribe)

    async def prepare(form: RawForm) -> PreparedRequest:
        return await engine.prepare_utterance(form, options, predictor)

    async def answer(request: PreparedRequest) -> Prediction:
        return compose(uuid4().hex, await engine.answer_utterance(request), parsed=0.0)

    checkpoint = predictor.pipeline.checkpoint
    async with open_recording(files, checkpoint.config, settings, channels) as recording:
        lines = timeline(
            recording, model_name(checkpoint), prepare, answer, speaker_normalization=speaker_normalization
        )
        async with aclosing(lines):
            async for line in lines:
                yield line


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the lines of a recording as a JSON list, or its utterances and gaps as a CSV or Parquet table.

    Args:
        path: its ending gives the format: `.json`, `.csv` or `.parquet`.
        lines: decoded, of `app.recordings.timeline.encode`.

    Raises:
        ConfigError: Parquet without pyarrow.
        OSError: the file cannot be written.
    """
    if path.suffix == ".json":
        path.write_text(json.dumps(lines, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return
    columns, table = columns_of(lines[0]["model"]["classes"]), rows(lines)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        path.write_text(text.getvalue(), encoding="utf-8")
        return
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(NO_PYARROW) from None
    parquet.write_table(pa.Table.from_pylist(table, schema=schema_of(columns)), path)


def columns_of(classes: Sequence[str]) -> dict[str, type]:
    """Return the type of each column, for weights with these classes."""
    return {
        "index": int,
        "type": str,
        "start": float,
        "end": float,
        "speaker": str,
        "text": str,
        "polarity": str,
        "confidence": float,
        **{f"p_{name}": float for name in classes},
        **{f"{modality}_{name}": kind for modality in Modality for name, kind in _USES.items()},
        **{f"{modality}_speaker_normalized": bool for modality in (Modality.AUDIO, Modality.VISUAL)},
        "text_source": str,
        "transcribed_text": str,
        "transcribed_confidence": float,
        "key_missing_detected": bool,
        "key_missing_score": float,
        "key_missing_modalities": str,
        "warnings": str,
    }


def schema_of(columns: Mapping[str, type]) -> "pa.Schema":
    """Return the schema of a Parquet file with these columns."""
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def rows(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each utterance and gap, with the columns of `columns_of`; those that do not apply are None."""
    return [_row(line) for line in lines if line["type"] in {"utterance", "gap"}]


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: line[name] for name in ("index", "type", "start", "end", "speaker", "text")}
    row |= {"polarity": line.get("polarity"), "confidence": line.get("confidence")}
    row |= {f"p_{name}": value for name, value in line.get("probabilities", {}).items()}
    uses = line["modalities"]
    row |= {f"{modality}_{name}": uses[modality][name] for modality in Modality for name in _USES}
    row |= {f"{name}_speaker_normalized": uses[name]["speaker_normalized"] for name in ("audio", "visual")}
    words, key = uses["text"]["transcript"] or {}, line.get("key_missing") or {}
    row |= {"text_source": uses["text"]["source"]}
    row |= {"transcribed_text": words.get("text"), "transcribed_confidence": words.get("confidence")}
    row |= {"key_missing_detected": key.get("detected"), "key_missing_score": key.get("score")}
    row["key_missing_modalities"] = " ".join(key.get("modalities") or ())
    row["warnings"] = " ".join(warning["code"] for warning in line.get("warnings", ()))
    return row


def run(
    settings: Settings,
    out: Path | None,
    *,
    audio: Path | None,
    transcript: Path | None,
    openface: Path | None,
    channels: Channels,
    explain: bool,
    transcribe: Transcribe,
    speaker_normalization: bool,
    embed_sound: bool,
) -> None:
    """Answer a recording, and write it to a file, or its lines to standard output as soon as each is known.

    Args:
        settings: the weights and the limits.
        out: the file; None for standard output.
        audio: see `open_files`.
        transcript: see `open_files`.
        openface: see `open_files`.
        channels: see `answer_recording`.
        explain: see `answer_recording`; an HTML file always has votes.
        transcribe: see `answer_recording`.
        speaker_normalization: see `answer_recording`.
        embed_sound: whether an HTML file contains the sound.

    Raises:
        ServiceError, ModalityError: see `answer_recording` and `open_files`.
        CheckpointError: the weights cannot be loaded.
        ConfigError: `out` cannot be written, or is Parquet without pyarrow.
    """
    configure_logging("warning")
    if out is not None:
        _check_writable(out)
    explain = explain or (out is not None and out.suffix == ".html")
    with open_files(settings, audio, transcript, openface) as (parts, files):

        async def answer() -> list[dict[str, Any]]:
            engine = await start_engine(settings)
            try:
                lines = answer_recording(
                    engine,
                    files,
                    channels=channels,
                    explain=explain,
                    transcribe=transcribe,
                    speaker_normalization=speaker_normalization,
                )
                return await _collect(lines, out is None, explain, parts.warnings)
            finally:
                await engine.stop()

        collected = asyncio.run(answer())
        if out is None:
            return
        try:
            if out.suffix == ".html":
                heard = parts.audio if embed_sound else None
                sound, media_type = (None, "") if heard is None else embedded_audio(heard)
                out.write_text(render_timeline(collected, sound, media_type), encoding="utf-8")
            else:
                write(out, collected)
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}") from error


def _check_writable(out: Path) -> None:
    """Raise `ConfigError` before a recording is answered, and not after it, where its file cannot be written."""
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(NO_PYARROW)
    if not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"{out} cannot be written: no such folder, or no permission")


async def _collect(
    lines: AsyncGenerator[Line], printed: bool, explain: bool, warnings: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Print the lines, or return them decoded and show the progress; `warnings` are added to the first."""
    collected: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), disable=printed, transient=True) as progress:
        task = progress.add_task("timeline", total=None)
        async with aclosing(lines):
            async for line in lines:
                if isinstance(line, RecordingLine):
                    progress.update(task, total=line.duration)
                    found = [InputWarning(code=code, detail=detail) for code, detail in warnings.items()]
                    encoded = encode(line.model_copy(update={"warnings": [*line.warnings, *found]}))
                else:
                    encoded = encode(line, explain=explain)
                if printed:
                    typer.echo(encoded, nl=False)
                    continue
                collected.append(json.loads(encoded))
                if isinstance(line, UtteranceLine | GapLine):
                    progress.update(task, completed=line.end)
    return collected
