"""`emmr train --engine ray`: the trainer in several processes, on all machines of a Ray cluster."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from app.ray.server import cluster
from model.pipeline import choose_device
from model.training.commands import train as train_one
from model.training.distributed import backend_for


def train(processes: int, **arguments: Any) -> int:
    """Train as `model.training.commands.train` in several processes, which divide each batch.

    Ray starts them and joins them in a process group; a machine gets as many as it has processors or CUDA devices. The
    folders are on a file system that all machines share.

    Args:
        processes: that train together.
        arguments: of `model.training.commands.train`.

    Raises:
        RuntimeError: a process has failed; the cause is in its message.
    """
    device = choose_device(arguments["device"])
    with cluster(), TemporaryDirectory() as folder:
        TorchTrainer(
            _train,
            train_loop_config={name: _absolute(value) for name, value in arguments.items()},
            torch_config=TorchConfig(backend=backend_for(device)),
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=device.type == "cuda"),
            run_config=RunConfig(name="emmr", storage_path=folder),
        ).fit()
    return 0


def _train(arguments: Mapping[str, Any]) -> None:
    train_one(**arguments)


def _absolute(value: Any) -> Any:
    """Return a path as an absolute one: the processes work in folders of their own."""
    return value.absolute() if isinstance(value, Path) else value
