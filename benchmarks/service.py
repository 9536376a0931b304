"""The service under load, beside a plain FastAPI handler, LitServe, and the predictor without a service.

A rate is sustained where every request gets a 200 and the 99th percentile of latency is within `LIMIT_MS`.
"""

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

from benchmarks.bodies import Bodies
from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, ROOT, service
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from tools.load.client import Client, Request
from tools.load.generator import capacity, constant, open_loop, percentile

TEXT: Final = ModalitySet.of(Modality.TEXT)
COMPARED: Final = (COMPLETE, TEXT)
PATIENCE: Final = 5.0  # seconds to wait, after the last request was due, for responses
LIMIT_MS: Final = 500.0  # of the 99th percentile, for a rate to count as sustained
CONCURRENCY: Final = 8  # requests in flight when the throughput is measured that bounds the rates
LOWEST: Final = 0.25  # of that throughput: the first rate offered
HIGHEST: Final = 1.15
TOGETHER: Final = 16  # requests sent at once, to be batched
TOLERANCE: Final = 1e-4
GOALS: Final = {
    "trimodal_goodput_vs_naive": 4.0,
    "trimodal_goodput_vs_litserve": 1.3,
    "trimodal_goodput_vs_in_process": 0.85,
    "text_goodput_vs_naive": 3.0,
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A service to measure: its command, the path that is 200 once it is ready, and the subsets to measure."""

    command: tuple[str, ...]
    ready: str
    subsets: tuple[ModalitySet, ...] = COMPARED


PEERS: Final = {
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
    """

    rate: float
    answered: float
    p50: float
    p95: float
    p99: float
    failed: int

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
    """

    trials: dict[ModalitySet, list[Trial]] = field(default_factory=dict)
    most: dict[ModalitySet, float] = field(default_factory=dict)
    answers: list[dict[str, float]] = field(default_factory=list)
    apart: float = 0.0

    def goodput(self, subset: ModalitySet) -> float:
        """Return the highest sustained rate; 0 where none was."""
        return max((t.rate for t in self.trials[subset] if t.sustained), default=0.0)


async def measure(port: int, subsets: Sequence[ModalitySet], seconds: float, steps: int) -> Measured:
    """Measure one service."""
    client, bodies, measured = Client(port), Bodies(), Measured()
    try:
        measured.answers, measured.apart = await _compare(client)
        for subset in subsets:
            thorough = subset in COMPARED
            requests = bodies.requests(subset)
            most = await capacity(client, requests, seconds / 2, warm_up=seconds / 4, workers=CONCURRENCY)
            measured.most[subset] = most
            trials = measured.trials[subset] = []
            low, high, at = 0.0, HIGHEST, LOWEST if thorough else 0.5
            for _ in range(steps if thorough else 2):
                trial = await offer(client, requests, at * most, seconds)
                trials.append(trial)
                low, high = (at, high) if trial.sustained else (low, at)
                at = (low + high) / 2
            trials.sort(key=lambda trial: trial.rate)
    finally:
        client.close()
    return measured


async def offer(client: Client, requests: Iterator[Request], rate: float, seconds: float) -> Trial:
    """Send requests at a constant rate."""
    found = await open_loop(client, requests, constant(rate, seconds), patience=PATIENCE)
    latencies = [one.latency if one.correct else math.inf for one in found]
    good = sum(map(math.isfinite, latencies))
    duration = max(seconds, *(one.at + one.response.seconds for one in found))
    p50, p95, p99 = (1e3 * percentile(latencies, share) for share in (0.5, 0.95, 0.99))
    return Trial(rate, good / duration, p50, p95, p99, len(found) - good)


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


def in_process(subsets: Sequence[ModalitySet], seconds: float) -> dict[str, float]:
    """Return subset → decisions a second of our predictor without a service."""
    command = [sys.executable, "-m", "benchmarks.in_process", "--seconds", str(seconds), *(s.name for s in subsets)]
    completed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(completed.stdout)
    return found


def run(seconds: float, steps: int, peers: Mapping[str, Peer]) -> tuple[Report, dict[str, Any]]:
    """Measure every peer; returns the report, and the curves of latency against rate."""
    report, measured = Report("service", machine_line()), dict[str, Measured]()
    for name, peer in peers.items():
        with service(peer.command, peer.ready) as running:
            measured[name] = uvloop.run(measure(running.port, peer.subsets, seconds, steps))
        for subset in peer.subsets:
            report.medians[f"{name}_{subset.name}_goodput_per_s"] = measured[name].goodput(subset)
            report.medians[f"{name}_{subset.name}_throughput_per_s"] = measured[name].most[subset]
            best = [t for t in measured[name].trials[subset] if t.sustained][-1:]
            for trial in best:
                report.medians.update(
                    {f"{name}_{subset.name}_{p}_ms": getattr(trial, p) for p in ("p50", "p95", "p99")}
                )
        report.facts[f"{name}_batched_differs_by"] = measured[name].apart
    alone = in_process(COMPARED, seconds)
    report.medians.update({f"in_process_{subset}_per_s": rate for subset, rate in alone.items()})
    ours = measured["ours"]
    for subset, label in ((COMPLETE, "trimodal"), (TEXT, "text")):
        for name in set(peers) - {"ours"}:
            theirs = measured[name].goodput(subset)
            report.ratios[f"{label}_throughput_vs_{name}"] = ours.most[subset] / measured[name].most[subset]
            if theirs:
                report.ratios[f"{label}_goodput_vs_{name}"] = ours.goodput(subset) / theirs
            else:
                report.facts[f"{label}_{name}"] = f"sustains no rate within {LIMIT_MS:g} ms"
        report.ratios[f"{label}_goodput_vs_in_process"] = ours.goodput(subset) / alone[subset.name]
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
    report, curves = run(*((2.0, 3) if options.quick else (6.0, 5)), peers)
    if missing:
        report.facts["litserve"] = "not installed"
    finish(report, options.json)
    if options.json is not None:
        path: Path = options.json.with_suffix(".curves.json")
        path.write_text(json.dumps(curves, indent=1).replace("Infinity", "null") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
