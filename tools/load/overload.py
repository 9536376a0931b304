"""More requests than the service can answer: does it say so, keep its word to those it takes, and recover?

For: `make overload`, that is `python -m tools.load.overload`. Fails when an answer is neither 200 nor 429 with a
`Retry-After`, a request that was taken is answered past the deadline, memory passes its bound, or the latency of an
idle service does not come back in time.
Does not know: how the service refuses.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.settings import Settings
from tools.load import bodies
from tools.load.bodies import Sent, endless
from tools.load.client import Client
from tools.load.findings import Finding, conclude, options
from tools.load.service import MIB, WEIGHTS, Service, serving
from tools.load.traffic import Exchange, capacity, open_loop, percentile, run, statuses
from tools.load.watch import peak, watching

PROBE_SECONDS: Final = 0.2  # between two requests that see whether the latency is an idle service's again
SLOWER: Final = 1.5  # times an idle service's p95 still count as its latency: a request takes as long as it takes
IDLE_PROBES: Final = 20
RECOVERY_SECONDS: Final = 5.0
# Of docs/memory.md:
OVERHEAD_BYTES: Final = MIB // 4  # of one request beside its body: what the socket has read ahead, task and connection
VOICE_BYTES_A_SECOND: Final = 4 * 66 * 16_000 / 512  # of sound, once it is features
LISTENING_BYTES: Final = 10 * MIB  # a decoding process's plans, tables and scratch
LISTENING_BYTES_A_SECOND: Final = 0.35 * MIB  # of the sound it is at
BATCH_BYTES: Final = 50 * MIB  # a forward pass


@dataclass(frozen=True)
class Plan:
    """How to overload: `times` the capacity, measured for `measuring` seconds after `settling` ones, for `seconds`."""

    seconds: float = 60.0
    times: float = 4.0
    measuring: float = 15.0
    settling: float = 3.0


def memory_bound(idle: int, requests: Sequence[Sent], seconds: float, settings: Settings) -> float:
    """Bytes that the service and its decoders may hold under `requests`, the longest of `seconds` of sound.

    The sum of `docs/memory.md`, with what these requests are in place of the largest that are accepted: tight enough to
    be passed. `idle` is the base; nothing is reloaded meanwhile.
    """
    body = max(len(request.body) for request in requests)
    arriving_and_waiting = (settings.max_uploads + settings.queue_size) * (body + OVERHEAD_BYTES)
    decoded = (settings.decode_workers + 2 * settings.feature_threads) * (seconds * VOICE_BYTES_A_SECOND + body)
    decoding = settings.decode_workers * (2 * body + LISTENING_BYTES + seconds * LISTENING_BYTES_A_SECOND)
    return idle + arriving_and_waiting + decoded + BATCH_BYTES + decoding


async def overload(service: Service, plan: Plan) -> Finding:
    """Measure the capacity, ask for more, stop, and watch it recover."""
    settings, good, client = Settings(), bodies.valid(), Client(service.port)
    able = await capacity(client, good, plan.measuring, plan.settling)
    probe = bodies.text(bodies.SENTENCES[0], "probe")
    idle = await _probes(client, probe, IDLE_PROBES)
    resting = service.resources().rss
    with watching(service, 0.5) as samples:
        loading = asyncio.create_task(open_loop(client, endless(good, seed=5), plan.times * able, plan.seconds))
        await asyncio.sleep(plan.seconds)
        recovery = await _recovery(service, probe, SLOWER * percentile(idle, 0.95))
        found = await loading
    client.close()
    taken = [one.answer.seconds for one in found if one.answer.status == 200]
    bound = memory_bound(resting, good, seconds=2.5, settings=settings) / MIB
    finding = Finding(
        f"overload of {plan.times:g} times the capacity for {plan.seconds:g} s",
        {
            "capacity /s": able,
            "offered /s": len(found) / plan.seconds,
            "answers": statuses(found),
            "answered 200 /s": len(taken) / plan.seconds,
            "p50 of 200 s": percentile(taken, 0.5),
            "p99 of 200 s": percentile(taken, 0.99),
            "p99 of 429 ms": 1000 * percentile([o.answer.seconds for o in found if o.answer.status == 429], 0.99),
            "Retry-After s": sorted({one.answer.retry_after or "none" for one in found if one.answer.status == 429}),
            "memory idle MiB": resting / MIB,
            "memory peak MiB": peak(samples),
            "memory bound MiB": bound,
            "idle p95 ms": 1000 * percentile(idle, 0.95),
            "recovered after s": recovery,
        },
    )
    strange = [one for one in found if not _right(one)]
    finding.expect(not strange, f"answers that are neither: {statuses(strange)}, the first {strange[:1]}")
    finding.expect(any(one.answer.status == 429 for one in found), "nothing was refused: this was no overload")
    finding.expect(percentile(taken, 0.99) < settings.deadline, "requests that were taken passed the deadline")
    finding.expect(peak(samples) < bound, "memory passed its bound")
    finding.expect(recovery is not None, f"no idle latency within {RECOVERY_SECONDS:g} s")
    return finding


def _right(one: Exchange) -> bool:
    answer = one.answer
    return answer.status == 200 or (answer.status == 429 and (answer.retry_after or "").isdecimal())


async def _probes(client: Client, probe: Sent, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        seconds.append((await client.ask(probe)).seconds)
        await asyncio.sleep(PROBE_SECONDS / 4)
    return seconds


async def _recovery(service: Service, probe: Sent, usual: float) -> float | None:
    """Seconds from now until the first of three probes in a row that are answered as quickly as usual."""
    client, began = Client(service.port), time.perf_counter()
    asked: list[asyncio.Task[bool]] = []

    async def quick() -> bool:
        answer = await client.ask(probe)
        return answer.status == 200 and answer.seconds <= usual

    # Sent at fixed times, whatever has become of the ones before: a slow answer must not hide the next.
    while time.perf_counter() - began < RECOVERY_SECONDS + 3 * PROBE_SECONDS:
        asked.append(asyncio.create_task(quick()))
        await asyncio.sleep(PROBE_SECONDS)
        if len(asked) > 2 and all(task.done() and task.result() for task in asked[-3:]):
            break
    good = await asyncio.gather(*asked)
    client.close()
    first = next((i for i in range(len(good) - 2) if all(good[i : i + 3])), None)
    return None if first is None else first * PROBE_SECONDS


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Ask for more than the service can answer.")
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--times", type=float, default=Plan.times, help="the capacity that is measured first")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options(parser)
    chosen = parser.parse_args()
    with serving(chosen.weights) as service:
        return conclude("overload", [run(overload(service, Plan(chosen.seconds, chosen.times)))], chosen)


if __name__ == "__main__":
    sys.exit(main())
