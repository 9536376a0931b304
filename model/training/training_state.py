"""State of an interrupted training run: tensors as safetensors, the rest as JSON; nothing is pickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from model.errors import CheckpointError

_Tensors = tuple[Tensor, ...] | list[Tensor]
TENSORS, FACTS = "state.safetensors", "state.json"


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write both files; `facts` is renamed last and names the tensors' file, so that the pair is always consistent."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{facts['epoch']:04d}-{TENSORS}"
    temporary = folder / f"{name}.partial"
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    temporary.replace(folder / name)
    temporary = folder / f"{FACTS}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({**facts, "tensors": name}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FACTS)
    for old in folder.glob(f"*-{TENSORS}"):
        if old.name != name:
            old.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the tensors and facts that `save_state` wrote; None where there are none.

    Raises:
        CheckpointError: the files exist but cannot be read.
    """
    if not (folder / FACTS).is_file():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return load_file(folder / facts["tensors"]), facts
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the state of the interrupted run cannot be read: {error}") from error


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state as `optimiser.<parameter index>.<name>`."""
    return {
        f"optimiser.{index}.{name}": value
        for index, entry in optimiser.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimiser_tensors` into an optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in with_prefix(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class MovingAverage(AveragedModel):
    """A copy of a network (`module`) whose parameters are an exponential moving average of the network's.

    The decay of update n is at most (1 + n) / (10 + n), so that the random start has little weight.
    """

    def __init__(self, network: nn.Module, decay: float, updates: int = 0) -> None:
        super().__init__(network, multi_avg_fn=self._average)
        self.decay = decay
        self.n_averaged.fill_(updates + 1)  # at 0, AveragedModel would copy the parameters instead of averaging them

    def _average(self, averages: _Tensors, parameters: _Tensors, _: Tensor | int) -> None:
        number = self.updates + 1
        decay = min(self.decay, (1 + number) / (10 + number))
        for average, parameter in zip(averages, parameters, strict=True):
            average.lerp_(parameter, 1.0 - decay)

    @property
    def updates(self) -> int:
        """How often the average was updated."""
        return int(self.n_averaged) - 1
