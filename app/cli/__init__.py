"""The command line: `emmr serve`, `predict`, `train`, `evaluate` and others."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from app.cli import doctor, training, use
from app.cli.common import Command

COMMANDS: Final[Mapping[str, Sequence[Callable[..., None]]]] = {
    "Use": (use.serve, use.predict, use.timeline, use.score, use.convert_aus, doctor.doctor),
    "Make": (training.train, training.evaluate, training.reproduce, training.compare),
}
"""Heading in the help → its commands."""

cli = typer.Typer(
    name="emmr",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="The polarity of an utterance from its text, voice and face, with any of them missing.",
    epilog="[b]Try:[/b]  emmr predict --text 'What a lovely surprise!'   ·   emmr serve",
)


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
    """The polarity of an utterance from its text, voice and face, with any of them missing."""


for panel, commands in COMMANDS.items():
    for command in commands:
        cli.command(cls=Command, rich_help_panel=panel)(command)
