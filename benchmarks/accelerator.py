"""EMMR at the published size on an accelerator, each figure beside its floor.

For: `python -m benchmarks.accelerator --device cuda --json FILE`: a training step of 32 utterances, utterances a second
in batches of 256, and the median latency of one utterance, computed step by step and replayed. A floor is what counted
operations and bytes would take at the rates that this device reaches on one large product and one large copy.
Does not know: features, the service. `python -m benchmarks` leaves it out: without an accelerator it says nothing new.

Weights and features are random; utterances are as long as may be, of all seven subsets unless they are said complete.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.network import utterances
from benchmarks.training import Training
from model.config import ModelConfig
from model.modality import COMPLETE, SUBSETS, Utterance
from model.network.batch import Batch, collate
from model.network.emmr import EMMR
from model.network.inference.cuda_graphs import record
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from model.training.settings import TrainingSettings

GOALS: Final = {"utterances_per_s": 30_000.0, "latency_p50_ms": 1.5}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device reaches.

    Args:
        flops: operations a second of one large product, by type.
        bytes: a second, read and written by one large copy.
    """

    flops: dict[torch.dtype, float]
    bytes: float

    def floor(self, work: "Work", dtype: torch.dtype) -> float:
        """Seconds that work takes at least."""
        return max(work.operations / self.flops[dtype], work.bytes / self.bytes)


@dataclass(frozen=True, slots=True)
class Work:
    """What a computation cannot do without.

    Args:
        operations: of its products.
        bytes: of what it reads and did not make: weights, features, the optimiser's state. What lies between may stay
            in a cache.
    """

    operations: int
    bytes: int


class _Read(TorchDispatchMode):
    """Memory that is read and was not made meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._made: dict[int, Tensor] = {}  # kept, so that no address is given out twice
        self._read: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (place := tensor.untyped_storage().data_ptr()) not in self._made:
                self._read[place] = tensor.untyped_storage().nbytes()
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (place := tensor.untyped_storage().data_ptr()) not in self._read:
                self._made[place] = tensor
        return made

    @property
    def bytes(self) -> int:
        return sum(self._read.values())


def count(function: Callable[[], object]) -> Work:
    """Count what a computation cannot do without."""
    with FlopCounterMode(display=False) as operations:
        function()
    with _Read() as read:
        function()
    return Work(operations.get_total_flops(), read.bytes)


def rates_of(device: torch.device, size: int) -> Rates:
    """What a device reaches on products of `size` cubed and on copies of as many numbers as 8 such matrices hold."""
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device).to(dtype)
        flops[dtype] = 2 * size**3 / seconds_of(partial(torch.mm, a, a), device, rounds=10)
    source = torch.randn(8, size, size, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device, rounds=10)
    return Rates(flops, 2 * source.nbytes / copied)


def seconds_of(function: Callable[[], object], device: torch.device, rounds: int, warmups: int = 3) -> float:
    """Median seconds until the device is done."""
    seconds = []
    for number in range(-warmups, rounds):
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 0:
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def training_step(
    report: Report, config: ModelConfig, rates: Rates, size: int, device: torch.device, rounds: int
) -> None:
    """A step as the trainer takes it: bfloat16 where the device is CUDA."""
    training = Training(config, TrainingSettings(batch_size=size), size, device)
    step = training.run(training.batches(1), training.step)
    step()  # the optimiser's state is made in the first
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    _note(report, f"training_step_{size}", seconds_of(step, device, rounds), rates.floor(count(step), dtype))


def answers(report: Report, config: ModelConfig, rates: Rates, size: int, device: torch.device, rounds: int) -> None:
    """Batches of `size`, complete and mixed, and one utterance of each subset, step by step and replayed."""
    torch.manual_seed(0)
    prepared = FusedNetwork(EMMR(config).to(device).eval())
    rng = np.random.default_rng(0)
    for case, presences in (("complete", [COMPLETE] * size), ("mixed", list(islice(cycle(SUBSETS), size)))):
        batch = collate(utterances(config, presences, rng), config).to(device)

        def large(batch: Batch = batch) -> object:
            return decide(prepared, batch)

        seconds = seconds_of(large, device, rounds)
        _note(report, f"{case}_{size}", seconds, rates.floor(count(large), torch.float32))
        report.medians[f"{case}_{size}_utterances_per_s"] = size / seconds

    replay = record(prepared, device) if device.type == "cuda" else None
    bucket = replay.bucket(1) if replay else None
    report.facts["replayed_sizes"] = " ".join(map(str, replay.sizes)) if replay else "none"
    stepwise, replayed, floors = [], [], []
    for utterance in utterances(config, SUBSETS, rng):

        def small(utterance: Utterance = utterance) -> object:
            return decide(prepared, collate([utterance], config).to(device))

        stepwise.append(seconds_of(small, device, rounds * 10))
        floors.append(rates.floor(count(small), torch.float32))
        if bucket:
            replay_one = partial(bucket.decide, [utterance], explain=False, both_paths=False)
            replayed.append(seconds_of(replay_one, device, rounds * 10))
    _note(report, "one_step_by_step", median(stepwise), median(floors))
    if replayed:
        _note(report, "one_replayed", median(replayed), median(floors))
    report.facts["latency_goal_met"] = 1e3 * median(replayed or stepwise) <= GOALS["latency_p50_ms"]
    rate = report.medians[f"complete_{size}_utterances_per_s"]
    report.facts["utterances_per_s_goal_met"] = rate >= GOALS["utterances_per_s"]


def _note(report: Report, name: str, seconds: float, floor: float) -> None:
    report.medians[f"{name}_ms"] = 1e3 * seconds
    report.medians[f"{name}_floor_ms"] = 1e3 * floor
    report.ratios[f"{name}_of_its_floor"] = floor / seconds


def measure(
    report: Report, config: ModelConfig, device: torch.device, *, batch: int, large: int, product: int, rounds: int
) -> None:
    """All of it.

    Args:
        report: to write to.
        config: of the network.
        device: to run on.
        batch: utterances of a training step.
        large: utterances of a large batch.
        product: rows of the matrices that the device's rates are taken on.
        rounds: to take medians of.
    """
    rates = rates_of(device, product)
    for dtype, flops in rates.flops.items():
        report.medians[f"{str(dtype).removeprefix('torch.')}_tflops"] = 1e-12 * flops
    report.medians["copy_gb_per_s"] = 1e-9 * rates.bytes
    training_step(report, config, rates, batch, device, rounds)
    answers(report, config, rates, large, device, rounds)
    report.facts["rounds"] = rounds
    report.facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, …, cpu")
    parser.add_argument("--quick", action="store_true", help="smaller batches, one round")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu shows that it runs")
    report = Report("accelerator", machine_line())
    batch, large, rounds = (2, 4, 1) if options.quick else (32, 256, options.rounds)
    product = 8192 if device.type == "cuda" else 1024
    measure(report, ModelConfig.paper(), device, batch=batch, large=large, product=product, rounds=rounds)
    finish(report, options.json)


if __name__ == "__main__":
    main()
