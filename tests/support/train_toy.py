"""Trains the toy corpus as `emmr train` trains a real one: `python -m tests.support.train_toy FOLDER`, or by torchrun.

Without dropout, as every process draws masks for its own rows; everything else is on.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from model.training.distributed import DistributedContext
from model.training.trainer import Trainer
from tests.support.network import tiny_config
from tests.support.training import tiny_training, toy


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    corpus, features = toy(train=46)  # not a multiple of the batch, and its rest not one of the processes
    config = tiny_config()
    config = config.model_copy(update={"network": config.network.model_copy(update={"dropout": 0.0})})
    with DistributedContext.join(device) as world:
        trainer = Trainer(
            corpus,
            features,
            config,
            tiny_training(epochs=5, batch_size=15, learning_rate=3e-3, class_balance=0.0),
            seed=0,
            device=device,
            folder=folder / "run",
            console=Console(quiet=True),
            world=world,
        )
        network, report = trainer.fit()
    if world.leads:
        save_file(network.state_dict(), folder / "network.safetensors")
        (folder / "report.json").write_text(json.dumps({**asdict(report), "processes": world.size}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
