"""Weights folders derived from another one: changed, damaged or inconsistent."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from model.modality import Modality
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


def of_whisper(folder: Path) -> str:
    """Write weights with random values whose config has the voice encoder; returns their version."""
    import numpy as np

    from model.checkpoint import save_checkpoint
    from model.features.normalization import Preprocessing, Statistics
    from tests.support.network import random_network, tiny_config

    network = {**tiny_config().network.model_dump(), "imputed_slots": {"text": 4, "audio": 1, "visual": 1}}
    slots = {"text": 12, "audio": 1, "visual": 1}
    config = tiny_config(name="whisper", audio={"encoder": "whisper"}, slots=slots, network=network)
    sizes = {modality: config.feature_size(modality) for modality in (Modality.AUDIO, Modality.VISUAL)}
    statistics = {
        modality: Statistics(np.zeros(size, dtype=np.float32), np.ones(size, dtype=np.float32))
        for modality, size in sizes.items()
    }
    return save_checkpoint(folder, random_network(config), Preprocessing(statistics))


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
