"""Fault injection (`make chaos`): faults of clients, decoders, network, disk and shutdown, under background traffic.

Each case reports what it affected and how long recovery took; it fails where background requests are affected.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from tools.load import (
    faults_client,
    faults_compute,
    faults_decoder,
    faults_disk,
    faults_forward,
    faults_reload,
    faults_shutdown,
)
from tools.load.faults_common import FULL, Scale
from tools.load.generator import run
from tools.load.report import Result, add_options, report
from tools.load.service import WEIGHTS, WITH_FAULTS, Service, serving

Case = Callable[[Service, Scale], Awaitable[Result]]

SLOW_SECONDS: Final = 10.0  # for a whole head or body; the default of 30 for bodies would only make the cases longer
EXIT_RATE: Final = 30.0  # requests a second during the shutdown

SHARED: Final[dict[str, Case]] = {
    "decoder-killed": faults_decoder.killed,
    "decoders-killed": faults_decoder.killed_again,
    "decoder-stopped": faults_decoder.stopped,
    "decoders-stopped-idle": faults_decoder.stopped_idle,
    "forward-raises": faults_forward.raising,
    "forward-out-of-memory": faults_forward.out_of_memory,
    "forward-out-of-memory-in-company": faults_forward.out_of_memory_in_batch,
    "computing-killed": faults_compute.killed,
    "forking-killed": faults_compute.server_killed,
    "slow-bodies": partial(faults_client.slow_bodies, limit=SLOW_SECONDS),
    "slow-heads": partial(faults_client.slow_heads, limit=SLOW_SECONDS),
    "upgrades": faults_client.upgrades,
    "resets": faults_client.resets,
}
"""Cases that one process survives; they run in this order."""

SEPARATE: Final[dict[str, Case]] = {
    "disk-full": faults_disk.full,
    "temporary-space": faults_disk.over_budget,
    "half-sent-heads": faults_client.half_sent_heads,
    "reloads": faults_reload.repeated,
    "device-lost": faults_forward.device_lost,
    "sigterm": partial(faults_shutdown.sigterm, rate=EXIT_RATE),
    "sigterm-unheeded": partial(faults_shutdown.sigterm_ignored, rate=EXIT_RATE),
}
"""Cases that need a process of their own."""


def run_cases(weights: Path, scale: Scale, chosen: frozenset[str]) -> Iterator[Result]:
    """Run the chosen cases."""
    shared = {name: case for name, case in SHARED.items() if name in chosen}
    if shared:
        with _with_faults(weights) as service:
            for name, case in shared.items():
                yield run(run_case(name, case, service, scale))
    for name, case in SEPARATE.items():
        if name in chosen:
            with STARTS.get(name, serving)(weights) as service:
                yield run(run_case(name, case, service, scale))


async def run_case(name: str, case: Case, service: Service, scale: Scale) -> Result:
    """Run one case; an error that prevents it is a failure of this case and leaves the others to run."""
    try:
        return await case(service, scale)
    except (RuntimeError, OSError, psutil.Error) as error:
        return Result(name, failures=[f"{type(error).__name__}: {error}"])


def _with_faults(weights: Path, workers: int = 2) -> AbstractContextManager[Service]:
    return serving(
        weights,
        program=WITH_FAULTS,
        EMMR_BODY_TIMEOUT=str(SLOW_SECONDS),
        EMMR_HEAD_TIMEOUT=str(SLOW_SECONDS),
        EMMR_COMPUTE_WORKERS=str(workers),
    )


STARTS: Final[dict[str, Callable[[Path], AbstractContextManager[Service]]]] = {
    "disk-full": faults_disk.with_full_disk,
    "temporary-space": faults_disk.with_small_budget,
    "half-sent-heads": faults_client.with_few_descriptors,
    "reloads": faults_reload.with_reloads,
    "device-lost": partial(_with_faults, workers=1),  # a process that has lost its device would be replaced
}
"""How these processes are started, where not by `serving`."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Inject faults under background traffic and report who is affected.")
    names = [*SHARED, *SEPARATE]
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(names)}; all when none is named")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--rate", type=float, default=FULL.rate, help="requests a second of background traffic")
    parser.add_argument("--clients", type=int, default=FULL.clients, help="misbehaving connections at once")
    add_options(parser)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    scale = replace(FULL, rate=options.rate, clients=options.clients)
    return report("chaos", run_cases(options.weights, scale, frozenset(options.cases or names)), options)


if __name__ == "__main__":
    sys.exit(main())
