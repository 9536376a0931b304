"""What an interrupted run needs to go on: tensors in safetensors, the rest in JSON, written aside and renamed.

For: losing at most one epoch. No pickle is written or read.
Does not know: how training goes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from model.errors import CheckpointError

TENSORS, FACTS = "state.safetensors", "state.json"


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write both files; `facts` last and naming the tensors' file, so that a torn pair is never read."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{facts['epoch']:04d}-{TENSORS}"
    aside = folder / f"{name}.partial"
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside)
    aside.replace(folder / name)
    aside = folder / f"{FACTS}.partial"
    with aside.open("w", encoding="utf-8") as file:
        json.dump({**facts, "tensors": name}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / FACTS)
    for old in folder.glob(f"*-{TENSORS}"):
        if old.name != name:
            old.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_state` wrote; None where nothing was.

    Raises:
        CheckpointError: the files are there and cannot be read.
    """
    if not (folder / FACTS).is_file():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return load_file(folder / facts["tensors"]), facts
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the state of the interrupted run cannot be read: {error}") from error


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """An optimiser's per-parameter tensors by flat name."""
    return {
        f"optimiser.{index}.{name}": value
        for index, entry in optimiser.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimiser_tensors` on an optimiser built over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in under(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    content = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": content["param_groups"]})


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class MovingAverage:
    """An exponential moving average of a network's parameters: what is validated and kept."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: p.detach().clone() for name, p in network.named_parameters()}

    def update(self, network: nn.Module) -> None:
        """Take in the current parameters; early on the average forgets its random start faster."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                self.values[name].lerp_(parameter, 1.0 - decay)

    def swap(self, network: nn.Module) -> None:
        """Exchange the network's parameters with the average; calling it again undoes it."""
        for name, parameter in network.named_parameters():
            average = self.values[name]
            held = parameter.detach().clone()
            parameter.data.copy_(average)
            average.copy_(held)

    def load(self, values: Mapping[str, Tensor], steps: int) -> None:
        """Restore what a state file holds."""
        self.steps = steps
        for name, value in values.items():
            self.values[name].copy_(value)
