"""EMMR on an accelerator: training step, batches and single utterances, each time beside its floor.

A floor is the time of the counted operations and bytes at the rates the device reaches on a large product and copy.
"""

# Weights and features are random; utterances have the maximum length and, unless complete, all seven subsets in turn.

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
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.cuda_graphs import record
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from model.training.settings import TrainingSettings

GOALS: Final = {"utterances_per_s": 30_000.0, "latency_p50_ms": 1.5}


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates that a device reaches.

    Args:
        flops: operations per second of one large product, by type.
        bytes: per second, read and written by one large copy.
    """

    flops: dict[torch.dtype, float]
    bytes: float

    def floor(self, work: "Work", dtype: torch.dtype) -> float:
        """Minimum seconds for some work."""
        return max(work.operations / self.flops[dtype], work.bytes / self.bytes)


@dataclass(frozen=True, slots=True)
class Work:
    """The minimum work of a computation.

    Args:
        operations: of its matrix products.
        bytes: of its inputs: weights, features, optimiser state. Intermediate results may stay in a cache.
    """

    operations: int
    bytes: int


class _InputBytes(TorchDispatchMode):
    """Counts memory that is read and was not created by the computation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._made: dict[int, Tensor] = {}  # kept alive, so that no address is reused
        self._read: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage().data_ptr()) not in self._made:
                self._read[address] = tensor.untyped_storage().nbytes()
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage().data_ptr()) not in self._read:
                self._made[address] = tensor
        return made

    @property
    def bytes(self) -> int:
        return sum(self._read.values())


def count(function: Callable[[], object]) -> Work:
    """Count the minimum work of a computation."""
    with FlopCounterMode(display=False) as operations:
        function()
    with _InputBytes() as read:
        function()
    return Work(operations.get_total_flops(), read.bytes)


def rates_of(device: torch.device, size: int) -> Rates:
    """Measure products of two `size` × `size` matrices, and copies of 8 such matrices."""
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device).to(dtype)
        flops[dtype] = 2 * size**3 / seconds_of(partial(torch.mm, a, a), device, rounds=10)
    source = torch.randn(8, size, size, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device, rounds=10)
    return Rates(flops, 2 * source.nbytes / copied)


def seconds_of(function: Callable[[], object], device: torch.device, rounds: int, warmups: int = 3) -> float:
    """Median seconds of a call, with synchronisation of the device."""
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
    """Measure a training step as in the trainer: bfloat16 on CUDA."""
    training = Training(config, TrainingSettings(batch_size=size), size, device)
    step = training.run(training.batches(1), training.step)
    step()  # the first step creates the optimiser's state
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    _note(report, f"training_step_{size}", seconds_of(step, device, rounds), rates.floor(count(step), dtype))


def answers(report: Report, config: ModelConfig, rates: Rates, size: int, device: torch.device, rounds: int) -> None:
    """Measure batches of `size` and single utterances from feature arrays to decisions, step by step and replayed."""
    torch.manual_seed(0)
    network = FusedNetwork(EMMR(config).to(device).eval())
    rng = np.random.default_rng(0)
    graphed = record(network, device) if device.type == "cuda" else None
    sizes = {kind.name.lower(): graphs for kind, graphs in graphed.graphs.items()} if graphed else {}
    for kind, graphs in sizes.items():
        report.facts[f"replayed_sizes_{kind}"] = " ".join(map(str, graphs)) or "none"

    def sparse(utterances: Sequence[Utterance]) -> object:
        return decide(network, collate(utterances, config).to(device))

    ways: dict[str, Callable[[Sequence[Utterance]], object]] = {"step_by_step": sparse}
    if graphed:
        ways["replayed"] = graphed.decide
    for case, presences in (("complete", [COMPLETE] * size), ("mixed", list(islice(cycle(SUBSETS), size)))):
        items = utterances(config, presences, rng)
        floor = rates.floor(count(partial(sparse, items)), torch.float32)
        for way, function in ways.items():
            seconds = seconds_of(partial(function, items), device, rounds)
            _note(report, f"{case}_{size}_{way}", seconds, floor)
            report.medians[f"{case}_{size}_{way}_utterances_per_s"] = size / seconds
    singles = [[utterance] for utterance in utterances(config, SUBSETS, rng)]
    floor = median(rates.floor(count(partial(sparse, items)), torch.float32) for items in singles)
    for way, function in ways.items():
        seconds = median(seconds_of(partial(function, items), device, rounds * 10) for items in singles)
        _note(report, f"one_{way}", seconds, floor)
    best = "replayed" if graphed else "step_by_step"
    report.facts["latency_goal_met"] = report.medians[f"one_{best}_ms"] <= GOALS["latency_p50_ms"]
    rate = report.medians[f"complete_{size}_{best}_utterances_per_s"]
    report.facts["utterances_per_s_goal_met"] = rate >= GOALS["utterances_per_s"]


def _note(report: Report, name: str, seconds: float, floor: float) -> None:
    report.medians[f"{name}_ms"] = 1e3 * seconds
    report.medians[f"{name}_floor_ms"] = 1e3 * floor
    report.ratios[f"{name}_of_its_floor"] = floor / seconds


def measure(
    report: Report, config: ModelConfig, device: torch.device, *, batch: int, large: int, product: int, rounds: int
) -> None:
    """Run all measurements.

    Args:
        report: receives the results.
        config: of the network.
        device: to run on.
        batch: utterances of a training step.
        large: utterances of a large batch.
        product: rows of the matrices with which the device's rates are measured.
        rounds: of which medians are taken.
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
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, …, cpu")
    parser.add_argument("--quick", action="store_true", help="smaller batches, one round")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; use --device cpu to try it")
    report = Report("accelerator", machine_line())
    batch, large, rounds = (2, 4, 1) if options.quick else (32, 256, options.rounds)
    product = 8192 if device.type == "cuda" else 1024
    measure(report, ModelConfig.paper(), device, batch=batch, large=large, product=product, rounds=rounds)
    finish(report, options.json)


if __name__ == "__main__":
    main()
