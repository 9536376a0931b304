"""The time from start to ready, and the memory of the service: idle, and after a thousand requests; `emmr predict`.

Time of the service runs until `/health/ready` is 200. Memory is that of the service and all of its processes; shared
pages count once (proportional set size).
"""

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from benchmarks.bodies import Bodies
from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, ROOT, service
from model.modality import SUBSETS
from tools.load.client import Client

READY_GOAL: Final = 8.0  # seconds
PREDICT_GOAL: Final = 1.5  # seconds, of `emmr predict --text`
PREDICT: Final = ("-c", "from app.cli import main; main()", "predict", "--text", "I love this")
IDLE_GOAL: Final = 900.0  # MiB
GROWTH_GOAL: Final = 1.10
REQUESTS: Final = 1000
CONCURRENCY: Final = 8
SETTLE: Final = 2.0  # seconds before memory is read
IMPORTS: Final = (
    "numpy",
    "torch",
    "transformers.models.bert.modeling_bert",
    "librosa",
    "fastapi",
    "model.pipeline",
    "app.server",
)
_IMPORT: Final = """
import json, sys, time
from importlib import import_module
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
before, began = resident(), time.perf_counter()
import_module(sys.argv[1])
print(json.dumps([time.perf_counter() - began, resident() - before]))
"""


async def send_many(port: int, amount: int) -> None:
    """Send `amount` requests of every subset in turn, `CONCURRENCY` at a time.

    Raises:
        RuntimeError: a response is not a 200.
    """
    client, bodies = Client(port), Bodies()
    numbers = iter(range(amount))

    async def worker() -> None:
        for number in numbers:
            (await client.send(bodies.request(SUBSETS[number % len(SUBSETS)]))).json()

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    client.close()


def predict_cost() -> tuple[float, float]:
    """Return the seconds that `emmr predict --text` takes, and its seconds of processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *PREDICT], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def import_cost(module: str) -> tuple[float, float]:
    """Return the seconds and MiB that importing a module takes in a new process."""
    completed = subprocess.run([sys.executable, "-c", _IMPORT, module], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    seconds, mib = json.loads(completed.stdout)
    return float(seconds), float(mib)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one start, 70 requests")
    options = parser.parse_args(argv)
    rounds, requests = (1, 70) if options.quick else (min(options.rounds, 3), REQUESTS)
    report = Report("startup", machine_line())
    starts: list[float] = []
    for left in reversed(range(rounds)):
        with service(OURS, "/health/ready") as running:
            starts.append(running.seconds_to_ready)
            if left:
                continue
            time.sleep(SETTLE)
            idle, idle_own = running.resident_mib(), running.memory_mib()
            uvloop.run(send_many(running.port, requests))
            time.sleep(SETTLE)
            after, after_own = running.resident_mib(), running.memory_mib()
            report.medians.update(
                {
                    "idle_resident_mib": idle,
                    "idle_proportional_mib": idle_own,
                    "after_resident_mib": after,
                    "after_proportional_mib": after_own,
                }
            )
            report.ratios.update(
                {
                    "idle_memory_goal_over_ours": IDLE_GOAL / idle_own,
                    "growth_goal_over_ours": GROWTH_GOAL * idle_own / after_own,
                }
            )
            report.facts["growth"] = after_own / idle_own
    ready = statistics.median(starts)
    report.medians["start_to_ready_s"] = ready
    report.ratios["ready_goal_over_ours"] = READY_GOAL / ready
    predictions = [predict_cost() for _ in range(1 if options.quick else options.rounds)]
    report.medians["predict_s"], report.medians["predict_processor_s"] = map(
        statistics.median, zip(*predictions, strict=True)
    )
    report.ratios["predict_goal_over_ours"] = PREDICT_GOAL / report.medians["predict_s"]
    for module in IMPORTS:
        seconds, mib = import_cost(module)
        report.facts.update({f"import_{module}_s": seconds, f"import_{module}_mib": mib})
    report.facts.update({"starts": rounds, "requests": requests, "goals_met": min(report.ratios.values()) >= 1})
    finish(report, options.json)


if __name__ == "__main__":
    main()
