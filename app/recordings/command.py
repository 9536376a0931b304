"""`emmr timeline`: the lines of a recording from files, with an engine in this process, and their tables."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import Progress

from app.api.response import compose, model_name
from app.api.schemas import InputWarning, Prediction
from app.engine.engine import Engine
from app.engine.predictor import Options
from app.logging import configure_logging
from app.recordings.html import embedded_audio, render_timeline
from app.recordings.schemas import GapLine, Line, RecordingLine, UtteranceLine
from app.recordings.timeline import Channels, Files, encode, open_recording, timeline
from app.settings import Settings
from app.uploads.form import RawForm
from app.video import open_video
from model.errors import CheckpointError, ConfigError
from model.modality import Modality

FORMATS: Final = (".html", ".json", ".csv", ".parquet")
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
) -> AsyncIterator[Line]:
    """Yield the lines of a recording; see `app.recordings.timeline.timeline`.

    Args:
        settings: the weights and the limits.
        audio: the sound; at least one of the three files is given.
        transcript: the transcript.
        openface: the OpenFace CSV.
        channels: `speakers` to take each channel of the sound as a speaker.
        explain: whether to return votes and reconstruction figures.
        transcribe: whether the words of a voice are transcribed; `auto` where the transcript has none.

    Raises:
        ServiceError, ModalityError: a file is not accepted.
        CheckpointError: the weights cannot be loaded.
    """
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

            async def answer(form: RawForm) -> Prediction:
                return compose(uuid4().hex, await engine.answer_utterance(form, options, predictor), parsed=0.0)

            checkpoint = predictor.pipeline.checkpoint
            files = Files(audio=opened[0], transcript=words, openface=opened[1])
            async with open_recording(files, checkpoint.config, settings, channels) as recording:
                async for line in timeline(recording, model_name(checkpoint), answer):
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
    table = rows(lines)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]) if table else ["index"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        path.write_text(text.getvalue(), encoding="utf-8")
        return
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("a Parquet file needs the package pyarrow: pip install 'emmr[parquet]'") from None
    parquet.write_table(pa.Table.from_pylist(table), path)


def rows(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each utterance and gap; the columns are those of the first utterance."""
    classes = next((list(line["probabilities"]) for line in lines if line["type"] == "utterance"), [])
    return [_row(line, classes) for line in lines if line["type"] in {"utterance", "gap"}]


def _row(line: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: line[name] for name in ("index", "type", "start", "end", "speaker", "text")}
    probabilities, key = line.get("probabilities", {}), line.get("key_missing") or {}
    row |= {"polarity": line.get("polarity"), "confidence": line.get("confidence")}
    row |= {f"p_{name}": probabilities.get(name) for name in classes}
    for modality in map(str, Modality):
        use = line["modalities"][modality]
        row |= {f"{modality}_{name}": use[name] for name in ("status", "reason", "coverage", "familiarity")}
    row |= {"key_detected": key.get("detected"), "key_score": key.get("score")}
    row["key_modalities"] = " ".join(key.get("modalities") or ())
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
        embed_sound: whether an HTML file contains the sound.

    Raises:
        ServiceError, ModalityError, CheckpointError: see `answer_recording` and `app.video.open_video`.
        ConfigError: see `write`.
    """
    configure_logging("warning")
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
        )
        collected = asyncio.run(_collect(lines, out is None, explain, warnings))
        if out is not None and out.suffix == ".html":
            sound, media_type = embedded_audio(audio) if audio is not None and embed_sound else (None, "")
            out.write_text(render_timeline(collected, sound, media_type), encoding="utf-8")
        elif out is not None:
            write(out, collected)


async def _collect(
    lines: AsyncIterator[Line], printed: bool, explain: bool, warnings: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Print the lines, or return them decoded and show the progress; `warnings` are added to the first."""
    collected: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), disable=printed, transient=True) as progress:
        task = progress.add_task("timeline", total=None)
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
