"""A loaded checkpoint ready to use: features in, decisions out.

For: the one object serving, the command line and evaluation hold.
Does not know: uploads, HTTP, training.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import torch

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import ModelConfig
from model.features.extractor import FeatureExtractor
from model.modality import Modality, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.network.inference.cuda_graphs import CudaGraphs, record
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide
from model.network.reliability import decide_reliably


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA where there is a device, else the CPU; anything else is taken as torch takes it."""
    if isinstance(name, torch.device):
        return name
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)


class Pipeline:
    """Extractor and network of one checkpoint on one device."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self._prepared = FusedNetwork(checkpoint.network)
        self._replay = CudaGraphs([])
        self.extractor = FeatureExtractor(
            checkpoint.config, checkpoint.preprocessing, checkpoint.text_encoder, reliability=checkpoint.reliability
        )

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "auto") -> Self:
        """Load a weights folder.

        Raises:
            CheckpointError: it is missing, altered or does not fit.
            ConfigError: its text encoder cannot be loaded.
        """
        chosen = choose_device(device)
        return cls(load_checkpoint(folder, chosen), chosen)

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's config."""
        return self.checkpoint.config

    def record(self) -> tuple[int, ...]:
        """On a CUDA device, record passes over small batches, which `decide` then replays; elsewhere do nothing.

        It takes a second or so: worth it where many small batches are to come.

        Returns:
            Numbers of utterances there are recordings for.
        """
        if self.device.type == "cuda":
            self._replay = record(self._prepared, self.device)
        return self._replay.sizes

    def decide(
        self,
        utterances: Sequence[Utterance],
        explain: bool = False,
        both_paths: bool = False,
        doubtful: Sequence[Collection[Modality]] | None = None,
        thresholds: Sequence[float | None] | None = None,
    ) -> list[Decision]:
        """Decide on utterances of any mixture of subsets, side by side; from one thread at a time.

        Arguments are `model.network.reliability.decide_reliably`'s.
        """
        return decide_reliably(
            self._decide,
            self.checkpoint.reliability,
            utterances,
            explain=explain,
            both_paths=both_paths,
            doubtful=doubtful,
            thresholds=thresholds,
        )

    def _decide(self, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool) -> list[Decision]:
        """The network's own decisions."""
        if bucket := self._replay.bucket(len(utterances)):
            return bucket.decide(utterances, explain=explain, both_paths=both_paths)
        batch = collate(utterances, self.config).to(self.device)
        return decide(self._prepared, batch, explain=explain, both_paths=both_paths)
