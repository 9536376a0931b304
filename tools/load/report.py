"""Results of a load test: one line on the terminal, an object in JSON, a section of `docs/development/resilience.md`.

A load test passes when no result has failures.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "development" / "resilience.md"
Figure = str | int | float | bool | None | Sequence["Figure"] | Mapping[str, "Figure"]


@dataclass(slots=True)
class Result:
    """The result of one case, or of one load test.

    Args:
        name: of the case.
        figures: what was measured; names end with the unit.
        failures: descriptions of what is wrong; empty where the case passed.
    """

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def expect(self, condition: bool, failure: str) -> None:
        """Record a failure unless the condition holds."""
        if not condition:
            self.failures.append(failure)

    @property
    def passed(self) -> bool:
        """Whether there are no failures."""
        return not self.failures


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all load tests share."""
    parser.add_argument("--json", type=Path, help="write the results to this file; - is standard output")
    parser.add_argument("--record", action="store_true", help="put the figures into docs/development/resilience.md")


def report(test: str, found: Iterable[Result], options: argparse.Namespace) -> int:
    """Print results as they come, write and record them as the options say; returns the exit status."""
    results = []
    for result in found:
        sys.stdout.write(line(result) + "\n")
        sys.stdout.flush()
        results.append(result)
    written = json.dumps({"bench": test, "results": [asdict(one) | {"passed": one.passed} for one in results]})
    if str(options.json) == "-":
        sys.stdout.write(written + "\n")
    elif options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(written + "\n", encoding="utf-8")
    if options.record:
        PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), test, results), encoding="utf-8")
    return 0 if all(result.passed for result in results) else 1


def line(result: Result) -> str:
    """Format a result for a terminal."""
    figures = ", ".join(f"{name} {formatted(value)}" for name, value in result.figures.items())
    return "\n      ".join((f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {figures}", *result.failures))


def formatted(value: Figure) -> str:
    """Format a figure."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} × {formatted(count)}" for name, count in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(formatted, value)) or "–"
    return "–" if value is None else str(value)


def with_section(page: str, test: str, results: Sequence[Result]) -> str:
    """Return the page with the results of this test between its markers.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {test} -->\n", f"<!-- /{test} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no section marked {test}")
    return before + begin + table(results) + end + after


def table(results: Sequence[Result]) -> str:
    """Format results in Markdown, those with the same figures in one table."""
    tables: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        tables.setdefault(tuple(result.figures), []).append(result)
    return "\n".join(_rows(names, group) for names, group in tables.items())


def _rows(names: Sequence[str], results: Sequence[Result]) -> str:
    if len(results) == 1:  # a column is easier to read than a wide row
        cells = [("", results[0].name), *((name, formatted(results[0].figures[name])) for name in names)]
        rows = [*cells, ("passed", _verdict(results[0]))]
        return "".join(f"| {a} | {b} |\n" + ("| --- | --- |\n" if i == 0 else "") for i, (a, b) in enumerate(rows))
    head = f"| | {' | '.join(names)} | passed |\n|{' --- |' * (len(names) + 2)}\n"
    return head + "".join(
        f"| {one.name} | {' | '.join(formatted(one.figures[name]) for name in names)} | {_verdict(one)} |\n"
        for one in results
    )


def _verdict(result: Result) -> str:
    return "yes" if result.passed else f"**no**: {'; '.join(result.failures)}"
