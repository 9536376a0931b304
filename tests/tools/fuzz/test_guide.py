import signal
from pathlib import Path

import pytest

from tools.fuzz.guide import Tally, _cause, _escaped, _keep
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


def test_a_run_that_ends_well_is_counted_by_its_own_figures() -> None:
    tally = Tally()
    tally.add(ENDED)
    assert (tally.executed, tally.coverage, tally.features, tally.corpus) == (9000, 30, 60, 9)
    assert (tally.slowest, tally.peak) == (2, 96)


def test_a_run_that_crashes_is_counted_as_far_as_it_came_and_runs_add_up() -> None:
    tally = Tally()
    tally.add(CRASHED)
    assert (tally.executed, tally.coverage) == (64, 12)
    tally.add(ENDED)
    assert (tally.executed, tally.processes) == (9064, 2)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (CRASHED, "status 77: Finding: a sample is not finite (crash-0123abc)"),
        (TOO_LARGE, "status 77: libFuzzer: out-of-memory (used: 2100Mb; limit: 2048Mb) (oom-0123abc)"),
        ("Segmentation fault", "status 77: Segmentation fault"),
    ],
)
def test_a_finding_says_what_it_was_and_where_its_input_is(log: str, said: str) -> None:
    assert _cause(log, 77) == said


def test_an_input_that_ends_the_process_from_outside_is_kept(tmp_path: Path) -> None:
    current = LENGTH.pack(3) + b"abc" + bytes(10)
    kept = _keep(current, tmp_path)
    assert kept.read_bytes() == b"abc"
    said = _cause(f"Test unit written to {kept}", -signal.SIGPROF)
    assert said == f"status -27: one input takes more than 10 processor seconds ({kept.name})"


def test_a_word_is_written_as_libfuzzer_reads_it() -> None:
    assert _escaped(b'a"\xb5\n') == r"a\x22\xb5\x0a"
