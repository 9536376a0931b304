"""A long run at a good part of what the service can do: does anything grow, does anything stay?

For: `make soak`, that is `python -m tools.load.soak`. Good and bad requests of every kind come at a share of the
capacity measured just before. Fails when memory grows faster than a limit, descriptors or temporary files stay behind,
or an answer is not what it should be.
Does not know: why something would grow.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.load import bodies
from tools.load.bodies import endless
from tools.load.client import Client
from tools.load.findings import Finding, conclude, options
from tools.load.scene import SPARE_DESCRIPTORS, settled
from tools.load.service import MIB, WEIGHTS, Service, serving
from tools.load.traffic import capacity, open_loop, percentile, run, statuses
from tools.load.watch import levels, slope, watching

LEVELS: Final = 10  # of memory, to see a curve's shape by
VALID_TO_INVALID: Final = 3  # good requests for each bad one


@dataclass(frozen=True)
class Plan:
    """How to soak.

    Args:
        seconds: of load.
        share: of the capacity.
        measuring: seconds of the capacity's measurement.
        settling: seconds before that, which do not count.
        warm_up: the first part of the load, whose memory does not count: caches and allocators fill.
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
        """Seconds between two looks at memory: some hundred of them, one a second at the most."""
        return min(5.0, max(0.5, self.seconds / 200))


async def soak(service: Service, plan: Plan) -> Finding:
    """Measure the capacity, load, and look at what grew."""
    good, bad = bodies.valid(), bodies.invalid()
    mixed = good * max(1, round(VALID_TO_INVALID * len(bad) / len(good))) + bad
    client = Client(service.port)
    able = await capacity(client, mixed, plan.measuring, plan.settling)
    client.close()
    await settled(service)
    before = service.resources()
    with watching(service, plan.interval) as samples:
        found = await open_loop(client, endless(mixed, seed=4), plan.share * able, plan.seconds)
    client.close()
    await settled(service)
    after = service.resources()
    counted = [sample for sample in samples if sample.at >= plan.warm_up * plan.seconds]
    growth, wrong = slope(counted), [one for one in found if not one.right]
    descriptors = after.descriptors - before.descriptors
    finding = Finding(
        f"soak of {plan.seconds / 60:.3g} min",
        {
            "capacity /s": able,
            "rate /s": plan.share * able,
            "requests": len(found),
            "answers": statuses(found),
            "wrong answers": len(wrong),
            "p50 ms": 1000 * percentile([one.answer.seconds for one in found], 0.5),
            "p99 ms": 1000 * percentile([one.answer.seconds for one in found], 0.99),
            "memory before MiB": before.rss / MIB,
            "memory after MiB": after.rss / MIB,
            "memory meanwhile MiB": [round(held) for held in levels(samples, LEVELS)],
            "of which decoders, after MiB": after.decoders / MIB,
            "memory slope MiB/min": growth,
            "descriptors before": before.descriptors,
            "descriptors after": after.descriptors,
            "temporary files left": after.temporary,
        },
    )
    finding.expect(len(found) > 0, "there was no load")
    finding.expect(not wrong, f"wrong answers: {statuses(wrong)}, the first {wrong[:1]}")
    finding.expect(growth < plan.limit, f"memory grows by {growth:.2f} MiB a minute")
    finding.expect(descriptors <= SPARE_DESCRIPTORS, f"{descriptors} descriptors stayed open")
    finding.expect(after.temporary == 0, f"{after.temporary} temporary files stayed")
    return finding


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Load the service for a long time and look at what grows.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=Plan.share, help="of the capacity that is measured first")
    parser.add_argument("--limit", type=float, default=Plan.limit, help="MiB a minute that memory may grow by")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options(parser)
    chosen = parser.parse_args()
    plan = Plan(seconds=60 * chosen.minutes, share=chosen.share, limit=chosen.limit)
    with serving(chosen.weights) as service:
        return conclude("soak", [run(soak(service, plan))], chosen)


if __name__ == "__main__":
    sys.exit(main())
