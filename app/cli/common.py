"""Options and error messages that the commands share. Bad input ends with status 2."""

import gc
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import typer
import typer.core

if TYPE_CHECKING:
    from app.settings import Settings

EXIT_BAD_INPUT: Final = 2
EXTRAS: Final = {
    "faster_whisper": "asr",
    "h5py": "train",
    "httpx2": "client",
    "jinja2": "train",
    "matplotlib": "train",
    "peft": "train",
    "pyarrow": "parquet",
    "ray": "ray",
    "sklearn": "train",
    "tensorboard": "train",
    "threadpoolctl": "train",
    "yaml": "train",
}
"""Module → the extra whose packages contain it."""

Weights = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="A weights folder.", show_default="the shipped weights"),
]
Engine = Annotated[
    Literal["process", "ray"],
    typer.Option(help="process: this machine alone. ray: a Ray cluster, with the extra ray."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, …", show_default="auto")]


def exit_bad_input(message: str) -> NoReturn:
    """Print a message in red on standard error and exit with status 2."""
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(EXIT_BAD_INPUT)


def read_settings(**options: Any) -> "Settings":
    """Read the settings from the environment; options that are not None take precedence."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from app.settings import Settings, unknown_variables

    if unknown := unknown_variables(os.environ):
        names = (f"{name} (did you mean {nearest}?)" if nearest else name for name, nearest in unknown.items())
        exit_bad_input(f"Environment variables that are no settings: {', '.join(names)}")
    chosen = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**chosen)
    except SettingsError as error:  # quotes the name of the field alone
        field = re.search(r'field "(\w+)"', str(error))
        name = f"EMMR_{field[1].upper()}" if field else "A setting"
        exit_bad_input(f"""{name} is no JSON list; write for example {name}='["one", "two"]'.""")
    except ValidationError as error:
        # Without the value, which may be a secret.
        faults = [f"{_name_of(fault['loc'], chosen)}: {fault['msg']}" for fault in error.errors()]
        exit_bad_input("Settings that do not fit: " + "; ".join(faults))


def _name_of(location: Sequence[int | str], chosen: Collection[str]) -> str:
    """Return a setting's name as it was given: an option's, or that of the environment variable."""
    name, *place = map(str, location)
    return ".".join([name if name in chosen else f"EMMR_{name.upper()}", *place])


class Command(typer.core.TyperCommand):
    """A command that refuses an option given twice, of which the first would be ignored."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; see Click."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            if order.count(parameter) > 1 and not parameter.multiple and parameter.param_type_name == "option":
                ctx.fail(f"Option {parameter.opts[0]!r} is given more than once.")
        return super().parse_args(ctx, args)


@contextmanager
def without_collections() -> Iterator[None]:
    """Pause garbage collection in a command that ends with its answer.

    Nearly all objects are of modules and stay, so a search for others is in vain: a sixth of the time of a prediction.
    They are frozen at the end, because the interpreter searches them once more when it exits.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def errors_as_messages() -> Iterator[None]:
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
        exit_bad_input(f"{problem.title}: {problem.detail}{where}")
    except EMMRError as error:
        exit_bad_input(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = EXTRAS[package]
        exit_bad_input(f"This needs the package {package} of the extra {extra}: pip install 'emmr[{extra}]'")
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        exit_bad_input(f"{os.fsdecode(error.filename)}: {error.strerror}")
