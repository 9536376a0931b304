"""Saving, verifying and loading weights folders."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import (
    CARD,
    CONFIG,
    HASHED,
    HASHES,
    PREPROCESSING,
    WEIGHTS,
    load_checkpoint,
    read_adapters,
    save_checkpoint,
)
from model.config import ModelConfig, TextConfig
from model.errors import CheckpointError, ConfigError
from model.features.normalization import Preprocessing, Statistics
from model.features.text.encoder import ADAPTER_SCALE, TextEncoder
from model.modality import COMPLETE, Modality
from model.network.emmr import EMMR
from model.network.reliability import Reliability
from tests.support.checkpoints import of_whisper
from tests.support.network import random_network, random_utterances, tiny_config

CPU = torch.device("cpu")
MODULE = "encoder.layer.1.attention.self.value"


def preprocessing_of(config: ModelConfig, scale: float = 2.0) -> Preprocessing:
    def statistics(modality: Modality) -> Statistics:
        size = config.feature_size(modality)
        return Statistics(np.zeros(size, dtype=np.float32), np.full(size, scale, dtype=np.float32))

    return Preprocessing({m: statistics(m) for m in (Modality.AUDIO, Modality.VISUAL)})


def adapters_of(rank: int = 2, size: int = 384) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{MODULE}.A": torch.randn(rank, size, generator=generator) * 0.1,
        f"{MODULE}.B": torch.randn(size, rank, generator=generator) * 0.1,
    }


def save(folder: Path, network: EMMR, adapters: dict[str, Tensor] | None = None, scale: float = 2.0) -> str:
    return save_checkpoint(folder, network, preprocessing_of(network.config, scale), adapters, "# A card\n")


def rehash(folder: Path) -> None:
    """Recompute the hashes, as after a deliberate change."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in HASHED}
    (folder / HASHES).write_text(json.dumps(hashes), encoding="utf-8")


