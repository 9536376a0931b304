"""How trials become figures; the services themselves are measured by the bench."""

import math

from benchmarks.__main__ import BENCHES, table
from benchmarks.load import Trial
from benchmarks.service import PEERS, Measured, difference
from model.modality import COMPLETE, SUBSETS


def test_goodput_is_the_highest_rate_that_was_sustained() -> None:
    trials = [Trial(5, 5, 10, 20, 30, 0), Trial(9, 9, 10, 20, 480, 0), Trial(12, 11, 10, 20, 900, 0)]
    assert Measured(trials={COMPLETE: trials}).goodput(COMPLETE) == 9
    assert Measured(trials={COMPLETE: [Trial(5, 4, 10, math.inf, math.inf, 3)]}).goodput(COMPLETE) == 0


def test_answers_differ_by_their_furthest_class() -> None:
    assert difference({"negative": 0.5, "positive": 0.5}, {"negative": 0.25, "positive": 0.75}) == 0.25


def test_every_subset_of_ours_is_measured_and_the_compared_ones_of_all() -> None:
    assert set(PEERS["ours"].subsets) == set(SUBSETS)
    assert all(COMPLETE in peer.subsets for peer in PEERS.values())


def test_every_bench_has_its_ratios_in_the_table() -> None:
    shown = table({bench: {"ratios": {f"{bench}_ratio": 2.5}} for bench in BENCHES})
    assert all(f"{bench}_ratio" in shown for bench in BENCHES)
    assert shown.count("2.50") == len(BENCHES)
