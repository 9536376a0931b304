"""Replicas of the service: measured at one and two, simulated up to a thousand (`benchmarks.simulation`).

The costs are those of replicas that keep all processors of the machine busy, one each: processor time of a request is
fitted to the mean size of a batch, with several numbers of requests in flight. How costs vary is measured with one
request in flight. The simulation is then compared with the goodput and the latencies of one and of two replicas at
random arrivals, which it was not fitted to.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import uvloop
from scipy.optimize import nnls

from app.engine.predictor import Predictor
from app.settings import DEFAULT_WEIGHTS
from benchmarks.bodies import Bodies
from benchmarks.harness import machine_line, write_section
from benchmarks.in_process import prepare_parts
from benchmarks.processes import OURS, ROOT, Service, service
from benchmarks.service import PATIENCE
from benchmarks.simulation import LIMIT, Cluster, Costs, Outcome, Routing, goodput, simulate
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from tools.load.client import Client, Request, Response
from tools.load.generator import capacity, open_loop, poisson

DOCUMENT: Final = ROOT / "docs" / "scaling.md"
BATCHES: Final = (1, 2, 4, 8, 16, 32)
COMPARED: Final = (ModalitySet.of(Modality.TEXT), COMPLETE)
COUNTS: Final = (1, 2, 10, 100, 1000)
ROUTINGS: Final[tuple[Routing, ...]] = ("random", "round_robin", "least_of_two")
PART: Final = 0.7  # of the goodput, for latencies
SLOWDOWN: Final = 5.0
IN_FLIGHT: Final = (1, 2, 8, 24)  # for each replica
PRIOR: Final = 0.3  # weight, in the fit, of a batch's cost without a service: counts where batches stay small
HALVINGS: Final = 6  # of the interval in which a measured goodput is looked for
ATTEMPTS: Final = 2  # at a rate, of which one has to be sustained: another job of the host's can spoil one
SEEDS: Final = range(0, 10, ATTEMPTS)  # of the simulated goodput, their median

Figures = dict[str, Any]


class Replicas:
    """Clients of several replicas, used in turn."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.clients = [Client(port) for port in ports]
        self._turn = itertools.cycle(self.clients)

    async def send(self, request: Request) -> Response:
        """Send a request to the next replica."""
        return await next(self._turn).send(request)

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()


