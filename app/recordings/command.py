"""`emmr timeline`: the lines of a recording from files, with an engine in this process, and their tables."""

import asyncio
import csv
import io
import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import Progress

from app.api.response import compose, model_name
from app.api.schemas import InputWarning, Prediction
from app.engine.engine import Engine
from app.engine.predictor import Options, PreparedRequest
from app.logging import configure_logging
from app.recordings.html import embedded_audio, render_timeline
from app.recordings.schemas import GapLine, Line, RecordingLine, UtteranceLine
from app.recordings.timeline import Channels, Files, encode, open_recording, timeline
from app.settings import WITHOUT_CLIENTS, Settings
from app.uploads.form import RawForm
from app.video import open_video
from model.errors import CheckpointError, ConfigError
from model.modality import Modality

NO_PYARROW: Final = "a Parquet file needs the package pyarrow: pip install 'emmr[parquet]'"
FORMATS: Final = (".html", ".json", ".csv", ".parquet")
_USES: Final[Mapping[str, type]] = {"status": str, "reason": str, "coverage": float, "familiarity": float}
VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm")


async def answer_recording(
    settings: Settings,
    *,
    audio: Path | None = None,
    transcript: Path | None = None,
    openface: Path | None = None,
    channels: Channels = "mix",
    explain: bool = False,
    transcribe: Literal["never", "auto", "always"] = "never",
    speaker_normalization: bool = True,
) -> AsyncGenerator[Line]:
    """Yield the lines of a recording; see `app.recordings.timeline.timeline`.

    Args:
        settings: the weights and the limits.
        audio: the sound; at least one of the three files is given.
        transcript: the transcript.
        openface: the OpenFace CSV.
        channels: `speakers` to take each channel of the sound as a speaker.
        explain: whether to return votes and reconstruction figures.
        transcribe: whether the words of a voice are transcribed; `auto` where the transcript has none.
        speaker_normalization: whether voice and face are made relative to their speaker's level.

    Raises:
        ServiceError, ModalityError: a file is not accepted.
        CheckpointError: the weights cannot be loaded.
    """
    voices = settings.recording_parallel  # that wait to be transcribed at most
    settings = settings.model_copy(update={**WITHOUT_CLIENTS, "transcribe_queue": voices})
    engine = Engine(settings)
    options = Options(explain, settings.key_threshold, transcribe=transcribe)
    with ExitStack() as stack:
        paths = audio, openface, transcript
        opened = [None if path is None else stack.enter_context(path.open("rb")) for path in paths]
        words = None if opened[2] is None else opened[2].read()
        engine.start()
        try:
            await engine.started()
            if (predictor := engine.predictor) is None or not engine.lifecycle.ready:
                raise CheckpointError(engine.lifecycle.reason or "the weights cannot be loaded")

            async def prepare(form: RawForm) -> PreparedRequest:
                return await engine.prepare_utterance(form, options, predictor)

            async def answer(request: PreparedRequest) -> Prediction:
                return compose(uuid4().hex, await engine.answer_utterance(request), parsed=0.0)

            checkpoint = predictor.pipeline.checkpoint
            model = model_name(checkpoint)
            files = Files(audio=opened[0], transcript=words, openface=opened[1])
            async with open_recording(files, checkpoint.config, settings, channels) as recording:
                lines = timeline(recording, model, prepare, answer, speaker_normalization=speaker_normalization)
                async with aclosing(lines):
                    async for line in lines:
                        yield line
        finally:
            await engine.stop()


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
    types = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    parquet.write_table(pa.Table.from_pylist(table, schema=schema), path)


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
    transcribe: Literal["never", "auto", "always"],
    speaker_normalization: bool,
    embed_sound: bool,
) -> None:
    """Answer a recording, and write it to a file, or its lines to standard output as soon as each is known.

    Args:
        settings: the weights and the limits.
        out: the file; None for standard output.
        audio: the sound; or a video, whose subtitles and face serve where there is no `transcript` or `openface`.
        transcript: see `answer_recording`.
        openface: see `answer_recording`.
        channels: see `answer_recording`.
        explain: see `answer_recording`; an HTML file always has votes.
        transcribe: see `answer_recording`.
        speaker_normalization: see `answer_recording`.
        embed_sound: whether an HTML file contains the sound.

    Raises:
        ServiceError, ModalityError, CheckpointError: see `answer_recording` and `app.video.open_video`.
        ConfigError: `out` cannot be written, or is Parquet without pyarrow.
    """
    configure_logging("warning")
    if out is not None:
        _check_writable(out)
    explain = explain or (out is not None and out.suffix == ".html")
    warnings: dict[str, str] = {}
    with ExitStack() as stack:
        if audio is not None and audio.suffix.lower() in VIDEO_SUFFIXES:
            video = stack.enter_context(open_video(audio, settings, face=openface is None))
            audio, warnings = video.audio, video.warnings
            transcript, openface = transcript or video.transcript, openface or video.openface
        lines = answer_recording(
            settings,
            audio=audio,
            transcript=transcript,
            openface=openface,
            channels=channels,
            explain=explain,
            transcribe=transcribe,
            speaker_normalization=speaker_normalization,
        )
        collected = asyncio.run(_collect(lines, out is None, explain, warnings))
        if out is None:
            return
        try:
            if out.suffix == ".html":
                sound, media_type = embedded_audio(audio) if audio is not None and embed_sound else (None, "")
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
