"""Write `docs/configuration.md`, the table of all settings, from `app.settings.Settings`.

`python -m docs.configuration` writes the page; with `--check` it fails where the page is not current.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.settings import KIB, MIB, Settings

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = Path(__file__).with_name("configuration.md")
HEAD: Final = """# Configuration

Every setting of the service, read once at start from an environment variable. Written by `make configuration` from
[`app/settings.py`](../app/settings.py); the test suite fails where this page is not current.

- Options of `emmr serve` (`--host`, `--port`, `--weights`, `--device`, `--log-level`) take precedence over the
  environment.
- Lists are JSON: `EMMR_API_KEYS='["one", "two"]'`.
- In a container, settings are lines of `emmr.env` beside `docker-compose.yml`.
- A value that does not fit, and a variable that begins with `EMMR_` and is no setting, ends the process with status 2
  and a message before anything is loaded. Kubernetes sets such variables where a Service is named `emmr`; the pod
  then needs `enableServiceLinks: false`.
- What is answered at each limit is in [Limits](limits.md); what the memory settings add up to is in
  [Memory](memory.md).

| Variable | Type | Default | Unit | Meaning |
| --- | --- | --- | --- | --- |
"""
UNITS: Final = {
    r"_bytes$": "bytes",
    r"_ms$": "milliseconds",
    r"_(seconds|timeout|period)$|^(deadline|max_wait|retry_after)$": "seconds",
    r"_audio_rate$": "Hz",
    r"^max_batch_cost$": "padded tokens",
    r"^key_threshold$": "probability",
}
BOUNDS: Final = ((annotated_types.Gt, "gt", ">"), (annotated_types.Ge, "ge", "≥"), (annotated_types.Le, "le", "≤"))
TYPES: Final = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "path", SecretStr: "secret"}


def main() -> None:
    """Write the page, or compare it with what would be written.

    Raises:
        SystemExit: with `--check`, where the page is not current.
    """
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit(f"{PAGE.relative_to(ROOT)} is not current: run make configuration")


def page() -> str:
    """Return the whole page."""
    source = dict(definitions())
    lines = []
    for name, field in Settings.model_fields.items():
        factory, docstring = source[name]
        default = f"`{factory}`" if factory else default_of(field.default)
        meaning = " ".join((field.description or docstring).split()).replace("|", r"\|")
        cells = (f"`EMMR_{name.upper()}`", type_of(field), default, unit_of(name), meaning)
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


def definitions() -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the name of each setting with the source of its default factory and its docstring, empty without one."""
    (definition,) = ast.parse(inspect.getsource(Settings)).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for statement, following in pairwise([*body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docstring = ast.literal_eval(following.value) if documented and isinstance(following, ast.Expr) else ""
            yield statement.target.id, (factory_of(statement.value), docstring)


def factory_of(value: ast.expr | None) -> str:
    """Return the expression of `Field(default_factory=lambda: …)`, empty for any other value."""
    keywords = value.keywords if isinstance(value, ast.Call) else []
    factories = [word.value for word in keywords if word.arg == "default_factory"]
    return "".join(
        re.sub(r"_?(processors|os\.cpu_count)\(\)", "processors", ast.unparse(factory.body))
        for factory in factories
        if isinstance(factory, ast.Lambda)
    )


def default_of(value: object) -> str:
    """Return a default as it would be written in the environment; sizes with their binary unit."""
    if value is None or value == ():
        return "–"
    if isinstance(value, Path):
        value = value.relative_to(ROOT) if value.is_relative_to(ROOT) else value
    written = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    unit = f" ({size // MIB} MiB)" if size >= MIB else f" ({size // KIB} KiB)" if size >= 32 * KIB else ""
    return f"`{written}`{unit if size % KIB == 0 else ''}"


def type_of(field: FieldInfo) -> str:
    """Return the type of a setting in words, with its bounds."""
    bounds = [
        f"{sign} {bound:g}"
        for item in field.metadata
        for kind, attribute, sign in BOUNDS
        if isinstance(item, kind) and isinstance(bound := getattr(item, attribute), int | float)
    ]
    return ", ".join([words(field.annotation), *bounds])


def words(annotation: Any) -> str:
    """Return a type annotation in words."""
    arguments = [argument for argument in get_args(annotation) if argument not in {NoneType, Ellipsis}]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if get_origin(annotation) is tuple:
        return f"list of {words(arguments[0])}s"
    return TYPES[annotation] if annotation in TYPES else words(arguments[0])


def unit_of(name: str) -> str:
    """Return the unit that a setting's name implies."""
    return next((unit for pattern, unit in UNITS.items() if re.search(pattern, name)), "–")


if __name__ == "__main__":
    main()
