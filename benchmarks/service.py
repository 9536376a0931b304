"""The service under load, beside a plain FastAPI handler, LitServe, one worker, and the predictor without a service.

A rate is sustained where every request gets a 200 and the 99th percentile of latency is within `LIMIT_MS`.
"""

# One service runs at a time, since some use the processors without requests. They take turns, and the best round of
# each counts, so that what else the machine does for a while decides nothing.

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvloop

from app.engine import fork_server
from benchmarks.bodies import Bodies
from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, ROOT, Service, service
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from tools.load.client import Client, Request
from tools.load.generator import capacity, constant, open_loop, percentile

TEXT: Final = ModalitySet.of(Modality.TEXT)
COMPARED: Final = (COMPLETE, TEXT)
PATIENCE: Final = 5.0  # seconds to wait, after the last request was due, for responses
LIMIT_MS: Final = 500.0  # of the 99th percentile, for a rate to count as sustained
CONCURRENCY: Final = 8  # requests in flight when the throughput is measured that bounds the rates
LOWEST: Final = 0.25  # of that throughput: the first rate offered
RISE: Final = 0.45  # of that throughput: from one rate to the next, until one is not sustained
FACTOR: Final = 1.4  # at least, from one rate to the next: a closed loop may find much less than a service sustains
USUAL: Final = 0.7  # of the goodput with one worker: the load at which latencies are compared
TOGETHER: Final = 16  # requests sent at once, to be batched
TOLERANCE: Final = 1e-4
GOALS: Final = {
    "trimodal_goodput_vs_naive": 4.0,
    "trimodal_goodput_vs_litserve": 3.0,
    "trimodal_goodput_vs_in_process": 0.85,
    "text_goodput_vs_naive": 8.0,
    "text_goodput_vs_litserve": 1.3,
    "text_goodput_vs_in_process": 0.8,
    "text_usual_p99_vs_one_worker": 1.0,
    "text_decisions_of_two_workers_vs_one": 1.85,
}
WORKERS: Final = 2  # compared with one
IDLE: Final = 0.6  # processors in use below which the next trial begins; LitServe takes 0.3 without requests
IDLE_SECONDS: Final = 0.5  # over which they are counted
MAX_WAIT: Final = 60.0  # seconds, for a service to compute what was given up
ATTEMPTS: Final = 2
"""Trials at a rate, of which one has to sustain it, since other programs may use the machine for a moment."""
MEMORY_GOAL_MIB: Final = 80.0  # of each worker beyond the first


@dataclass(frozen=True, slots=True)
class Peer:
    """A service to measure: its command, the path that is 200 once it is ready, the subsets to measure, variables."""

    command: tuple[str, ...]
    ready: str
    subsets: tuple[ModalitySet, ...] = COMPARED
    environment: Mapping[str, str] = field(default_factory=dict)


