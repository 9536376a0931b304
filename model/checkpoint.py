"""Weights folders: `config.json`, `model.safetensors`, `preprocessing.json`, `README.md` (card) and `hashes.json`.

Every hashed file is verified before its content is used, and no pickle is read or written.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.baselines.systems import Network, build_network
from model.config import ModelConfig
from model.errors import CheckpointError
from model.features.audio.whisper import WhisperEncoder
from model.features.normalization import Preprocessing
from model.features.text.encoder import TextEncoder
from model.modality import Modality
from model.network.reliability import Reliability

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
PREPROCESSING: Final = "preprocessing.json"
HASHES: Final = "hashes.json"
CARD: Final = "README.md"
HASHED: Final = (CONFIG, WEIGHTS, PREPROCESSING)
"""Files whose SHA-256 is in `hashes.json`. The version is the start of the SHA-256 of these hashes."""

NETWORK_PREFIX: Final = "network."
RELIABILITY_PREFIX: Final = "reliability."
ADAPTER_PREFIX: Final = "text_adapter."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded weights folder; the network is in eval mode and the text encoder has its adapters merged."""

    config: ModelConfig
    network: Network
    reliability: Reliability
    preprocessing: Preprocessing
    text_encoder: TextEncoder
    version: str
    card: str
    folder: Path

    def verify_voice_encoder(self) -> None:
        """Verify the voice encoder of the config, if it has one.

        Raises:
            ConfigError: its package is not installed.
            CheckpointError: its weights are missing or not the published ones.
        """
        if self.config.audio.encoder != "acoustic":
            WhisperEncoder.verify()


def save_checkpoint(
    folder: Path,
    network: Network,
    preprocessing: Preprocessing,
    adapters: Mapping[str, Tensor] | None = None,
    card: str = "",
    reliability: Reliability | None = None,
) -> str:
    """Write a weights folder and return its version.

    Args:
        folder: created if it does not exist; files of the same names are replaced.
        network: its config is written too.
        preprocessing: statistics of the training split.
        adapters: low-rank adapters of the text encoder, as `TextEncoder.merge` takes them.
        card: the model card, Markdown.
        reliability: fitted for the network; without it answers are not calibrated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = {NETWORK_PREFIX: network.state_dict(), ADAPTER_PREFIX: adapters or {}}
    if reliability is not None:
        groups[RELIABILITY_PREFIX] = reliability.state_dict()
    tensors = {prefix + name: value for prefix, group in groups.items() for name, value in group.items()}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes mode 600; the server may run as another user
    (folder / CONFIG).write_text(network.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    preprocessing.write(folder / PREPROCESSING)
    (folder / CARD).write_text(card, encoding="utf-8")
    hashes = {name: _sha256(folder / name) for name in HASHED}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    return _version(hashes)


def load_checkpoint(folder: Path, device: torch.device, *, voices: bool = True) -> Checkpoint:
    """Verify and load a weights folder.

    Args:
        folder: the weights folder.
        device: of the network and the text encoder.
        voices: whether to verify the voice encoder; if not, `Checkpoint.verify_voice_encoder` is due before a voice.

    Raises:
        CheckpointError: a file is missing, altered, or does not fit the config.
        ConfigError: the text or voice encoder the config names cannot be loaded.
    """
    version = verify_hashes(folder)
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG).read_bytes())
        tensors = load_file(folder / WEIGHTS)
    except (ValidationError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    preprocessing = Preprocessing.read(folder / PREPROCESSING)
    for modality in (Modality.AUDIO, Modality.VISUAL):
        statistics = preprocessing.statistics.get(modality)
        shape = (config.feature_size(modality),)
        if statistics is None or not statistics.mean.shape == statistics.std.shape == shape:
            raise CheckpointError(f"{folder}: {PREPROCESSING} does not fit the config's {modality} features")
    network, reliability = build_network(config), Reliability(config)
    try:
        network.load_state_dict(_under(tensors, NETWORK_PREFIX))
        if fitted := _under(tensors, RELIABILITY_PREFIX):
            reliability.load_state_dict(fitted)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {error}") from error
    text_encoder = TextEncoder(config.text, device)
    text_encoder.merge({k: v.to(device) for k, v in _under(tensors, ADAPTER_PREFIX).items()})
    card = folder / CARD
    checkpoint = Checkpoint(
        config=config,
        network=network.to(device).eval().requires_grad_(False),
        reliability=reliability.eval().requires_grad_(False),  # on the CPU, where features are computed
        preprocessing=preprocessing,
        text_encoder=text_encoder,
        version=version,
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        folder=folder,
    )
    if voices:
        checkpoint.verify_voice_encoder()
    return checkpoint


def read_adapters(folder: Path) -> dict[str, Tensor]:
    """Return the low-rank adapters of a weights folder, as `save_checkpoint` takes them; empty if it has none.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        adapters = _under(load_file(folder / WEIGHTS), ADAPTER_PREFIX)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return {name: value.clone() for name, value in adapters.items()}  # the file, which may be mapped, may be replaced


def verify_hashes(folder: Path) -> str:
    """Compare every hashed file with `hashes.json` and return the version.

    Raises:
        CheckpointError: the folder is not a weights folder, or a file is missing or altered.
    """
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a weights folder: {HASHES} cannot be read ({error})") from error
    if not isinstance(hashes, dict) or sorted(hashes) != sorted(HASHED):
        raise CheckpointError(f"{folder}: {HASHES} must name {', '.join(HASHED)}")
    for name in HASHED:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if _sha256(folder / name) != hashes[name]:
            raise CheckpointError(f"{folder}: {name} is not the file that was hashed")
    return _version(hashes)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _version(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
