"""Trains the toy corpus: `python -m tests.support.train_toy FOLDER`, or with torchrun.

Without dropout, because each process draws masks for its own rows.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.training.distributed import DistributedContext
from tests.support.network import tiny_config
from tests.support.training import make_trainer, toy


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    corpus, features = toy(train=46)  # not divisible by the batch size, nor the remainder by the processes
    config = tiny_config()
    config = config.model_copy(update={"network": config.network.model_copy(update={"dropout": 0.0})})
    settings: dict[str, Any] = {"epochs": 5, "batch_size": 15, "learning_rate": 3e-3, "class_balance": 0.0}
    with DistributedContext.join(torch.device("cpu")) as distributed:
        trainer = make_trainer(folder, corpus, features, config=config, distributed=distributed, **settings)
        network, report = trainer.fit()
    if distributed.is_main:
        save_file(network.state_dict(), folder / "network.safetensors")
        content = {**asdict(report), "processes": distributed.size}
        (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
