"""Everything that may befall the service, one thing after the other, while others go on asking.

For: `make chaos`, that is `python -m tools.load.chaos`. Every case says whom it affected and how long the service took
to be itself again; the command fails when anybody but the victims was affected.
Does not know: how the cases are done.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from tools.load import client_trouble, decoder_trouble, disk_trouble, exit_trouble, forward_trouble
from tools.load.findings import Finding, conclude, options
from tools.load.scene import FULL, Scale
from tools.load.service import WEIGHTS, WITH_FAULTS, Service, serving
from tools.load.traffic import run

Step = Callable[[Service, Scale], Awaitable[Finding]]

BODY_SECONDS: Final = 10.0  # for a whole body; the default is 30, and there is nothing to learn from the other 20
EXIT_RATE: Final = 30.0  # requests a second while the process is told to end


async def _slow_bodies(service: Service, scale: Scale) -> Finding:
    return await client_trouble.slow_bodies(service, scale, BODY_SECONDS)


async def _slow_heads(service: Service, scale: Scale) -> Finding:
    return await client_trouble.slow_heads(service, scale, BODY_SECONDS)


async def _sigterm(service: Service, scale: Scale) -> Finding:
    return await exit_trouble.sigterm(service, scale, EXIT_RATE)


async def _sigterm_unheeded(service: Service, scale: Scale) -> Finding:
    return await exit_trouble.sigterm_unheeded(service, scale, EXIT_RATE)


SURVIVED: Final[dict[str, Step]] = {
    "decoder-killed": decoder_trouble.killed,
    "decoder-stopped": decoder_trouble.stopped,
    "decoders-stopped-idle": decoder_trouble.stopped_idle,
    "forward-raises": forward_trouble.raising,
    "forward-out-of-memory": forward_trouble.out_of_memory,
    "forward-out-of-memory-in-company": forward_trouble.out_of_memory_together,
    "slow-bodies": _slow_bodies,
    "slow-heads": _slow_heads,
    "resets": client_trouble.resets,
}
"""What one and the same process goes through, in this order."""

ALONE: Final[dict[str, Step]] = {
    "disk-full": disk_trouble.full,
    "device-lost": forward_trouble.device_lost,
    "sigterm": _sigterm,
    "sigterm-unheeded": _sigterm_unheeded,
}
"""What takes a process of its own."""


def play(weights: Path, scale: Scale, chosen: frozenset[str]) -> Iterator[Finding]:
    """Play the chosen cases."""
    together = [step for name, step in SURVIVED.items() if name in chosen]
    if together:
        with _with_faults(weights) as service:
            for step in together:
                yield run(played(step, service, scale))
    for name, step in ALONE.items():
        if name in chosen:
            with _starter(name)(weights) as service:
                yield run(played(step, service, scale))


async def played(step: Step, service: Service, scale: Scale) -> Finding:
    """Play one case; what keeps it from being played is a failure of it."""
    try:
        return await step(service, scale)
    except (RuntimeError, OSError, psutil.Error) as error:  # a case that cannot be played leaves the others to be
        return Finding(getattr(step, "__name__", "case"), failures=[f"{type(error).__name__}: {error}"])


def _starter(name: str) -> Callable[[Path], AbstractContextManager[Service]]:
    return {"disk-full": disk_trouble.without_room, "device-lost": _with_faults}.get(name, serving)


@contextmanager
def _with_faults(weights: Path) -> Iterator[Service]:
    with serving(weights, program=WITH_FAULTS, EMMR_BODY_TIMEOUT=str(BODY_SECONDS)) as service:
        yield service


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Break things while others ask, and see who is affected.")
    everything = [*SURVIVED, *ALONE]
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(everything)}; all when none is named")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--rate", type=float, default=FULL.rate, help="requests a second of bystanders")
    parser.add_argument("--clients", type=int, default=FULL.clients, help="connections that misbehave at once")
    options(parser)
    chosen = parser.parse_args()
    if unknown := set(chosen.cases) - set(everything):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    scale = replace(FULL, rate=chosen.rate, clients=chosen.clients)
    return conclude("chaos", play(chosen.weights, scale, frozenset(chosen.cases or everything)), chosen)


if __name__ == "__main__":
    sys.exit(main())