PEERS: Final = {
    "one_worker": Peer(OURS, "/health/ready", environment={"EMMR_COMPUTE_WORKERS": "1"}),  # gives ours the usual rate
    "ours": Peer(OURS, "/health/ready", tuple(sorted(SUBSETS, key=lambda s: s not in COMPARED))),
    "naive": Peer(("-m", "benchmarks.naive_service"), "/health"),
    "litserve": Peer(("-m", "benchmarks.litserve_service"), "/health"),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """The responses at one rate.

    Args:
        rate: offered, requests a second.
        answered: 200s a second.
        p50, p95, p99: milliseconds from when a request was due to its last byte; infinite for one without a 200.
        failed: requests without a 200.
        cpu_ms: processor time of the service for each request, in milliseconds.
    """

    rate: float
    answered: float
    p50: float
    p95: float
    p99: float
    failed: int
    cpu_ms: float | None = None

    @property
    def sustained(self) -> bool:
        """Whether the service keeps up with this rate."""
        return not self.failed and self.p99 <= LIMIT_MS


@dataclass(slots=True)
class Measured:
    """The figures of one service.

    Args:
        trials: of each subset, by rate.
        most: responses a second of each subset in a closed loop.
        answers: to the same requests, for comparison.
        apart: the largest difference between batched and unbatched answers.
        usual: at the same rate as the other services; empty unless it was offered.
        memory_mib: at the end.
        worker_mib: the memory that a process that computes shares with no other, at the end; 0 where threads compute.
    """

    trials: dict[ModalitySet, list[Trial]] = field(default_factory=dict)
    most: dict[ModalitySet, float] = field(default_factory=dict)
    answers: list[dict[str, float]] = field(default_factory=list)
    apart: float = 0.0
    usual: dict[ModalitySet, Trial] = field(default_factory=dict)
    memory_mib: float = 0.0
    worker_mib: float = 0.0

    def goodput(self, subset: ModalitySet) -> float:
        """Return the highest sustained rate; 0 where none was."""
        return max((t.rate for t in self.trials[subset] if t.sustained), default=0.0)


async def measure(
    running: Service,
    subsets: Sequence[ModalitySet],
    seconds: float,
    steps: int,
    usual: Mapping[ModalitySet, float] | None = None,
) -> Measured:
    """Measure one service.

    Args:
        running: the service.
        subsets: of the requests.
        seconds: of one trial.
        steps: trials of each of `COMPARED`, and up to as many again until one is not sustained; other subsets have two.
        usual: subset → rate at which latencies are compared, and no others; default: `USUAL` of its own goodput.
    """
    client, bodies = Client(running.port), Bodies()
    try:
        answers, apart = await _compare(client)
        measured = Measured(answers=answers, apart=apart)
        for subset in subsets:
            requests, trials = bodies.requests(subset), list[Trial]()
            most = await capacity(client, requests, seconds / 2, warm_up=seconds / 4, workers=CONCURRENCY)
            for step in range(2 * steps if subset in COMPARED else 2):
                if step < steps or all(trial.sustained for trial in trials):
                    rate = next_rate(trials, most, LOWEST if subset in COMPARED else 0.5)
                    trials.append(await attempt(running, client, requests, rate, seconds))
            measured.most[subset], measured.trials[subset] = most, sorted(trials, key=lambda trial: trial.rate)
            own = USUAL * (measured.goodput(subset) or most)
            if rate := own if usual is None else usual.get(subset, 0.0):
                measured.usual[subset] = await attempt(running, client, requests, rate, 2 * seconds)
    finally:
        client.close()
    measured.memory_mib = running.memory_mib()
    measured.worker_mib = max(running.own_memory_mib(fork_server.__name__), default=0.0)
    return measured


async def attempt(running: Service, client: Client, requests: Iterator[Request], rate: float, seconds: float) -> Trial:
    """Offer a rate once the service is idle; a second time if it is not sustained."""
    found: list[Trial] = []
    while len(found) < ATTEMPTS and not (found and found[-1].sustained):
        await await_idle(running)
        found.append(await offer(client, requests, rate, seconds, running))
    return found[-1]


async def await_idle(running: Service) -> None:
    """Wait until a service does not compute: after an overload it goes on with requests that the client has given up.

    Raises:
        TimeoutError: it computes for too long.
    """
    async with asyncio.timeout(MAX_WAIT):
        while True:
            before = running.cpu_seconds()
            await asyncio.sleep(IDLE_SECONDS)
            if running.cpu_seconds() - before < IDLE * IDLE_SECONDS:
                return


def next_rate(trials: Sequence[Trial], most: float, lowest: float) -> float:
    """Return the rate to offer next: rising until one is not sustained, then halfway between both kinds.

    Args:
        trials: so far.
        most: responses a second of the closed loop.
        lowest: of that, the first rate.
    """
    if not trials:
        return lowest * most
    low = max((trial.rate for trial in trials if trial.sustained), default=0.0)
    high = min((trial.rate for trial in trials if not trial.sustained), default=math.inf)
    return (low + high) / 2 if high < math.inf else max(low + RISE * most, FACTOR * low)


async def offer(
    client: Client, requests: Iterator[Request], rate: float, seconds: float, running: Service | None = None
) -> Trial:
    """Send requests at a constant rate; the processor time is that of `running`."""
    before = running.cpu_seconds() if running else 0.0
    found = await open_loop(client, requests, constant(rate, seconds), patience=PATIENCE)
    latencies = [one.latency if one.correct else math.inf for one in found]
    good = sum(map(math.isfinite, latencies))
    duration = max(seconds, *(one.at + one.response.seconds for one in found))
    p50, p95, p99 = (1e3 * percentile(latencies, share) for share in (0.5, 0.95, 0.99))
    cpu_ms = 1e3 * (running.cpu_seconds() - before) / good if running and good else None
    return Trial(rate, good / duration, p50, p95, p99, len(found) - good, cpu_ms)


async def _compare(client: Client) -> tuple[list[dict[str, float]], float]:
    """Return the answers to requests sent one by one, and their largest difference to those sent all at once."""
    bodies = Bodies()
    requests = [bodies.request(SUBSETS[i % len(SUBSETS)]) for i in range(TOGETHER)]
    alone = [(await client.send(request)).json()["probabilities"] for request in requests]
    together = await asyncio.gather(*map(client.send, requests))
    batched = [response.json()["probabilities"] for response in together]
    return alone, max(map(difference, alone, batched))


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the largest difference of a class's probability."""
    return max(abs(one[name] - other[name]) for name in one)


def in_process(subsets: Sequence[ModalitySet], seconds: float, workers: int = 0) -> dict[str, float]:
    """Return the decisions a second of our predictor without a service, as `benchmarks.in_process` prints them."""
    command = [sys.executable, "-m", "benchmarks.in_process", "--seconds", str(seconds), *(s.name for s in subsets)]
    if workers:
        command += ["--workers", str(workers)]
    completed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(completed.stdout)
    return found


def best(rounds: Sequence[Measured]) -> Measured:
    """Combine the rounds of one service: for each subset those trials that have the highest goodput."""
    first = rounds[0]
    for other in rounds[1:]:
        for subset, trials in other.trials.items():
            if other.goodput(subset) > first.goodput(subset):
                first.trials[subset] = trials
            first.most[subset] = max(first.most[subset], other.most[subset])
        for subset, trial in other.usual.items():
            first.usual[subset] = min(first.usual.get(subset, trial), trial, key=lambda one: one.p99)
    return first


def take_turns(
    seconds: float, steps: int, rounds: int, peers: Mapping[str, Peer]
) -> tuple[dict[str, Measured], dict[ModalitySet, float]]:
    """Measure every peer in each round; returns the best of each, and of the predictor without a service."""
    alone, turns = list[dict[str, float]](), list[dict[str, Measured]]()
    for number in range(rounds):
        alone.append(in_process(COMPARED, seconds))
        turn: dict[str, Measured] = {}
        for name, peer in peers.items():
            usual: dict[ModalitySet, float] | None = None if name == "one_worker" else {}
            if name == "ours" and "one_worker" in turn:
                usual = {subset: trial.rate for subset, trial in turn["one_worker"].usual.items()}
            with service(peer.command, peer.ready, peer.environment) as running:
                subsets = COMPARED if number else peer.subsets
                turn[name] = uvloop.run(measure(running, subsets, seconds, steps, usual))
        turns.append(turn)
    measured = {name: best([turn[name] for turn in turns]) for name in peers}
    return measured, {subset: max(rates[subset.name] for rates in alone) for subset in COMPARED}


def run(seconds: float, steps: int, rounds: int, peers: Mapping[str, Peer]) -> tuple[Report, dict[str, Any]]:
    """Measure every peer; returns the report, and the curves of latency against rate."""
    measured, without = take_turns(seconds, steps, rounds, peers)
    report = Report("service", machine_line())
    for name, peer in peers.items():
        for subset in peer.subsets:
            report.medians[f"{name}_{subset.name}_goodput_per_s"] = measured[name].goodput(subset)
            report.medians[f"{name}_{subset.name}_throughput_per_s"] = measured[name].most[subset]
            for trial in [t for t in measured[name].trials[subset] if t.sustained][-1:]:
                report.medians.update(
                    {f"{name}_{subset.name}_{p}_ms": getattr(trial, p) for p in ("p50", "p95", "p99")}
                    | ({f"{name}_{subset.name}_cpu_ms": trial.cpu_ms} if trial.cpu_ms is not None else {})
                )
        report.medians[f"{name}_memory_mib"] = measured[name].memory_mib
        report.facts[f"{name}_batched_differs_by"] = measured[name].apart
    report.medians.update({f"in_process_{subset.name}_per_s": rate for subset, rate in without.items()})
    ours = measured["ours"]
    for subset, label in ((COMPLETE, "trimodal"), (TEXT, "text")):
        for name in set(peers) - {"ours"}:
            theirs = measured[name].goodput(subset)
            report.ratios[f"{label}_throughput_vs_{name}"] = ours.most[subset] / measured[name].most[subset]
            if theirs:
                report.ratios[f"{label}_goodput_vs_{name}"] = ours.goodput(subset) / theirs
            else:
                report.facts[f"{label}_{name}"] = f"sustains no rate within {LIMIT_MS:g} ms"
        report.ratios[f"{label}_goodput_vs_in_process"] = ours.goodput(subset) / without[subset]
    report.ratios.update(workers(report, measured, seconds))
    for name in set(peers) - {"ours"}:
        apart = max(map(difference, ours.answers, measured[name].answers))
        report.facts[f"answers_differ_from_{name}_by"] = apart
    report.facts["batched_equals_unbatched"] = ours.apart <= TOLERANCE
    for name, goal in GOALS.items():
        if name in report.ratios:
            report.facts[f"{name}_goal_{goal:g}_met"] = report.ratios[name] >= goal
    curves = {
        name: {subset.name: [asdict(trial) for trial in trials] for subset, trials in m.trials.items()}
        for name, m in measured.items()
    }
    return report, curves


def workers(report: Report, measured: Mapping[str, Measured], seconds: float) -> dict[str, float]:
    """Report what workers beyond the first gain and take; returns the ratios."""
    rates = in_process([TEXT], seconds, WORKERS)
    report.medians.update({f"decisions_of_{number}_workers_per_s": rate for number, rate in rates.items()})
    ratios = {"text_decisions_of_two_workers_vs_one": rates[str(WORKERS)] / rates["1"]}
    if one := measured.get("one_worker"):
        ours = measured["ours"]
        for subset, label in ((COMPLETE, "trimodal"), (TEXT, "text")):
            for name, trial in (("ours", ours.usual[subset]), ("one_worker", one.usual[subset])):
                report.medians[f"{name}_{subset.name}_usual_p99_ms"] = trial.p99
            if math.isfinite(ours.usual[subset].p99):
                ratios[f"{label}_usual_p99_vs_one_worker"] = one.usual[subset].p99 / ours.usual[subset].p99
        report.medians["memory_of_a_worker_mib"] = ours.worker_mib
        report.facts[f"memory_of_a_worker_goal_{MEMORY_GOAL_MIB:g}_met"] = ours.worker_mib <= MEMORY_GOAL_MIB
    return ratios


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="a second or two a rate, few rates")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to measure (default: all); ours is always")
    options = parser.parse_args(argv)
    wanted = {"ours", *options.peers.split(",")}
    peers = {name: peer for name, peer in PEERS.items() if name in wanted}
    missing = "litserve" in peers and find_spec("litserve") is None
    if missing:
        del peers["litserve"]
    report, curves = run(*((2.0, 3, 1) if options.quick else (5.0, 5, 2)), peers)
    if missing:
        report.facts["litserve"] = "not installed"
    finish(report, options.json)
    if options.json is not None:
        path: Path = options.json.with_suffix(".curves.json")
        path.write_text(json.dumps(curves, indent=1).replace("Infinity", "null") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
