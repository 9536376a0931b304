"""Overload (`make overload`): several times the capacity, open loop.

Fails on a response other than 200 and 429, an accepted request past the deadline, memory past its bound, slow recovery.
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
from tools.load import payloads
from tools.load.client import Client, Request, Response
from tools.load.generator import capacity, drawn, open_loop, percentile, poisson, run, statuses
from tools.load.report import Result, add_options, report
from tools.load.service import MIB, WEIGHTS, Service, monitoring, peak, serving

PROBE_SECONDS: Final = 0.2  # between two probes of the latency during recovery
SLOWER: Final = 1.5  # a latency up to this many times the p95 of an idle service counts as recovered
IDLE_PROBES: Final = 20
ADDRESSES: Final = 8  # of the clients together: the limits of one address are not what is tested
RECOVERY_SECONDS: Final = 5.0
# See docs/memory.md:
OVERHEAD_BYTES: Final = MIB // 4  # of one request beside its body: socket buffer, task and connection
VOICE_BYTES_A_SECOND: Final = 4 * 66 * 16_000 / 512  # of sound, as features
DECODER_BYTES: Final = 10 * MIB  # FFT plans, tables and scratch memory of a decoder process
DECODER_BYTES_A_SECOND: Final = 0.35 * MIB  # of the sound that it decodes
BATCH_BYTES: Final = 50 * MIB  # a forward pass


@dataclass(frozen=True)
class Plan:
    """`times` the capacity, which is measured for `measuring` seconds after `settling` ones, for `seconds`."""

    seconds: float = 60.0
    times: float = 4.0
    measuring: float = 15.0
    settling: float = 3.0


def memory_bound(idle: int, sent: Sequence[Request], seconds: float, settings: Settings) -> float:
    """Return the bytes that the service and its decoders may hold under `sent`, the longest of `seconds` of sound.

    The sum of `docs/memory.md` for these requests in place of the largest ones that are accepted, on top of `idle`
    bytes; weights are not reloaded meanwhile.
    """
    body = max(len(request.body) for request in sent)
    arriving_and_waiting = (settings.max_uploads + settings.queue_size) * (body + OVERHEAD_BYTES)
    decoded = (settings.decode_workers + 2 * settings.feature_threads) * (seconds * VOICE_BYTES_A_SECOND + body)
    decoding = settings.decode_workers * (2 * body + DECODER_BYTES + seconds * DECODER_BYTES_A_SECOND)
    return idle + arriving_and_waiting + decoded + BATCH_BYTES + decoding


async def overload(service: Service, plan: Plan) -> Result:
    """Measure the capacity, exceed it, stop, and wait for recovery."""
    settings, valid, client = Settings(), payloads.valid(), Client(service.port, addresses=ADDRESSES)
    measured = await capacity(client, drawn(valid, 1), plan.measuring, plan.settling)
    probe = payloads.text(payloads.SENTENCES[0], "probe")
    idle = await _probes(client, probe, IDLE_PROBES)
    resting = service.resources().rss
    with monitoring(service, 0.5) as samples:
        arrivals = poisson(plan.times * measured, plan.seconds)
        load = asyncio.create_task(open_loop(client, drawn(valid, 5), arrivals))
        await asyncio.sleep(plan.seconds)
        recovery = await _recovery(service, probe, SLOWER * percentile(idle, 0.95))
        found = await load
    client.close()
    accepted = [one.response.seconds for one in found if one.response.status == 200]
    bound = memory_bound(resting, valid, seconds=2.5, settings=settings) / MIB
    result = Result(
        f"overload of {plan.times:g} times the capacity for {plan.seconds:g} s",
        {
            "capacity /s": measured,
            "offered /s": len(found) / plan.seconds,
            "answers": statuses(found),
            "answered 200 /s": len(accepted) / plan.seconds,
            "p50 of 200 s": percentile(accepted, 0.5),
            "p99 of 200 s": percentile(accepted, 0.99),
            "p99 of 429 ms": 1000 * percentile([o.response.seconds for o in found if o.response.status == 429], 0.99),
            "Retry-After s": sorted(
                {one.response.retry_after or "none" for one in found if one.response.status == 429}
            ),
            "memory idle MiB": resting / MIB,
            "memory peak MiB": peak(samples),
            "memory bound MiB": bound,
            "idle p95 ms": 1000 * percentile(idle, 0.95),
            "recovered after s": recovery,
        },
    )
    wrong = [one for one in found if not _is_allowed(one.response)]
    result.expect(not wrong, f"responses other than 200 and 429: {statuses(wrong)}, the first {wrong[:1]}")
    result.expect(
        any(one.response.status == 429 for one in found), "nothing was rejected: the service was not overloaded"
    )
    result.expect(percentile(accepted, 0.99) < settings.deadline, "requests that were accepted passed the deadline")
    result.expect(peak(samples) < bound, "memory passed its bound")
    result.expect(recovery is not None, f"no idle latency within {RECOVERY_SECONDS:g} s")
    return result


def _is_allowed(response: Response) -> bool:
    return response.status == 200 or (response.status == 429 and (response.retry_after or "").isdecimal())


async def _probes(client: Client, probe: Request, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        seconds.append((await client.send(probe)).seconds)
        await asyncio.sleep(PROBE_SECONDS / 4)
    return seconds


async def _recovery(service: Service, probe: Request, usual: float) -> float | None:
    """Return the seconds until the first of three probes in a row with a latency of at most `usual` seconds."""
    client, began = Client(service.port), time.perf_counter()
    probes: list[asyncio.Task[bool]] = []

    async def quick() -> bool:
        response = await client.send(probe)
        return response.status == 200 and response.seconds <= usual

    # Sent at fixed times, so that a slow response does not delay the next probe.
    while time.perf_counter() - began < RECOVERY_SECONDS + 3 * PROBE_SECONDS:
        probes.append(asyncio.create_task(quick()))
        await asyncio.sleep(PROBE_SECONDS)
        if len(probes) > 2 and all(task.done() and task.result() for task in probes[-3:]):
            break
    quick_ones = await asyncio.gather(*probes)
    client.close()
    first = next((i for i in range(len(quick_ones) - 2) if all(quick_ones[i : i + 3])), None)
    return None if first is None else first * PROBE_SECONDS


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Send more requests than the service can process.")
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--times", type=float, default=Plan.times, help="the capacity that is measured first")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    add_options(parser)
    options = parser.parse_args()
    with serving(options.weights) as service:
        return report("overload", [run(overload(service, Plan(options.seconds, options.times)))], options)


if __name__ == "__main__":
    sys.exit(main())
