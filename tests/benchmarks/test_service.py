import asyncio
import math

import pytest

from benchmarks.__main__ import BENCHES, table
from benchmarks.processes import Service
from benchmarks.service import (
    FACTOR,
    IDLE_SECONDS,
    LOWEST,
    PEERS,
    RISE,
    TEXT,
    Measured,
    Trial,
    attempt,
    await_idle,
    best,
    difference,
    next_rate,
    offer,
)
from model.modality import COMPLETE, SUBSETS
from tests.support.virtual_time import run
from tools.load.client import Client, Request, Response
from tools.load.generator import drawn
from tools.load.payloads import text


def test_goodput_is_the_highest_sustained_rate() -> None:
    trials = [Trial(5, 5, 10, 20, 30, 0), Trial(9, 9, 10, 20, 480, 0), Trial(12, 11, 10, 20, 900, 0)]
    assert Measured(trials={COMPLETE: trials}).goodput(COMPLETE) == 9
    assert Measured(trials={COMPLETE: [Trial(5, 4, 10, math.inf, math.inf, 3)]}).goodput(COMPLETE) == 0


def test_the_best_round_of_each_subset_counts() -> None:
    def measured(complete: float, text: float, p99: float) -> Measured:
        rates = {COMPLETE: complete, TEXT: text}
        return Measured(
            trials={subset: [trial(rate, sustained=True)] for subset, rate in rates.items()},
            most=rates,
            usual={TEXT: Trial(7, 7, 1, 2, p99, 0)},
        )

    found = best([measured(5, 90, 40), measured(6, 80, 30)])
    assert (found.goodput(COMPLETE), found.goodput(TEXT)) == (6, 90)
    assert (found.most[COMPLETE], found.most[TEXT], found.usual[TEXT].p99) == (6, 90, 30)


class Busy(Service):
    """Uses a whole processor for the first three seconds of virtual time, and a tenth of one from then on."""

    def __init__(self) -> None: ...

    def cpu_seconds(self) -> float:
        now = asyncio.get_running_loop().time()
        return min(now, 3.0) + 0.1 * max(0.0, now - 3.0)


def test_a_trial_begins_once_no_service_computes() -> None:
    async def waited() -> float:
        await await_idle(Busy())
        return asyncio.get_running_loop().time()

    assert 3.0 < run(waited()) <= 3.0 + 2 * IDLE_SECONDS


class Idle(Service):
    """Uses no processor."""

    def __init__(self) -> None: ...

    def cpu_seconds(self) -> float:
        return 0.0


def test_a_rate_is_offered_again_where_it_is_not_sustained(monkeypatch: pytest.MonkeyPatch) -> None:
    late, good = Trial(9, 8, 10, 20, 900, 0), Trial(9, 9, 10, 20, 30, 0)
    trials = [late, good, good]

    async def next_trial(*_: object) -> Trial:
        return trials.pop(0)

    monkeypatch.setattr("benchmarks.service.offer", next_trial)
    assert run(attempt(Idle(), Client(1), iter(()), 9, 1)) is good
    assert trials == [good]


def test_answers_differ_by_their_largest_class_difference() -> None:
    assert difference({"negative": 0.5, "positive": 0.5}, {"negative": 0.25, "positive": 0.75}) == 0.25


def test_compared_subsets_are_measured_of_every_peer() -> None:
    assert set(PEERS["ours"].subsets) == set(SUBSETS)
    assert all(COMPLETE in peer.subsets for peer in PEERS.values())


def test_the_table_has_the_ratios_of_every_benchmark() -> None:
    shown = table({bench: {"ratios": {f"{bench}_ratio": 2.5}} for bench in BENCHES})
    assert all(f"{bench}_ratio" in shown for bench in BENCHES)
    assert shown.count("2.50") == len(BENCHES)


def test_rates_are_sustained_up_to_the_latency_limit_without_failures() -> None:
    assert Trial(10, 10, 5, 9, 500, 0).sustained
    assert not Trial(10, 10, 5, 9, 501, 0).sustained
    assert not Trial(10, 10, 5, 9, 400, 1).sustained


def trial(rate: float, *, sustained: bool) -> Trial:
    return Trial(rate, rate, 10, 20, 30 if sustained else 900, 0)


def test_rates_rise_until_one_is_not_sustained_and_are_then_halved() -> None:
    assert next_rate([], 100, LOWEST) == 25
    assert next_rate([trial(25, sustained=True)], 100, LOWEST) == 25 + 100 * RISE
    assert next_rate([trial(400, sustained=True)], 100, LOWEST) == pytest.approx(400 * FACTOR)
    both = [trial(25, sustained=True), trial(70, sustained=True), trial(115, sustained=False)]
    assert next_rate(both, 100, LOWEST) == 92.5
    assert next_rate([trial(25, sustained=False)], 100, LOWEST) == 12.5


class Fast(Client):
    """A client of a service that responds at once."""

    def __init__(self, status: int) -> None:
        super().__init__(0)
        self.status = status

    async def send(self, request: Request) -> Response:
        return Response(self.status, 0.001)


def test_trials_count_200s_at_the_offered_rate() -> None:
    trial = run(offer(Fast(200), drawn([text("Hello.")], 0), 50, 0.4))
    assert (trial.rate, trial.failed, trial.sustained) == (50, 0, True)
    assert trial.answered == pytest.approx(50, rel=0.1)


def test_responses_other_than_200_are_failures() -> None:
    trial = run(offer(Fast(503), drawn([text("Hello.")], 0), 20, 0.2))
    assert (trial.failed, trial.sustained) == (4, False)
    assert math.isinf(trial.p50)
