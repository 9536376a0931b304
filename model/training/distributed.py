"""Synchronous data parallelism for `torchrun`: every process draws the same batches and takes its own rows.

Own code: DistributedDataParallel, also within Accelerate, fails where processes use different heads in one step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from model.training.batches import TrainingBatch

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """Rank of this process and number of processes; a single process by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def join(cls, device: torch.device) -> Iterator[Self]:
        """Join the processes that train together; a block of one process where there are no others.

        They are a process group that exists already, as Ray Train's, or those of `torchrun`, which become one.
        """
        if dist.is_available() and dist.is_initialized():
            yield cls(dist.get_rank(), dist.get_world_size())
            return
        if not dist.is_torchelastic_launched():
            yield cls()
            return
        dist.init_process_group(backend_for(device))
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files, validates and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The CUDA device of this rank if there are several processes, else the given device."""
        if device.type != "cuda" or self.size == 1:
            return device
        return torch.device("cuda", self.rank % torch.cuda.device_count())

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over all processes; one that no process has stays None.

        All gradients are one message: for networks of this size there is little to overlap with the backward pass.
        """
        trained = [p for p in module.parameters() if p.requires_grad]
        if self.size == 1 or not trained:
            return
        counts = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=trained[0].device)
        flat = torch.cat([counts, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained)])
        dist.all_reduce(flat)
        counts, *sums = flat.split([len(trained), *(p.numel() for p in trained)])
        for parameter, total, count in zip(trained, sums, counts.tolist(), strict=True):
            parameter.grad = (total / self.size).view_as(parameter) if count else None

    def broadcast_parameters(self, module: nn.Module) -> None:
        """Copy the parameters of the main process to all processes."""
        if self.size > 1:
            for parameter in module.parameters():
                dist.broadcast(parameter.data, 0)

    def shard(self, item: TrainingBatch) -> tuple[TrainingBatch, float]:
        """This process's rows of a batch, and the factor on their mean loss that makes the mean gradient the batch's.

        That is exact for a mean over all rows. A mean that is weighted by class, or over the rows with a label of their
        modality, becomes the mean of the processes' means. A batch with fewer rows than processes is not divided.
        """
        rows = item.batch.size
        if self.size == 1 or rows < self.size:
            return item, 1.0
        own = torch.arange(self.rank, rows, self.size)
        return item.select(own), len(own) * self.size / rows

    def broadcast(self, value: V) -> V:
        """The value of the main process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """A block that the main process runs first, so that the others find its files."""
        if not self.is_main:
            dist.barrier()
        try:
            yield
        finally:
            if self.is_main and self.size > 1:
                dist.barrier()


def backend_for(device: torch.device) -> str:
    """Name of PyTorch's backend for processes with such a device."""
    return "nccl" if device.type == "cuda" else "gloo"


SINGLE_PROCESS = DistributedContext()
