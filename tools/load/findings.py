"""What a bench found: one line for a reader, an object for a machine, a section of `docs/resilience.md`.

For: every bench's end. A bench passes when nothing stands in `failures`.
Does not know: benches.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "resilience.md"
Figure = str | int | float | bool | None | Sequence["Figure"] | Mapping[str, "Figure"]


@dataclass(slots=True)
class Finding:
    """One case, or one bench.

    Args:
        name: what was done.
        figures: what was measured, by name and unit.
        failures: what is wrong, in words; empty where nothing is.
    """

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a failure unless `holds`."""
        if not holds:
            self.failures.append(otherwise)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every bench has."""
    parser.add_argument("--json", type=Path, help="write the findings to this file; - is standard output")
    parser.add_argument("--record", action="store_true", help="put the figures into docs/resilience.md")


def conclude(bench: str, found: Iterable[Finding], chosen: argparse.Namespace) -> int:
    """Print the findings as they come, write and record them; the exit status."""
    findings = []
    for finding in found:
        sys.stdout.write(line(finding) + "\n")
        sys.stdout.flush()
        findings.append(finding)
    written = json.dumps({"bench": bench, "findings": [asdict(one) | {"passed": one.passed} for one in findings]})
    if str(chosen.json) == "-":
        sys.stdout.write(written + "\n")
    elif chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(written + "\n", encoding="utf-8")
    if chosen.record:
        PAGE.write_text(recorded(PAGE.read_text(encoding="utf-8"), bench, findings), encoding="utf-8")
    return 0 if all(finding.passed for finding in findings) else 1


def line(finding: Finding) -> str:
    """A finding for a terminal."""
    figures = ", ".join(f"{name} {shown(value)}" for name, value in finding.figures.items())
    return "\n      ".join((f"{'ok  ' if finding.passed else 'FAIL'}  {finding.name}: {figures}", *finding.failures))


def shown(value: Figure) -> str:
    """A figure in words."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} × {shown(count)}" for name, count in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(shown, value)) or "–"
    return "–" if value is None else str(value)


def recorded(page: str, bench: str, findings: Sequence[Finding]) -> str:
    """The page with this bench's figures between its marks.

    Raises:
        ValueError: the page has no place for them.
    """
    begin, end = f"<!-- {bench} -->\n", f"<!-- /{bench} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no place marked {bench}")
    return before + begin + table(findings) + end + after


def table(findings: Sequence[Finding]) -> str:
    """The findings in Markdown, those with the same figures in one table."""
    tables: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        tables.setdefault(tuple(finding.figures), []).append(finding)
    return "\n".join(_rows(names, its) for names, its in tables.items())


def _rows(names: Sequence[str], findings: Sequence[Finding]) -> str:
    if len(findings) == 1:  # a column is easier to read than a wide row
        cells = [("", findings[0].name), *((name, shown(findings[0].figures[name])) for name in names)]
        rows = [*cells, ("passed", _verdict(findings[0]))]
        return "".join(f"| {a} | {b} |\n" + ("| --- | --- |\n" if i == 0 else "") for i, (a, b) in enumerate(rows))
    head = f"| | {' | '.join(names)} | passed |\n|{' --- |' * (len(names) + 2)}\n"
    return head + "".join(
        f"| {one.name} | {' | '.join(shown(one.figures[name]) for name in names)} | {_verdict(one)} |\n"
        for one in findings
    )


def _verdict(finding: Finding) -> str:
    return "yes" if finding.passed else f"**no**: {'; '.join(finding.failures)}"
