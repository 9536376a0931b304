"""Replicas of the service: measured at one and two, simulated up to a thousand (`benchmarks.simulation`).

The costs are measured on one replica on one processor with one request in flight, and on batches without a service;
the simulation is then compared with one and with two replicas under load, which it was not fitted to.
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
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import uvloop

from app.engine.predictor import Predictor
from app.settings import DEFAULT_WEIGHTS
from benchmarks.bodies import Bodies
from benchmarks.harness import machine_line, write_section
from benchmarks.in_process import prepare_parts
from benchmarks.processes import OURS, ROOT, service
from benchmarks.service import PATIENCE
from benchmarks.simulation import LIMIT, Cluster, Costs, Outcome, Routing, goodput, simulate
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from tools.load.client import Client, Request, Response
from tools.load.generator import open_loop, poisson

DOCUMENT: Final = ROOT / "docs" / "scaling.md"
BATCHES: Final = (1, 2, 4, 8, 16, 32)
COMPARED: Final = (ModalitySet.of(Modality.TEXT), COMPLETE)
COUNTS: Final = (1, 2, 10, 100, 1000)
ROUTINGS: Final[tuple[Routing, ...]] = ("random", "round_robin", "least_of_two")
PART: Final = 0.7  # of the goodput, for latencies
SLOWDOWN: Final = 5.0
HALVINGS: Final = 6  # of the interval in which a measured goodput is looked for

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
def served(count: int) -> Iterator[list[int]]:
    """Serve on that many processors, a replica on each; returns their ports."""
    with ExitStack() as stack:
        ports = []
        for processor in sorted(os.sched_getaffinity(0))[:count]:
            with pinned({processor}):
                ports.append(stack.enter_context(service(OURS, "/health/ready")).port)
        yield ports


async def single_requests(port: int, count: int) -> dict[ModalitySet, list[dict[str, float]]]:
    """Return the seconds of requests of each subset, sent one by one: `total`, `decode` and `forward`."""
    found: dict[ModalitySet, list[dict[str, float]]] = {subset: [] for subset in SUBSETS}
    with closing(Replicas([port])) as replicas:
        for number, subset in itertools.product(range(-max(1, count // 4), count), SUBSETS):
            response = await replicas.send(Bodies().request(subset))
            stages = response.json()["timings_ms"]
            if number >= 0:  # those before warm up
                parts = {name: stages[name] / 1e3 for name in ("decode", "forward")}
                found[subset].append({"total": response.seconds, **parts})
    return found


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


def measure_costs(rounds: int, count: int) -> tuple[dict[ModalitySet, Costs], dict[str, Figures]]:
    """Measure the costs of each subset on one processor; returns them, and the figures they were made from."""
    costs, figures = dict[ModalitySet, Costs](), dict[str, Figures]()
    with pinned({min(os.sched_getaffinity(0))}):
        torch.set_num_threads(1)
        predictor = Predictor.load(DEFAULT_WEIGHTS, "cpu", threads=1)
        batches = {subset: batch_seconds(predictor, subset, rounds) for subset in SUBSETS}
        del predictor
        with served(1) as (port,):
            singles = uvloop.run(single_requests(port, count))
    for subset in SUBSETS:
        sizes, seconds = np.array(BATCHES), np.array([batches[subset][size] for size in BATCHES])
        item, batch = np.polyfit(sizes, seconds, 1, w=1 / seconds)  # of relative errors
        costs[subset] = Costs(
            http=[one["total"] - one["decode"] - one["forward"] for one in singles[subset]],
            features=[one["decode"] for one in singles[subset] if one["decode"] > 0],
            batch=max(0.0, float(batch)),
            item=float(item),
        )
        figures[subset.name] = {
            "http_ms": 1e3 * statistics.fmean(costs[subset].http),
            "features_ms": 1e3 * statistics.fmean(costs[subset].features or [0.0]),
            "batch_ms": 1e3 * costs[subset].batch,
            "item_ms": 1e3 * costs[subset].item,
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
            trial = await offer(replicas, requests, (low + highest) / 2, seconds)
            if trial.sustained:
                low, best = trial.rate, trial
            else:
                highest = trial.rate
                await asyncio.sleep(1.0)  # until the queues are empty
        return best, await offer(replicas, requests, PART * highest, seconds)


def compared(costs: Mapping[ModalitySet, Costs], seconds: float) -> dict[str, Figures]:
    """Compare what is simulated with real replicas, one and two."""
    found: dict[str, Figures] = {}
    for number in (1, 2):
        cluster = Cluster(number, routing="round_robin")
        with served(number) as ports:
            for subset in COMPARED:
                expected = goodput([costs[subset]], cluster)
                best, usual = uvloop.run(real(ports, subset, 1.6 * expected.rate, seconds))
                simulated = simulate([costs[subset]], cluster, usual.rate, 4 * seconds)
                found[f"{number} {subset.name}"] = {
                    "goodput": best.rate,
                    "goodput_simulated": expected.rate,
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
    """Return the goodput of two replicas predicted from the measured one of one and the simulated ratio."""
    parts = []
    for subset in COMPARED:
        one, two = (compared[f"{count} {subset.name}"] for count in (1, 2))
        predicted = one["goodput"] * two["goodput_simulated"] / one["goodput_simulated"]
        parts.append(f"{_shown(predicted, 1)} for {_given(subset.name)} (measured {_shown(two['goodput'], 1)})")
    return f"The measured goodput of one replica times the simulated ratio of two to one: {'; '.join(parts)}."


def _shown(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "—"


def _given(subset: str) -> str:
    return subset.replace("+", ", ")


def _rule(words: int, numbers: int) -> str:
    return "|" + " --- |" * words + " ---: |" * numbers


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured rate")
    parser.add_argument("--requests", type=int, default=20_000, help="of each simulated rate")
    parser.add_argument("--quick", action="store_true", help="few requests, as a test run")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--record", action="store_true", help=f"write the tables to {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(argv)
    quick = options.quick
    costs, figures = measure_costs(rounds=1 if quick else 9, count=4 if quick else 60)
    requests = 500 if quick else options.requests
    found = {
        "machine": machine_line(),
        "costs": figures,
        "compared": compared(costs, 0.5 if quick else options.seconds),
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
