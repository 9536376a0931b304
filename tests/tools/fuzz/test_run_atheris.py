import signal
from pathlib import Path

import pytest

from tools.fuzz.run_atheris import Tally, _cause, _escaped, _save
from tools.fuzz.targets import LENGTH

ENDED = """#64\tINITED cov: 10 ft: 20 corp: 5/1Kb exec/s: 0 rss: 90Mb
#8192\tpulse  cov: 30 ft: 60 corp: 9/2Kb lim: 4096 exec/s: 100 rss: 95Mb
Done 9000 runs in 31 second(s)
stat::number_of_executed_units: 9000
stat::slowest_unit_time_sec:    2
stat::peak_rss_mb:              96
"""
CRASHED = """#64\tINITED cov: 12 ft: 20 corp: 5/1Kb exec/s: 0 rss: 90Mb

 === Uncaught Python exception: ===
Finding: a sample is not finite
Traceback (most recent call last):
==17== ERROR: libFuzzer: fuzz target exited
Test unit written to kept/crash-0123abc
"""
TOO_LARGE = """#5\tINITED cov: 12 ft: 20 corp: 5/1Kb exec/s: 0 rss: 90Mb
==17== ERROR: libFuzzer: out-of-memory (used: 2100Mb; limit: 2048Mb)
Test unit written to kept/oom-0123abc
"""


def test_complete_runs_are_counted_by_their_statistics() -> None:
    tally = Tally()
    tally.add(ENDED)
    assert (tally.executed, tally.coverage, tally.features, tally.corpus) == (9000, 30, 60, 9)
    assert (tally.slowest, tally.peak) == (2, 96)


def test_counts_of_crashed_and_complete_runs_add_up() -> None:
    tally = Tally()
    tally.add(CRASHED)
    assert (tally.executed, tally.coverage) == (64, 12)
    tally.add(ENDED)
    assert (tally.executed, tally.processes) == (9064, 2)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (CRASHED, "status 77: Finding: a sample is not finite (crash-0123abc)"),
        (TOO_LARGE, "status 77: libFuzzer: out-of-memory (used: 2100Mb; limit: 2048Mb) (oom-0123abc)"),
        ("Segmentation fault", "status 77: Segmentation fault"),
    ],
)
def test_causes_contain_the_error_and_the_input(log: str, cause: str) -> None:
    assert _cause(log, 77) == cause


def test_inputs_of_killed_processes_are_saved(tmp_path: Path) -> None:
    current = LENGTH.pack(3) + b"abc" + bytes(10)
    kept = _save(current, tmp_path)
    assert kept.read_bytes() == b"abc"
    cause = _cause(f"Test unit written to {kept}", -signal.SIGPROF)
    assert cause == f"status -27: one input takes more than 10 processor seconds ({kept.name})"


def test_dictionary_words_are_escaped_for_libfuzzer() -> None:
    assert _escaped(b'a"\xb5\n') == r"a\x22\xb5\x0a"
