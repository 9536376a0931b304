"""Soak test (`make soak`): valid and invalid requests at a share of the capacity, for a long time.

Fails where memory grows faster than a limit, descriptors or temporary files are left, or a response is not correct.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.load import payloads
from tools.load.client import Client
from tools.load.faults_common import SPARE_DESCRIPTORS, settled
from tools.load.generator import capacity, drawn, open_loop, percentile, poisson, run, statuses
from tools.load.report import Result, add_options, report
from tools.load.service import MIB, WEIGHTS, Service, levels, monitoring, serving, slope

LEVELS: Final = 10  # of memory in the result, to show the shape of its curve
VALID_TO_INVALID: Final = 3  # valid requests for each invalid one


@dataclass(frozen=True)
class Plan:
    """The parameters of a soak test.

    Args:
        seconds: of load.
        share: of the capacity.
        measuring: seconds of the capacity's measurement.
        settling: seconds before that, which are not counted.
        warm_up: the share of the load whose memory is not counted, while caches and allocators fill.
        limit: MiB a minute that memory may grow by.
    """

    seconds: float = 1200.0
    share: float = 0.7
    measuring: float = 15.0
    settling: float = 3.0
    warm_up: float = 0.2
    limit: float = 1.0

    @property
    def interval(self) -> float:
        """Seconds between two samples of memory: about two hundred samples, at most two a second."""
        return min(5.0, max(0.5, self.seconds / 200))


async def soak(service: Service, plan: Plan) -> Result:
    """Measure the capacity, apply the load, and report what grew."""
    valid, invalid = payloads.valid(), payloads.invalid()
    mixed = valid * max(1, round(VALID_TO_INVALID * len(invalid) / len(valid))) + invalid
    client = Client(service.port)
    measured = await capacity(client, drawn(mixed, 1), plan.measuring, plan.settling)
    client.close()
    await settled(service)
    before = service.resources()
    with monitoring(service, plan.interval) as samples:
        found = await open_loop(client, drawn(mixed, 4), poisson(plan.share * measured, plan.seconds))
    client.close()
    await settled(service)
    after = service.resources()
    counted = [sample for sample in samples if sample.at >= plan.warm_up * plan.seconds]
    growth, wrong = slope(counted), [one for one in found if not one.correct]
    descriptors = after.descriptors - before.descriptors
    result = Result(
        f"soak of {plan.seconds / 60:.3g} min",
        {
            "capacity /s": measured,
            "rate /s": plan.share * measured,
            "requests": len(found),
            "answers": statuses(found),
            "wrong answers": len(wrong),
            "p50 ms": 1000 * percentile([one.response.seconds for one in found], 0.5),
            "p99 ms": 1000 * percentile([one.response.seconds for one in found], 0.99),
            "memory before MiB": before.rss / MIB,
            "memory after MiB": after.rss / MIB,
            "memory meanwhile MiB": [round(level) for level in levels(samples, LEVELS)],
            "of which decoders, after MiB": after.decoders / MIB,
            "memory slope MiB/min": growth,
            "descriptors before": before.descriptors,
            "descriptors after": after.descriptors,
            "temporary files left": after.temporary,
        },
    )
    result.expect(len(found) > 0, "there was no load")
    result.expect(not wrong, f"wrong answers: {statuses(wrong)}, the first {wrong[:1]}")
    result.expect(growth < plan.limit, f"memory grows by {growth:.2f} MiB a minute")
    result.expect(descriptors <= SPARE_DESCRIPTORS, f"{descriptors} descriptors were left open")
    result.expect(after.temporary == 0, f"{after.temporary} temporary files were left")
    return result


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Load the service for a long time and look at what grows.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=Plan.share, help="of the capacity that is measured first")
    parser.add_argument("--limit", type=float, default=Plan.limit, help="MiB a minute that memory may grow by")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    add_options(parser)
    options = parser.parse_args()
    plan = Plan(seconds=60 * options.minutes, share=options.share, limit=options.limit)
    with serving(options.weights) as service:
        return report("soak", [run(soak(service, plan))], options)


if __name__ == "__main__":
    sys.exit(main())