@pytest.fixture
def folder(tiny_weights: Path, tmp_path: Path) -> Path:
    """A copy of a weights folder."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def test_saved_checkpoint_is_loaded_unchanged(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    version = save(tmp_path / "new" / "weights", network)
    loaded = load_checkpoint(tmp_path / "new" / "weights", CPU)
    assert loaded.version == version
    assert loaded.config == network.config
    assert loaded.card == "# A card\n"
    assert loaded.folder == tmp_path / "new" / "weights"
    assert loaded.network.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    for modality, statistics in preprocessing_of(network.config).statistics.items():
        np.testing.assert_array_equal(loaded.preprocessing.statistics[modality].mean, statistics.mean)
        np.testing.assert_array_equal(loaded.preprocessing.statistics[modality].std, statistics.std)


def test_loaded_network_is_frozen_and_in_eval_mode(tiny_weights: Path) -> None:
    network = load_checkpoint(tiny_weights, CPU).network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def changed_reliability(config: ModelConfig) -> Reliability:
    """A reliability that differs from the unfitted one in every number."""
    reliability = Reliability(config)
    torch.manual_seed(3)
    for name, value in reliability.state_dict().items():
        value.copy_(torch.ones(()) if name.endswith("fitted") else torch.rand(value.shape))
    return reliability


def test_reliability_is_optional_and_loaded_unchanged(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    reliability = changed_reliability(network.config)
    preprocessing = preprocessing_of(network.config)
    version = save_checkpoint(tmp_path / "with", network, preprocessing, reliability=reliability)
    assert version != save(tmp_path / "without", network)
    loaded = load_checkpoint(tmp_path / "with", CPU).reliability
    for name, value in reliability.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    unfitted = load_checkpoint(tmp_path / "without", CPU).reliability
    assert torch.equal(unfitted.temperatures, torch.ones(8))
    assert not bool(unfitted.verdict.fitted)
    assert unfitted.speech_probability(np.zeros((1, 33), dtype=np.float32)) is None
    assert unfitted.familiarities(random_utterances(network.config, [COMPLETE])) == [dict.fromkeys(Modality, 1.0)]


def test_incomplete_reliability_is_rejected(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    save_checkpoint(tmp_path, network, preprocessing_of(network.config), reliability=Reliability(network.config))
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["reliability.threshold"]
    save_file(tensors, tmp_path / WEIGHTS)
    rehash(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit[^$]*threshold"):
        load_checkpoint(tmp_path, CPU)


def test_altered_voice_encoder_is_rejected_where_used(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_whisper(tmp_path)
    assert load_checkpoint(tmp_path, CPU).config.audio.size == 384
    monkeypatch.setattr("model.features.audio.whisper.PACKAGED_SHA256", "0" * 64)
    load_checkpoint(tiny_weights, CPU)
    later = load_checkpoint(tmp_path, CPU, voices=False)
    for verify in (later.verify_voice_encoder, lambda: load_checkpoint(tmp_path, CPU)):
        with pytest.raises(CheckpointError, match=r"voice encoder's model\.bin is missing or not the published one"):
            verify()


def test_version_depends_on_the_content_only(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    version = save(tmp_path / "a", network)
    assert save(tmp_path / "b", network) == version
    assert save_checkpoint(tmp_path / "c", network, preprocessing_of(network.config), card="another") == version
    others = [
        save(tmp_path / "d", network, scale=2.5),
        save(tmp_path / "e", network, adapters_of()),
        save(tmp_path / "f", random_network(tiny_config(name="renamed"))),
        save(tmp_path / "g", random_network(tiny_config(), seed=1)),
    ]
    assert len({version, *others}) == 5


def test_adapters_are_read_as_they_were_saved(tmp_path: Path) -> None:
    adapters = adapters_of()
    network = random_network(tiny_config(text=TextConfig(adapter_rank=2)))
    save(tmp_path, network, adapters)
    found = read_adapters(tmp_path)
    save(tmp_path, network, adapters_of(rank=3))  # replacing the file does not change what was read
    assert found.keys() == adapters.keys()
    assert all(torch.equal(found[name], value) for name, value in adapters.items())
    with pytest.raises(CheckpointError) as caught:
        read_adapters(tmp_path / "absent")
    assert "absent" in str(caught.value)


def test_adapters_are_merged_into_the_text_encoder(tmp_path: Path) -> None:
    config = tiny_config(text=TextConfig(adapter_rank=2))
    adapters = adapters_of()
    save(tmp_path, random_network(config), adapters)
    merged = load_checkpoint(tmp_path, CPU).text_encoder.model.get_submodule(MODULE).weight
    plain = TextEncoder(config.text, CPU).model.get_submodule(MODULE).weight
    assert isinstance(merged, Tensor)
    assert isinstance(plain, Tensor)
    assert not torch.equal(merged, plain)
    torch.testing.assert_close(merged, plain + ADAPTER_SCALE * adapters[f"{MODULE}.B"] @ adapters[f"{MODULE}.A"])


@pytest.mark.parametrize("rename", [{}, {MODULE: "encoder.layer.99.query"}], ids=["size", "module"])
def test_adapters_of_another_encoder_are_rejected(tmp_path: Path, rename: dict[str, str]) -> None:
    adapters = adapters_of(size=384 if rename else 100)
    renamed = {name.replace(MODULE, rename.get(MODULE, MODULE)): value for name, value in adapters.items()}
    save(tmp_path, random_network(tiny_config()), renamed)
    with pytest.raises(CheckpointError, match="does not fit the text encoder"):
        load_checkpoint(tmp_path, CPU)


@pytest.mark.parametrize("name", HASHED)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("name", HASHED)
def test_file_with_one_changed_byte_is_rejected(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not the file that was hashed"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config.json": "0"}'])
def test_folder_without_valid_hashes_is_rejected(folder: Path, content: str) -> None:
    (folder / HASHES).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=HASHES):
        load_checkpoint(folder, CPU)


def test_folder_that_does_not_exist_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a weights folder"):
        load_checkpoint(tmp_path / "missing", CPU)


def test_model_card_is_optional(folder: Path) -> None:
    (folder / CARD).unlink()
    assert load_checkpoint(folder, CPU).card == ""


def alter_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    change(content)
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")
    rehash(folder)


def test_weights_that_do_not_fit_the_config_are_rejected(folder: Path) -> None:
    alter_config(folder, lambda content: content["network"].update(feedforward=65))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} does not fit {CONFIG}"):
        load_checkpoint(folder, CPU)


def test_weights_without_a_tensor_are_rejected(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(next(name for name in tensors if name.startswith("network.")))
    save_file(tensors, folder / WEIGHTS)
    rehash(folder)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(folder, CPU)


def test_invalid_config_is_rejected(folder: Path) -> None:
    alter_config(folder, lambda content: content.update(classes=["one"]))
    with pytest.raises(CheckpointError, match="2, 3, 4 or 7"):
        load_checkpoint(folder, CPU)


def test_weights_that_are_no_safetensors_file_are_rejected(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x80\x04 a pickle")
    rehash(folder)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("field", ["mean", "std"])
def test_statistics_of_another_size_are_rejected(folder: Path, field: str) -> None:
    path = folder / PREPROCESSING
    statistics = Preprocessing.read(path).statistics
    short = replace(statistics[Modality.AUDIO], **{field: np.ones(5, dtype=np.float32)})
    Preprocessing({**statistics, Modality.AUDIO: short}).write(path)
    rehash(folder)
    with pytest.raises(CheckpointError, match="does not fit the config's audio features"):
        load_checkpoint(folder, CPU)


def test_statistics_without_a_modality_are_rejected(folder: Path) -> None:
    path = folder / PREPROCESSING
    Preprocessing({Modality.AUDIO: Preprocessing.read(path).statistics[Modality.AUDIO]}).write(path)
    rehash(folder)
    with pytest.raises(CheckpointError, match="does not fit the config's visual features"):
        load_checkpoint(folder, CPU)


def test_missing_text_encoder_is_a_config_error(folder: Path) -> None:
    alter_config(folder, lambda content: content["text"].update(encoder=str(folder)))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_checkpoint(folder, CPU)


def test_text_encoder_of_another_size_is_a_config_error(tmp_path: Path) -> None:
    save(tmp_path, random_network(tiny_config(text=TextConfig(size=100))))
    with pytest.raises(ConfigError, match="hidden size 384, the config says 100"):
        load_checkpoint(tmp_path, CPU)
