import math
import random

import pytest

from app.engine.batch_cost import CPU
from benchmarks.scaling import Busy, fitted
from benchmarks.simulation import Cluster, Costs, Routing, goodput, simulate

ENDLESS = 10**9
"""Of a queue that never refuses, as those of the formulas."""


def exponential(mean: float) -> list[float]:
    rng = random.Random(1)
    return [rng.expovariate(1 / mean) for _ in range(5000)]


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_stage_has_the_mean_latency_of_an_m_m_1_queue(load: float) -> None:
    outcome = simulate([Costs(exponential(0.01), (), 0.0, 0.0)], Cluster(queue=ENDLESS), 100 * load, 300)
    assert sum(outcome.latencies) / len(outcome.latencies) == pytest.approx(0.01 / (1 - load), rel=0.1)


def test_decoders_that_share_a_processor_are_one_of_processor_sharing() -> None:
    """Its mean latency depends on the mean of the work alone: constant work takes as long as exponential."""
    cluster = Cluster(decoders=1000, queue=ENDLESS)
    for features in ([0.01], exponential(0.01)):
        outcome = simulate([Costs([0.0], features, 0.0, 0.0)], cluster, 50, 300)
        assert sum(outcome.latencies) / len(outcome.latencies) == pytest.approx(0.02, rel=0.1)


def test_requests_that_arrive_together_are_computed_in_batches() -> None:
    one = Costs([0.0], (), 0.02, 0.001)
    alone = goodput([one], Cluster(max_batch=1), requests=1000)
    batched = goodput([one], Cluster(max_batch=32), requests=1000)
    assert alone.rate < 1 / 0.021 < 3 * alone.rate
    assert alone.together == 1
    assert batched.rate > 5 * alone.rate
    assert batched.rate < 32 / (0.02 + 32 * 0.001)


def test_a_batch_smaller_than_the_one_before_waits_for_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two requests that come while the first is computed, and one a second later, the last waits in vain."""
    monkeypatch.setattr("benchmarks.simulation.poisson", lambda *_: iter((0.0, 0.001, 0.002, 1.0)))
    outcome = simulate([Costs([0.0], (), 0.02, 0.0)], Cluster(), 1, 1)
    assert outcome.batches == 3
    assert outcome.latencies == pytest.approx([0.02, 0.039, 0.038, 0.02 + CPU.linger])


def test_a_rate_is_sustained_if_it_is_in_one_of_the_attempts() -> None:
    one = Costs(exponential(0.01), (), 0.0, 0.0)
    rates = [goodput([one], Cluster(), seconds=5, seed=seed).rate for seed in (0, 1)]
    assert goodput([one], Cluster(), seconds=5, attempts=2).rate >= max(rates)


def test_a_full_queue_refuses_and_is_not_sustained() -> None:
    outcome = simulate([Costs([0.0], (), 0.1, 0.0)], Cluster(max_batch=1, queue=4), 100, 10)
    assert outcome.refused > 0
    assert outcome.refused + len(outcome.latencies) == pytest.approx(1000, rel=0.15)
    assert outcome.percentile(0.99) == math.inf
    assert not outcome.sustained


@pytest.mark.parametrize(("routing", "late"), [("random", True), ("round_robin", True), ("least_of_two", False)])
def test_a_slow_replica_is_avoided_where_requests_in_flight_are_compared(routing: Routing, late: bool) -> None:
    cluster = Cluster(10, routing=routing, slow=1, slowdown=5)
    outcome = simulate([Costs([0.002], [0.008], 0.0, 0.0)], cluster, 500, 20)
    assert (outcome.percentile(0.99) > 0.5) is late


def test_the_same_seed_has_the_same_outcome() -> None:
    one, cluster = Costs(exponential(0.005), exponential(0.01), 0.004, 0.001), Cluster(3)
    first, second = (simulate([one], cluster, 50, 5, seed=2) for _ in range(2))
    assert first == second


def test_costs_are_fitted_to_processor_time_by_size_of_batch() -> None:
    """Exactly where batches differ; where they stay small, a batch costs what it does without a service."""
    assert fitted([Busy(0.005 + 0.008 / m, m, 0.0) for m in (1.0, 4.0, 16.0)], 0.008) == pytest.approx((0.005, 0.008))
    request, batch = fitted([Busy(0.06, 1.0, 0.0)] * 3, 0.008)
    assert batch == pytest.approx(0.008, rel=0.01)
    assert request + batch == pytest.approx(0.06)
