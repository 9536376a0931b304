"""The commands that use trained weights; each imports what it needs when it runs, so that `--help` is fast."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from app.cli.common import (
    Device,
    Engine,
    Weights,
    errors_as_messages,
    exit_bad_input,
    read_settings,
    without_collections,
)

if TYPE_CHECKING:
    from app.settings import Settings

EXIT_INTERRUPTED: Final = 130  # 128 and the number of SIGINT

Transcribe = Annotated[
    Literal["never", "auto", "always"] | None,
    typer.Option(
        help="Whether to transcribe the voice: auto where no text is given and the extra asr is installed.",
        show_default="auto",
    ),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any that is free.", show_default="8000")] = None,
    weights: Weights = None,
    device: Device = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
    log_answers: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File to append a line of JSON to for each answer, without its content."),
    ] = None,
    engine: Engine = "process",
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: of each deployment.", show_default="as many as the load needs"),
    ] = None,
) -> None:
    """Serve POST /predict, a page at /, /health, /metrics and /model.

    Every limit is an environment variable too: EMMR_MAX_BODY_BYTES, EMMR_QUEUE_SIZE, EMMR_API_KEYS, …
    The options given here take precedence over the environment.
    """
    settings = read_settings(
        host=host, port=port, weights=weights, device=device, log_level=log_level, log_answers=log_answers
    )
    from app.linux import erase_variables, forbid_dumps
    from app.settings import SECRET_VARIABLES

    # A decoder process that an upload has taken over must not find the keys.
    erase_variables(SECRET_VARIABLES)
    forbid_dumps()
    from app.server import EXIT_FAILED

    with errors_as_messages():
        if engine == "ray":
            from app.ray.server import serve as serve_on_ray

            status = serve_on_ray(settings, replicas)
        else:
            from app.server import serve as run

            status = run(settings)
    if status == EXIT_FAILED:
        # Without destructors: those of a lost CUDA context abort the process, which would then end by SIGABRT.
        sys.stderr.flush()
        os._exit(status)
    raise typer.Exit(status)


def predict(
    text: Annotated[str | None, typer.Option(help="The text; - reads it from standard input.")] = None,
    audio: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The voice: WAV, FLAC, OGG, MP3, WebM or M4A."),
    ] = None,
    openface: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The face: an OpenFace 2 CSV."),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="A video (MP4, MOV, MKV or WebM): its sound, subtitles and face, for what is not given by the others.",
        ),
    ] = None,
    face_id: Annotated[
        int | None,
        typer.Option(min=0, help="The face of the file to follow.", show_default="the most confident one"),
    ] = None,
    weights: Weights = None,
    device: Device = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add every head's vote.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Report a key missing modality from this probability of another answer on.",
            show_default="the weights' own",
        ),
    ] = None,
    transcribe: Transcribe = None,
    as_json: Annotated[
        bool | None,
        typer.Option("--json/--table", help="The answer as JSON or as a table.", show_default="a table on a terminal"),
    ] = None,
) -> None:
    """Answer for one utterance: give its text, its voice, its face, or any two or one of them.

    The answer has the same fields as the service's.
    """
    if text is None and audio is None and openface is None and video is None:
        exit_bad_input("Nothing to answer: give at least one of --text, --audio, --openface and --video.")
    if face_id is not None and openface is None and video is None:
        exit_bad_input("--face-id chooses a face of --openface or --video, neither of which is given.")
    with without_collections():
        settings = read_settings(weights=weights, device=device, key_threshold=threshold)
        with errors_as_messages():
            from app.offline import predict_once

            answer = predict_once(
                settings,
                text=None if text is None else _bytes_of(text, settings.max_text_bytes),
                audio=audio,
                openface=openface,
                video=video,
                explain=explain,
                face_id=face_id,
                transcribe=transcribe or _default_transcribe(settings),
            )
    if as_json if as_json is not None else not sys.stdout.isatty():
        typer.echo(answer.model_dump_json(indent=2))
    else:
        from rich.console import Console

        from app.offline import render

        Console().print(render(answer))


def convert_aus(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A CSV of another tool.")],
    out: Annotated[Path, typer.Argument(dir_okay=False, help="The CSV to write, for --openface.")],
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Frames per second, which gives times to a table without them.")
    ] = None,
) -> None:
    """Write action units of Py-Feat, LibreFace, AFFDEX or FACET (also from iMotions) as OpenFace 2 would.

    No conversion was compared with OpenFace 2 on the same recordings; answers carry the warning `converted`.
    """
    import io

    from rich.console import Console
    from rich.table import Table

    from model.features.visual.conversion import convert

    with errors_as_messages():
        written = io.StringIO()
        conversion = convert(source, written, fps)
    try:
        out.write_text(written.getvalue(), encoding="utf-8")
    except OSError as error:
        exit_bad_input(f"{out}: {error.strerror}")
    table = Table("action unit", "intensity", "occurrence")
    for unit in sorted({*conversion.intensities, *conversion.occurrences}):
        table.add_row(f"AU{unit:02d}", conversion.intensities.get(unit, "–"), conversion.occurrences.get(unit, "–"))
    Console().print(table)
    typer.echo(
        f"{out}: {conversion.frames} rows from {conversion.tool}, {conversion.without_face} without a face, "
        f"{conversion.other_faces} of other faces left out; absent units are 0; not compared with OpenFace 2"
    )


def timeline(
    audio: Annotated[
        str | None,
        typer.Argument(
            help="The sound, or a video; with --engine ray a manifest, CSV or JSON lines with the columns audio, "
            "transcript, openface and id.",
        ),
    ] = None,
    transcript: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="The transcript: SRT, WebVTT, Whisper JSON or CSV."
        ),
    ] = None,
    openface: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The face: an OpenFace 2 CSV with timestamps."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="File to write: .html, .json, .csv or .parquet; with --engine ray a folder of Parquet files.",
            show_default="lines of JSON to standard output",
        ),
    ] = None,
    channels: Annotated[
        Literal["mix", "speakers"], typer.Option(help="speakers: each channel of the sound is a speaker.")
    ] = "mix",
    transcribe: Transcribe = None,
    speaker_normalization: Annotated[
        bool,
        typer.Option(help="Whether voice and face are relative to their speaker's level, where the speaker is known."),
    ] = True,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="Whether an HTML file contains the sound.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Add every head's vote.")] = False,
    weights: Weights = None,
    device: Device = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As for predict.", show_default="the weights' own"),
    ] = None,
    engine: Engine = "process",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: recordings at a time.", show_default="one a processor"),
    ] = None,
) -> None:
    """Answer each utterance of a recording: an interview, a call or a talk of up to an hour.

    Utterances are the transcript's cues; where there are none, stretches with speech; elsewhere, windows over the face.

    With --engine ray the recordings of a manifest are answered on all machines of the cluster of RAY_ADDRESS, or on
    this one; manifest, files and results may be on object storage (s3://…). A recording that cannot be answered becomes
    a row with an error. The same command goes on where an earlier one was interrupted.
    """
    settings = read_settings(weights=weights, device=device, key_threshold=threshold)
    if engine == "ray":
        if audio is None or out is None or transcript is not None or openface is not None:
            exit_bad_input("--engine ray needs a manifest, which names all files of the recordings, and --out FOLDER.")
        with errors_as_messages(), _resumable():
            from app.ray.recordings import timeline as run_on_ray

            run_on_ray(
                settings,
                audio,
                out,
                workers,
                channels=channels,
                explain=explain,
                transcribe=transcribe or _default_transcribe(settings),
                speaker_normalization=speaker_normalization,
            )
        return
    if audio is None and transcript is None and openface is None:
        exit_bad_input("Nothing to answer: give a sound, --transcript or --openface.")
    with errors_as_messages():
        from app.recordings.command import FORMATS, run

        if audio is not None:
            _check_sound(audio)
        if out is not None and Path(out).suffix not in FORMATS:
            exit_bad_input(f"--out must end with one of {', '.join(FORMATS)}.")
        run(
            settings,
            None if out is None else Path(out),
            audio=None if audio is None else Path(audio),
            transcript=transcript,
            openface=openface,
            channels=channels,
            explain=explain,
            transcribe=transcribe or _default_transcribe(settings),
            speaker_normalization=speaker_normalization,
            embed_sound=sound,
        )


def score(
    source: Annotated[
        str,
        typer.Argument(
            help="A manifest, CSV or JSON lines with the columns text, audio, openface and id; or a folder of files.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="File to write: .csv, .jsonl or .parquet; with --engine ray a folder of Parquet files.",
            show_default=False,
        ),
    ],
    weights: Weights = None,
    device: Device = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="As for predict.", show_default="the weights' own")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, envvar="EMMR_DECODE_WORKERS", help="Processes that decode files.", show_default="one a processor"
        ),
    ] = None,
    transcribe: Annotated[
        Literal["never", "auto", "always"] | None,
        typer.Option(help="As for predict.", show_default="EMMR_TRANSCRIBE, else never"),
    ] = None,
    engine: Engine = "process",
) -> None:
    """Answer every row of a manifest or folder, on all processors.

    A row that cannot be answered becomes a row with an error. The same command goes on where an earlier one was
    interrupted: rows that are in the file already are left out.

    With --engine ray a manifest and the results may be on object storage (s3://…), and the rows are answered on all
    machines of the cluster of RAY_ADDRESS, or on this one.
    """
    settings = read_settings(
        weights=weights,
        device=device,
        key_threshold=threshold,
        decode_workers=workers or os.cpu_count() or 1,
        transcribe=transcribe,
    )
    with errors_as_messages():
        from app.scoring.results import FORMATS

        with _resumable():
            if engine == "ray":
                from app.ray.scoring import score as run_on_ray

                run_on_ray(settings, source, out, workers)
                return
            from app.scoring.run import score as run

            _check_readable(source)
            if Path(out).suffix not in FORMATS:
                exit_bad_input(f"--out must end with one of {', '.join(FORMATS)}.")
            run(settings, Path(source), Path(out))


@contextmanager
def _resumable() -> Iterator[None]:
    """End a command that is interrupted with a message that it can be repeated."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted; the same command goes on from here.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _check_readable(source: str) -> None:
    """Exit with a message where a file or folder cannot be read."""
    if not os.access(source, os.R_OK):
        exit_bad_input(f"{source} does not exist, or cannot be read.")


def _check_sound(audio: str) -> None:
    """Exit with a message where the sound of a timeline is no file, or a table."""
    _check_readable(audio)
    if Path(audio).is_dir():
        exit_bad_input(f"{audio} is a folder.")
    if Path(audio).suffix.lower() in {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}:
        exit_bad_input(
            f"{audio} is no sound. A face is given as --openface and a transcript as --transcript; "
            "a manifest of recordings needs --engine ray."
        )


def _bytes_of(text: str, limit: int) -> bytes:
    """Return the text of an option, for `-` that of standard input up to one byte past the limit."""
    if text == "-":
        return sys.stdin.buffer.read(limit + 1)
    # Arguments that are not UTF-8 contain surrogates; as bytes they are refused like any other bad text.
    return os.fsencode(text)


def _default_transcribe(settings: "Settings") -> Literal["never", "auto", "always"]:
    """Return what EMMR_TRANSCRIBE sets; `auto` if it is not set, unlike in the service."""
    return settings.transcribe if "transcribe" in settings.model_fields_set else "auto"