@contextmanager
def pinned(processors: set[int]) -> Iterator[None]:
    """Restrict this process, and those it starts, to some processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def served(count: int) -> Iterator[list[Service]]:
    """Serve on that many processors, a replica on each."""
    with ExitStack() as stack:
        replicas = []
        for processor in sorted(os.sched_getaffinity(0))[:count]:
            with pinned({processor}):
                replicas.append(stack.enter_context(service(OURS, "/health/ready")))
        yield replicas


async def single_requests(port: int, count: int) -> dict[ModalitySet, list[dict[str, float]]]:
    """Return the seconds of requests of each subset, sent one by one: `total`, `decode` and `forward`."""
    found: dict[ModalitySet, list[dict[str, float]]] = {subset: [] for subset in SUBSETS}
    bodies = Bodies()
    with closing(Replicas([port])) as replicas:
        for number, subset in itertools.product(range(-max(1, count // 4), count), SUBSETS):
            response = await replicas.send(bodies.request(subset))
            stages = response.json()["timings_ms"]
            if number >= 0:  # those before warm up
                parts = {name: stages[name] / 1e3 for name in ("decode", "forward")}
                found[subset].append({"total": response.seconds, **parts})
    return found


class Busy(NamedTuple):
    """Means of a request under load.

    Args:
        used: processor seconds of the replica.
        together: requests of a batch.
        sending: processor seconds of the load generator.
    """

    used: float
    together: float
    sending: float


def busy_seconds(replicas: Sequence[Service], subset: ModalitySet, each: int, seconds: float) -> Busy:
    """Return the means of a request with `each` of them in flight on every replica."""

    def counted() -> list[float]:
        metrics = [sum(one.metric(f"emmr_batch_size_{part}") for one in replicas) for part in ("sum", "count")]
        return [sum(one.cpu_seconds() for one in replicas), time.process_time(), *metrics]

    async def load(length: float) -> None:
        requests = Bodies().requests(subset)
        with closing(Replicas([one.port for one in replicas])) as group:
            await asyncio.gather(*(capacity(one, requests, length, warm_up=0.0, workers=each) for one in group.clients))

    uvloop.run(load(0.2 * seconds))
    before = counted()
    uvloop.run(load(seconds))
    used, sending, computed, batches = (after - earlier for earlier, after in zip(before, counted(), strict=True))
    return Busy(used / computed, computed / batches, sending / computed)


def batch_seconds(predictor: Predictor, subset: ModalitySet, rounds: int) -> dict[int, float]:
    """Return the median seconds of a batch without a service, by its size."""
    bodies = Bodies()
    requests = [prepare_parts(predictor, bodies.parts(subset)) for _ in range(max(BATCHES))]
    times: dict[int, list[float]] = {size: [] for size in BATCHES}
    for number in range(-1, rounds):
        for size in BATCHES:
            began = time.perf_counter()
            predictor.decide(requests[:size])
            if number >= 0:
                times[size].append(time.perf_counter() - began)
    return {size: statistics.median(seconds) for size, seconds in times.items()}


def fitted(busy: Sequence[Busy], prior: float) -> tuple[float, float]:
    """Fit processor seconds of a request to a + b / (mean size of a batch): returns a and b, neither below zero.

    Args:
        busy: of `busy_seconds`.
        prior: b of batches without a service.
    """
    used, together, _ = np.array(busy).T
    rows = np.column_stack([np.ones(len(used)), 1 / together])
    found, _ = nnls(np.vstack([rows, [0.0, PRIOR]]), np.append(used, PRIOR * max(0.0, prior)))
    return float(found[0]), float(found[1])


def measure_costs(rounds: int, count: int, seconds: float) -> tuple[dict[ModalitySet, Costs], dict[str, Figures]]:
    """Measure the costs of each subset on one processor; returns them, and the figures they were made from."""
    costs, figures = dict[ModalitySet, Costs](), dict[str, Figures]()
    with pinned({min(os.sched_getaffinity(0))}):
        torch.set_num_threads(1)
        predictor = Predictor.load(DEFAULT_WEIGHTS, "cpu", threads=1)
        batches = {subset: batch_seconds(predictor, subset, rounds) for subset in SUBSETS}
        del predictor
    with served(os.cpu_count() or 1) as replicas:
        singles = uvloop.run(single_requests(replicas[0].port, count))
        busy = {subset: [busy_seconds(replicas, subset, each, seconds) for each in IN_FLIGHT] for subset in SUBSETS}
    for subset in SUBSETS:
        sizes, times = np.array(BATCHES), np.array([batches[subset][size] for size in BATCHES])
        item, batch = np.polyfit(sizes, times, 1, w=1 / times)  # of relative errors
        request, batch = fitted(busy[subset], float(batch))
        http = [one["total"] - one["decode"] - one["forward"] for one in singles[subset]]
        features = [one["decode"] for one in singles[subset] if one["decode"] > 0]
        # A request in flight alone also waits, and finds cold caches: of it only the shape is kept.
        whole = Costs(http, features, 0.0, float(item))
        share = request / whole.processor_seconds(1)
        costs[subset] = Costs(
            [share * one for one in http], [share * one for one in features], batch, share * whole.item
        )
        figures[subset.name] = {
            "http_ms": 1e3 * statistics.fmean(costs[subset].http),
            "features_ms": 1e3 * statistics.fmean(costs[subset].features or [0.0]),
            "batch_ms": 1e3 * costs[subset].batch,
            "item_ms": 1e3 * costs[subset].item,
            "busy": [{"batch": one.together, "ms": 1e3 * one.used} for one in busy[subset]],
            "sending_ms": 1e3 * statistics.median(one.sending for one in busy[subset]),
            "forward_alone_ms": 1e3 * statistics.median(one["forward"] for one in singles[subset]),
            "batches_ms": {str(size): 1e3 * value for size, value in batches[subset].items()},
        }
    return costs, figures


async def offer(replicas: Replicas, requests: Iterator[Request], rate: float, seconds: float) -> Outcome:
    """Send requests as a Poisson process to real replicas."""
    found = await open_loop(replicas, requests, poisson(rate, seconds), patience=PATIENCE)
    answered = [one.latency for one in found if one.correct]
    return Outcome(rate, answered, refused=len(found) - len(answered))


async def real(ports: Sequence[int], subset: ModalitySet, highest: float, seconds: float) -> tuple[Outcome, Outcome]:
    """Return the outcome at the highest sustained rate, and at `PART` of it."""
    requests, low, best = Bodies().requests(subset), 0.0, Outcome(0.0)
    with closing(Replicas(ports)) as replicas:
        for _ in range(HALVINGS):
            rate = (low + highest) / 2
            for _ in range(ATTEMPTS):
                trial = await offer(replicas, requests, rate, seconds)
                if trial.sustained:
                    low, best = rate, trial
                    break
                await asyncio.sleep(1.0)  # until the queues are empty
            else:
                highest = rate
        return best, await offer(replicas, requests, PART * highest, seconds)


def compared(
    costs: Mapping[ModalitySet, Costs], sending: Mapping[ModalitySet, float], seconds: float
) -> dict[str, Figures]:
    """Compare what is simulated with real replicas, one and two.

    Args:
        costs: by subset.
        sending: seconds of the load generator for a request, which it takes from replicas that use all processors.
        seconds: of a rate.
    """
    found: dict[str, Figures] = {}
    processors = os.cpu_count() or 1
    for number in (1, 2):
        cluster = Cluster(number, routing="round_robin")
        with served(number) as replicas:
            ports = [replica.port for replica in replicas]
            for subset in COMPARED:
                taken = sending[subset] if number == processors else 0.0
                one = replace(costs[subset], http=[http + taken for http in costs[subset].http])
                trials = [goodput([one], cluster, seed=s, seconds=seconds, attempts=ATTEMPTS).rate for s in SEEDS]
                expected = statistics.median(trials)
                best, usual = uvloop.run(real(ports, subset, 1.6 * expected, seconds))
                simulated = simulate([one], cluster, usual.rate, 4 * seconds)
                found[f"{number} {subset.name}"] = {
                    "goodput": best.rate,
                    "goodput_simulated": expected,
                    "p50_ms": 1e3 * usual.percentile(0.5),
                    "p50_simulated_ms": 1e3 * simulated.percentile(0.5),
                    "p99_ms": 1e3 * usual.percentile(0.99),
                    "p99_simulated_ms": 1e3 * simulated.percentile(0.99),
                }
    return found


def scaled(costs: Sequence[Costs], counts: Sequence[int], requests: int) -> Figures:
    """Simulate numbers of replicas with equally many requests of each subset, and one slow replica among them."""
    found: Figures = {"replicas": {}, "slow": {}}
    alone = goodput(costs, Cluster(), requests)
    for count, routing in itertools.product(counts, ROUTINGS):
        amount = max(requests, 100 * count)
        best = goodput(costs, Cluster(count, routing=routing), amount)
        usual = simulate(costs, Cluster(count, routing=routing), PART * count * alone.rate, amount / best.rate)
        found["replicas"][f"{count} {routing}"] = {
            "goodput": best.rate,
            "efficiency": best.rate / alone.rate / count,
            "p50_ms": 1e3 * usual.percentile(0.5),
            "p99_ms": 1e3 * usual.percentile(0.99),
        }
        if count > 1:
            cluster = Cluster(count, routing=routing, slow=1, slowdown=SLOWDOWN)
            slow = simulate(costs, cluster, PART * count * alone.rate, max(60.0, amount / best.rate))
            late = slow.refused + sum(latency > LIMIT for latency in slow.latencies)
            found["slow"][f"{count} {routing}"] = {
                "p99_ms": 1e3 * slow.percentile(0.99),
                "late": late / (late + sum(latency <= LIMIT for latency in slow.latencies)),
            }
    return found


def hours(costs: Mapping[ModalitySet, Costs], requests: int) -> dict[str, Figures]:
    """Simulate each subset with and without batches; processor hours of a million requests at `PART` of the goodput."""
    found, bodies = dict[str, Figures](), Bodies()
    for subset, one in costs.items():
        together = goodput([one], Cluster(), requests)
        alone = goodput([one], Cluster(max_batch=1), requests)
        found[subset.name] = {
            "goodput": together.rate,
            "goodput_without_batches": alone.rate,
            "mean_batch": together.together,
            "hours": 1e6 / together.rate / PART / 3600,
            "body_kb": len(bodies.request(subset).wire) / 1e3,
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """Return the tables of the document."""

    def row(*cells: str | float, digits: int = 0) -> str:
        return f"| {' | '.join(one if isinstance(one, str) else _shown(one, digits) for one in cells)} |"

    lines = [f"{found['machine']}:", ""]
    lines += [
        row("Given", "HTTP and features, ms", "Decoding, ms", "A batch, ms", "Each request of it, ms"),
        _rule(1, 4),
    ]
    for name, one in found["costs"].items():
        stages = [one[f"{stage}_ms"] for stage in ("http", "features", "batch", "item")]
        lines.append(row(_given(name), *stages, digits=2))
    simulated = ("Goodput", "Simulated", "p50, ms", "Simulated", "p99, ms", "Simulated")
    lines += ["", row("Replicas", "Given", *simulated), _rule(2, 6)]
    for name, one in found["compared"].items():
        count, subset = name.split(maxsplit=1)
        lines.append(row(count, _given(subset), *one.values()))
    lines += ["", _of_two(found["compared"])]
    cost = ("Goodput", "Without batches", "Mean batch", "Processor hours a million", "Body, kB")
    lines += ["", row("Given", *cost), _rule(1, 5)]
    for name, one in found["hours"].items():
        lines.append(row(_given(name), *one.values(), digits=1))
    alone = ("Goodput", "Of linear", "p50, ms", "p99, ms", "p99 with a slow one, ms", "Late with it, %")
    lines += ["", row("Replicas", "Routing", *alone), _rule(2, 6)]
    for name, one in found["scaled"]["replicas"].items():
        count, routing = name.split()
        slow = found["scaled"]["slow"].get(name, {"p99_ms": math.inf, "late": math.inf})
        cells = (_shown(one["goodput"]), _shown(one["efficiency"], 2), one["p50_ms"], one["p99_ms"], slow["p99_ms"])
        lines.append(row(f"{int(count):,}", routing.replace("_", " "), *cells, _shown(100 * slow["late"], 1)))
    return "\n".join(lines)


def _of_two(compared: Mapping[str, Figures]) -> str:
    """Return how far the simulated goodputs are from the measured ones."""
    parts = []
    for name, one in compared.items():
        count, subset = name.split(maxsplit=1)
        replicas = f"{count} replica{'s' if count != '1' else ''}"
        parts.append(f"{one['goodput_simulated'] / one['goodput'] - 1:+.0%} for {_given(subset)} on {replicas}")
    return f"Simulated goodputs differ from the measured ones by {'; '.join(parts)}."


def _shown(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "—"


def _given(subset: str) -> str:
    return subset.replace("+", ", ")


def _rule(words: int, numbers: int) -> str:
    return "|" + " --- |" * words + " ---: |" * numbers


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measured rate")
    parser.add_argument("--requests", type=int, default=20_000, help="of each simulated rate")
    parser.add_argument("--quick", action="store_true", help="few requests, as a test run")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--record", action="store_true", help=f"write the tables to {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(argv)
    quick = options.quick
    costs, figures = measure_costs(rounds=1 if quick else 9, count=4 if quick else 60, seconds=0.5 if quick else 4.0)
    sending = {subset: figures[subset.name]["sending_ms"] / 1e3 for subset in costs}
    requests = 500 if quick else options.requests
    found = {
        "machine": machine_line(),
        "costs": figures,
        "compared": compared(costs, sending, 0.5 if quick else options.seconds),
        "hours": hours(costs, requests),
        "scaled": scaled(list(costs.values()), COUNTS[:3] if quick else COUNTS, requests),
    }
    print(table(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.record:
        write_section(DOCUMENT, "scaling", table(found))


if __name__ == "__main__":
    main()
