"""Weights folders derived from another one: changed, damaged or inconsistent."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from model.network.emmr import EMMR


def like(weights: Path, folder: Path, change: Callable[[EMMR], None] = lambda _: None) -> str:
    """Write a copy of `weights` with a changed network into `folder`; returns its version."""
    import torch

    from model.checkpoint import load_checkpoint, save_checkpoint

    loaded = load_checkpoint(weights, torch.device("cpu"))
    assert isinstance(loaded.network, EMMR)
    change(loaded.network)
    return save_checkpoint(folder, loaded.network, loaded.preprocessing, card=loaded.card)


def scaled(factor: float) -> Callable[[EMMR], None]:
    """Return a change that multiplies every weight; the factor may be NaN."""

    def change(network: EMMR) -> None:
        for parameter in network.parameters():
            parameter.mul_(factor)

    return change


def altered(weights: Path, folder: Path, name: str = "config.json") -> None:
    """Write a copy with one file that does not match its hash."""
    shutil.copytree(weights, folder)
    with (folder / name).open("ab") as file:
        file.write(b"\n")


def mismatched(weights: Path, folder: Path) -> None:
    """Write a copy whose config, with a valid hash, describes a larger network than that of the weights."""
    from model.checkpoint import HASHES

    shutil.copytree(weights, folder)
    config = json.loads((folder / "config.json").read_text())
    config["network"]["feedforward"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    hashes = json.loads((folder / HASHES).read_text())
    hashes["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / HASHES).write_text(json.dumps(hashes))
