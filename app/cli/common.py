"""Options and error messages that the commands share. Bad input ends with status 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from app.settings import Settings

EXIT_BAD_INPUT: Final = 2

Weights = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="A weights folder.", show_default="the shipped weights"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, …", show_default="auto")]


def exit_bad_input(message: str) -> NoReturn:
    """Print a message in red on standard error and exit with status 2."""
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(EXIT_BAD_INPUT)


def read_settings(**options: Any) -> "Settings":
    """Read the settings from the environment; options that are not None take precedence."""
    from pydantic import ValidationError

    from app.settings import Settings

    chosen = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        exit_bad_input("Settings that do not fit: " + "; ".join(faults))


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
