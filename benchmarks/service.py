"""The service under load, beside what people would use instead.

For: `python -m benchmarks.service --json FILE`. Requests arrive at a constant rate; a rate is sustained while every one
is answered and the 99th percentile stays within 500 ms, counted from when each was due. Peers in the same run, with the
same weights: a plain FastAPI handler (`benchmarks.naive_service`), our predictor behind LitServe
(`benchmarks.litserve_service`), and our predictor in a loop with perfect batches and no service at all
(`benchmarks.in_process`). Every request is a different one.
Does not know: how any of them answers. Services run one at a time; the load comes from this process, on the same
processors.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.bodies import Bodies
from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.load import LIMIT_MS, Client, Trial, offer, parsed, saturate
from benchmarks.processes import OURS, ROOT, service
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet

TEXT: Final = ModalitySet.of(Modality.TEXT)
COMPARED: Final = (COMPLETE, TEXT)
CONCURRENCY: Final = 8  # of the clients whose throughput says where to look for the limit
LOWEST: Final = 0.25  # of that throughput: the first rate offered
HIGHEST: Final = 1.15
TOGETHER: Final = 16  # requests asked at once, to be batched
TOLERANCE: Final = 1e-4
GOALS: Final = {
    "trimodal_goodput_vs_naive": 4.0,
    "trimodal_goodput_vs_litserve": 1.3,
    "trimodal_goodput_vs_in_process": 0.85,
    "text_goodput_vs_naive": 3.0,
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A service to measure: how to start it, and the path that says it is ready."""

    command: tuple[str, ...]
    ready: str
    subsets: tuple[ModalitySet, ...] = COMPARED


PEERS: Final = {
    "ours": Peer(OURS, "/health/ready", tuple(sorted(SUBSETS, key=lambda s: s not in COMPARED))),
    "naive": Peer(("-m", "benchmarks.naive_service"), "/health"),
    "litserve": Peer(("-m", "benchmarks.litserve_service"), "/health"),
}


@dataclass(slots=True)
class Measured:
    """What was seen of one service.

    Args:
        trials: of each subset, by rate.
        most: answers a second of each subset when clients do not hold back.
        answers: to the same requests, for comparison.
        apart: how far batched answers are from unbatched ones.
    """

    trials: dict[ModalitySet, list[Trial]] = field(default_factory=dict)
    most: dict[ModalitySet, float] = field(default_factory=dict)
    answers: list[dict[str, float]] = field(default_factory=list)
    apart: float = 0.0

    def goodput(self, subset: ModalitySet) -> float:
        """The highest sustained rate; 0 where none was."""
        return max((t.rate for t in self.trials[subset] if t.sustained), default=0.0)


async def measure(port: int, subsets: Sequence[ModalitySet], seconds: float, steps: int) -> Measured:
    """Load one service."""
    client, bodies, measured = Client(port), Bodies(), Measured()
    try:
        measured.answers, measured.apart = await _compare(client)
        for subset in subsets:
            thorough = subset in COMPARED
            make = partial(bodies.request, subset)
            await saturate(client, seconds / 4, CONCURRENCY, make)  # warm
            most = measured.most[subset] = await saturate(client, seconds / 2, CONCURRENCY, make)
            trials = measured.trials[subset] = []
            low, high, at = 0.0, HIGHEST, LOWEST if thorough else 0.5
            for _ in range(steps if thorough else 2):
                trial = await offer(client, at * most, seconds, make)
                trials.append(trial)
                low, high = (at, high) if trial.sustained else (low, at)
                at = (low + high) / 2
            trials.sort(key=lambda trial: trial.rate)
    finally:
        client.close()
    return measured


async def _compare(client: Client) -> tuple[list[dict[str, float]], float]:
    """Answers to the same requests alone, and how far from them those asked all at once are."""
    bodies = Bodies()
    requests = [bodies.request(SUBSETS[i % len(SUBSETS)]) for i in range(TOGETHER)]
    alone = [parsed(await client.ask(request))["probabilities"] for request in requests]
    together = await asyncio.gather(*(client.ask(request) for request in requests))
    batched = [parsed(answer)["probabilities"] for answer in together]
    return alone, max(map(difference, alone, batched))


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest difference of any class's probability."""
    return max(abs(one[name] - other[name]) for name in one)


def in_process(subsets: Sequence[ModalitySet], seconds: float) -> dict[str, float]:
    """Answers a second of our predictor without a service."""
    command = [sys.executable, "-m", "benchmarks.in_process", "--seconds", str(seconds), *(s.name for s in subsets)]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(said.stdout)
    return found


def run(seconds: float, steps: int, peers: Mapping[str, Peer]) -> tuple[Report, dict[str, Any]]:
    """Measure every peer, and what the figures say; the curves of latency against rate come beside the report."""
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
        name: {
            subset.name: [
                {"rate": t.rate, "answered": t.answered, "p50": t.p50, "p95": t.p95, "p99": t.p99, "failed": t.failed}
                for t in trials
            ]
            for subset, trials in m.trials.items()
        }
        for name, m in measured.items()
    }
    return report, curves


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
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
