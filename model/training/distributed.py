"""Several processes, one training run: who leads, which rows are whose, and how gradients meet.

For: `torchrun --nproc-per-node N --no-python emmr train …`. Every process draws the same batches from the same seed and
takes its own rows of each, so a run over N processes takes the steps that one process would take.
Does not know: networks, corpora, files.
Source: synchronous data parallelism over `torch.distributed`; NCCL between CUDA devices, Gloo between CPU processes.

Shapes: B rows of a batch.
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
    """This process's place among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def join(cls, device: torch.device) -> Iterator[Self]:
        """Meet the other processes where `torchrun` has started this one, and part from them at the end."""
        if not dist.is_torchelastic_launched():
            yield cls()
            return
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files, validates and speaks."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """This process's own: the CUDA device of its rank where there are several processes, else as it is."""
        if device.type != "cuda" or self.size == 1:
            return device
        return torch.device("cuda", self.rank % torch.cuda.device_count())

    def average_gradients(self, module: nn.Module) -> None:
        """Put the mean over all processes in the place of each gradient; what nobody has a gradient of has none.

        One message for all of them: networks of this size leave nothing to overlap with the backward pass, and which
        heads a step trains differs between processes, as it depends on the patterns drawn.
        """
        if self.size == 1:
            return
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            return
        here = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=trained[0].device)
        flat = torch.cat([here, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained)])
        dist.all_reduce(flat)
        holders, *sums = flat.split([len(trained), *(p.numel() for p in trained)])
        for parameter, total, holding in zip(trained, sums, holders.tolist(), strict=True):
            parameter.grad = (total / self.size).view_as(parameter) if holding else None

    def equal_start(self, module: nn.Module) -> None:
        """Give every process the leader's parameters."""
        if self.size > 1:
            for parameter in module.parameters():
                dist.broadcast(parameter.data, 0)

    def share(self, item: TrainingBatch) -> tuple[TrainingBatch, float]:
        """This process's rows of a batch, and the factor on their loss under which mean gradients are the batch's.

        A batch with fewer rows than there are processes is everyone's whole.
        """
        rows = item.batch.size
        if self.size == 1 or rows < self.size:
            return item, 1.0
        own = torch.arange(self.rank, rows, self.size)
        return item.select(own), len(own) * self.size / rows

    def agree(self, value: V) -> V:
        """The leader's value, on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block that the leader goes through first and the others afterwards, so that they find done what it did."""
        if not self.leads:
            dist.barrier()
        try:
            yield
        finally:
            if self.leads and self.size > 1:
                dist.barrier()


ALONE = DistributedContext()
