"""The command line: `emmr serve`, `predict`, `train` and `evaluate`.

Each command imports what it needs when it runs, so that `--help` is fast. Bad input ends with status 2.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from app.settings import Settings

EXIT_BAD_INPUT: Final = 2

cli = typer.Typer(
    name="emmr",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="The polarity of an utterance from its words, voice and face, with any of them missing.",
    epilog="[b]Try:[/b]  emmr predict --text 'What a lovely surprise!'   ·   emmr serve",
)

Weights = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="A weights folder.", show_default="the shipped weights"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, …", show_default="auto")]


def main() -> None:
    """Entry point of the console script."""
    cli()


def _show_version(wanted: bool) -> None:
    if wanted:
        import av
        import soundfile

        typer.echo(f"emmr {version('emmr')}")
        typer.echo(f"decoders: libsndfile {soundfile.__libsndfile_version__}, FFmpeg {av.ffmpeg_version_info}")
        raise typer.Exit


@cli.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The polarity of an utterance from its words, voice and face, with any of them missing."""


@cli.command(rich_help_panel="Use")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any that is free.", show_default="8000")] = None,
    weights: Weights = None,
    device: Device = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
) -> None:
    """Serve POST /predict, a page at /, /health, /metrics and /model.

    Every limit is an environment variable too: EMMR_MAX_BODY_BYTES, EMMR_QUEUE_SIZE, EMMR_API_KEYS, …
    The options given here take precedence over the environment.
    """
    settings = _settings(host=host, port=port, weights=weights, device=device, log_level=log_level)
    from app.linux import erase_variables, forbid_dumps
    from app.settings import SECRET_VARIABLES

    # A decoder process that an upload has taken over must not find the keys.
    erase_variables(SECRET_VARIABLES)
    forbid_dumps()
    from app.server import EXIT_FAILED
    from app.server import serve as run

    status = run(settings)
    if status == EXIT_FAILED:
        # Without destructors: those of a lost CUDA context abort the process, which would then end by SIGABRT.
        sys.stderr.flush()
        os._exit(status)
    raise typer.Exit(status)


@cli.command(rich_help_panel="Use")
def predict(
    text: Annotated[str | None, typer.Option(help="The words.")] = None,
    audio: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The voice: WAV, FLAC, OGG, MP3, WebM or M4A."),
    ] = None,
    openface: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The face: an OpenFace 2 CSV."),
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
    as_json: Annotated[
        bool | None,
        typer.Option("--json/--table", help="The answer as JSON or as a table.", show_default="a table on a terminal"),
    ] = None,
) -> None:
    """Answer for one utterance: give its words, its voice, its face, or any two or one of them.

    The answer has the same fields as the service's.
    """
    if text is None and audio is None and openface is None:
        _exit_bad_input("Nothing to answer: give at least one of --text, --audio and --openface.")
    if face_id is not None and openface is None:
        _exit_bad_input("--face-id chooses a face of --openface, which is not given.")
    settings = _settings(weights=weights, device=device, key_threshold=threshold)
    from app.offline import predict_once

    with _errors_as_messages():
        answer = predict_once(
            settings,
            # Arguments that are not UTF-8 contain surrogates; as bytes they are refused like any other bad text.
            text=None if text is None else os.fsencode(text),
            audio=audio,
            openface=openface,
            explain=explain,
            face_id=face_id,
        )
    if as_json if as_json is not None else not sys.stdout.isatty():
        typer.echo(answer.model_dump_json(indent=2))
    else:
        from rich.console import Console

        from app.offline import render

        Console().print(render(answer))


@cli.command(rich_help_panel="Make")
def train(
    corpus: Annotated[
        str,
        typer.Option(
            help="composite, composite2, mosi, mmsa, csd, meld, iemocap-4, ravdess, … (docs/data.md lists all), or "
            "manifest for your own: a CSV or JSON lines file of clips."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(exists=True, help="The folder of the corpora or the corpus's, or its file.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the weights to.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Model and training configuration, JSON."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="What to train: emmr, ae, cra, mctn, transm, mmin, tate, late-fusion or classical.",
            show_default="the configuration's, else emmr",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs to train.", show_default="the configuration's")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for computed features, kept between runs.")] = Path(
        ".cache/features"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes computing features.", show_default="one a processor")
    ] = None,
) -> None:
    """Train weights on a corpus; the epoch that is best on its validation part is kept."""
    with _errors_as_messages():
        from model.training.commands import train as run

        status = run(
            corpus=corpus,
            data=data,
            out=out,
            config=config,
            seed=seed,
            epochs=epochs,
            resume=resume,
            device=device,
            cache=cache,
            workers=workers or os.cpu_count() or 1,
            system=system,
        )
    raise typer.Exit(status)


@cli.command(rich_help_panel="Make")
def evaluate(
    corpus: Annotated[
        str,
        typer.Option(help="As for train, also voices and faces; manifest for your own file of clips."),
    ],
    data: Annotated[
        Path,
        typer.Option(exists=True, help="The folder of the corpora or the corpus's, or its file.", show_default=False),
    ],
    split: Annotated[
        str, typer.Option(help="train, val, test, or ood: corpora that are in no training part.")
    ] = "test",
    weights: Weights = None,
    system: Annotated[
        str | None,
        typer.Option(help="Weights of this system: the folder of that name beside the shipped weights, or --weights."),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="File to write every figure to.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="HTML file to write figures and diagrams to; needs the train extra."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
) -> None:
    """Score weights: each subset of modalities, missing rate and corpus, key-missing detection and the gate."""
    settings = _settings(weights=weights)
    if system is not None and weights is None and system != "emmr":
        settings = _settings(weights=settings.weights.parent / system)
    with _errors_as_messages():
        from model.training.commands import evaluate as run

        status = run(
            corpus=corpus,
            data=data,
            split=split,
            weights=settings.weights,
            json_out=json_out,
            device=device,
            report=report,
            system=system,
        )
    raise typer.Exit(status)


def _exit_bad_input(message: str) -> NoReturn:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(EXIT_BAD_INPUT)


def _settings(**options: Any) -> "Settings":
    """Read the settings from the environment; options that are not None take precedence."""
    from pydantic import ValidationError

    from app.settings import Settings

    chosen = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        _exit_bad_input("Settings that do not fit: " + "; ".join(faults))


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Exit with the message the service would answer with, instead of a traceback, for errors of input or weights."""
    from app.errors import ServiceError
    from model.errors import EMMRError, ModalityError

    try:
        yield
    except (ServiceError, ModalityError) as error:
        from app.api.problems import as_service_error

        problem = as_service_error(error)
        places = [" ".join(filter(None, (fault.part, fault.place))) for fault in problem.faults]
        where = f" ({', '.join(filter(None, places))})" if any(places) else ""
        _exit_bad_input(f"{problem.title}: {problem.detail}{where}")
    except EMMRError as error:
        _exit_bad_input(str(error))
