"""Coverage-guided fuzzing of every reader of uploads (half of `make fuzz`), with Atheris.

Runs `tools.fuzz.atheris_process` for each target, again after each finding, and keeps the inputs of findings.
"""

import argparse
import hashlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.fuzz.seeds import dictionary, seeds
from tools.fuzz.targets import LENGTH, LONGEST, TARGETS, TIMEOUT
from tools.load.report import Result, add_options, report

ROOT: Final = Path(__file__).parents[2]
MEMORY: Final = 2048  # MiB, the limit of a decoder process of the service
KEPT: Final = ROOT / ".cache" / "fuzz"
START_SECONDS: Final = 120.0  # past its time before a process counts as hung
# For one process: Atheris never frees the operands of instrumented array comparisons, about 1 KiB an input.
MAX_INPUTS: Final = 400_000
NO_TIMEOUT: Final = 10**6  # seconds; `atheris_process` has a limit of its own
MAX_FINDINGS: Final = 20  # of one target; after these it is not started again

_EXECUTED: Final = re.compile(r"^#(\d+)\s", re.MULTILINE)
_COVERAGE: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_STAT: Final = re.compile(r"^stat::(\w+):\s+(\d+)", re.MULTILINE)
_CAUSE: Final = re.compile(
    r"^(?: === Uncaught Python exception: ===\n(.*)|==\d+== ?(?:ERROR: )?(libFuzzer: .*))$", re.MULTILINE
)


@dataclass(slots=True)
class Tally:
    """Counts over the processes of one target."""

    processes: int = 0
    executed: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    peak: int = 0
    slowest: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, log: str) -> None:
        """Add the output of one process."""
        self.processes += 1
        stats = {name: int(value) for name, value in _STAT.findall(log)}
        counted = [int(number) for number in _EXECUTED.findall(log)]
        self.executed += stats.get("number_of_executed_units", max(counted, default=0))
        self.peak = max(self.peak, stats.get("peak_rss_mb", 0))
        self.slowest = max(self.slowest, stats.get("slowest_unit_time_sec", 0))
        if reached := _COVERAGE.findall(log):
            self.coverage, self.features, self.corpus = map(int, reached[-1])


def fuzz(target: str, seconds: float, seed: int, kept: Path) -> Result:
    """Fuzz one target for `seconds`; inputs that are findings are written to `kept`."""
    tally, began = Tally(), time.monotonic()
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="emmr-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds(target).values()):
            (corpus / f"seed-{number}").write_bytes(content)
        dictionary_file = Path(folder) / "words"
        dictionary_file.write_text("".join(f'"{_escaped(word)}"\n' for word in dictionary(target)), encoding="ascii")
        while (left := seconds - (time.monotonic() - began)) > 1 and len(tally.findings) < MAX_FINDINGS:
            log, status = _run(target, corpus, dictionary_file, kept, left, seed + tally.processes)
            tally.add(log)
            if status:
                tally.findings.append(_cause(log, status))
    result = Result(
        f"atheris: {target}",
        {
            "seconds": round(time.monotonic() - began),
            "inputs": tally.executed,
            "inputs /s": tally.executed / max(1.0, time.monotonic() - began),
            "coverage (edges)": tally.coverage,
            "features": tally.features,
            "corpus": tally.corpus,
            "slowest input s": tally.slowest,
            "peak memory MiB": tally.peak,
            "processes": tally.processes,
            "seed": seed,
            "findings": len(tally.findings),
        },
        tally.findings,
    )
    result.expect(tally.executed > len(seeds(target)), "no input but the seeds was run")
    return result


def _run(target: str, corpus: Path, dictionary_file: Path, kept: Path, seconds: float, seed: int) -> tuple[str, int]:
    """Run one process until its time is up or it has a finding; returns its output and status."""
    current = corpus.with_name("current")
    current.write_bytes(bytes(LENGTH.size + LONGEST[target]))
    command = [
        sys.executable, "-m", "tools.fuzz.atheris_process", target, str(current), str(corpus),
        f"-max_total_time={max(1, int(seconds))}", f"-runs={MAX_INPUTS}",
        f"-timeout={NO_TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST[target]}", f"-seed={seed}",
        f"-dict={dictionary_file}", f"-artifact_prefix={kept}/", "-print_final_stats=1", "-reload=0",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = process.wait(seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        log.seek(0)
        output = log.read()
    if status < 0:  # by a signal: libFuzzer could not write the input
        output += f"Test unit written to {_save(current.read_bytes(), kept)}\n"
    return output, status


def _save(current: bytes, kept: Path) -> Path:
    """Write the input that was being read to `kept`."""
    content = current[LENGTH.size :][: LENGTH.unpack_from(current)[0]]
    path = kept / f"ended-{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"
    path.write_bytes(content)
    return path


def _cause(log: str, status: int) -> str:
    found = _CAUSE.search(log)
    output = next(filter(None, found.groups()), "") if found else log.strip()[-300:]
    match -status:
        case signal.SIGPROF:
            output = f"one input takes more than {TIMEOUT:g} processor seconds"
        case signal.SIGKILL:
            output = "the process hung"
    artifact = re.search(r"Test unit written to (\S+)", log)
    return f"status {status}: {output.strip()[:300]}" + (f" ({Path(artifact[1]).name})" if artifact else "")


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if bytes([byte]).isalnum() else f"\\x{byte:02x}" for byte in word)


def _results(options: argparse.Namespace) -> Iterator[Result]:
    for target in options.targets or TARGETS:
        yield fuzz(target, 60 * options.minutes, options.seed, options.kept / target)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of uploads, guided by coverage.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="target", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=KEPT, help="a folder for inputs that are findings")
    add_options(parser)
    options = parser.parse_args()
    return report("atheris", _results(options), options)


if __name__ == "__main__":
    sys.exit(main())
