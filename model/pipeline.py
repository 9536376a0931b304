"""A loaded checkpoint on one device: features in, decisions out."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import torch

from model.baselines.systems import decide
from model.checkpoint import Checkpoint, load_checkpoint
from model.config import ModelConfig
from model.features.extractor import FeatureExtractor
from model.modality import Modality, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference.cuda_graphs import GraphedNetwork, record
from model.network.inference.fused import FusedNetwork
from model.network.reliability import decide_with_reliability


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA if there is a device, else the CPU; anything else is passed to `torch.device`."""
    if isinstance(name, torch.device):
        return name
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)


class Pipeline:
    """Feature extractor and network of one checkpoint on one device."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.device = device
        network = checkpoint.network
        self._network = FusedNetwork(network) if isinstance(network, EMMR) else network
        self._graphs: GraphedNetwork | None = None
        self.extractor = FeatureExtractor(
            checkpoint.config, checkpoint.preprocessing, checkpoint.text_encoder, reliability=checkpoint.reliability
        )

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "auto", *, voices: bool = True) -> Self:
        """Load a weights folder; arguments as for `choose_device` and `load_checkpoint`.

        Raises:
            CheckpointError: it is missing, altered or does not fit.
            ConfigError: one of its encoders cannot be loaded.
        """
        chosen = choose_device(device)
        return cls(load_checkpoint(folder, chosen, voices=voices), chosen)

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's config."""
        return self.checkpoint.config

    def record(self) -> None:
        """Record CUDA graphs, which `decide` then replays; nothing on other devices and of baselines.

        It takes a few seconds.
        """
        if self.device.type == "cuda" and isinstance(self._network, FusedNetwork):
            self._graphs = record(self._network, self.device)

    def decide(
        self,
        utterances: Sequence[Utterance],
        explain: bool = False,
        both_paths: bool = False,
        doubtful: Sequence[Collection[Modality]] | None = None,
        thresholds: Sequence[float | None] | None = None,
    ) -> list[Decision]:
        """Decide on a batch of utterances of any mixture of subsets; on a CPU from any thread, else from one at a time.

        Args:
            utterances: as for `model.network.reliability.decide_with_reliability`.
            explain: as for `model.baselines.systems.decide`.
            both_paths: as for `model.baselines.systems.decide`.
            doubtful: as for `model.network.reliability.run_network`.
            thresholds: as for `model.network.reliability.finalize`.
        """
        decide = partial(self._decide, explain=explain, both_paths=both_paths)
        return decide_with_reliability(decide, self.checkpoint.reliability, utterances, doubtful or (), thresholds)

    def _decide(self, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool) -> list[Decision]:
        """The network's own decisions."""
        if self._graphs is not None:
            return self._graphs.decide(utterances, explain=explain, both_paths=both_paths)
        batch = collate(utterances, self.config).to(self.device)
        return decide(self._network, batch, explain=explain, both_paths=both_paths)
