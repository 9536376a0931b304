"""AE (Baldi 2012) and CRA (Tran et al., CVPR 2017): the utterance's embeddings reconstructed, then classified.

Shapes: B batch, d_m features of a slot of modality m, C classes.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from model.baselines.base import AnswerLoss, NeuralBaseline, Stage, masked_mse, mean_features, total
from model.baselines.layers import BottleneckAutoencoder, ResidualCascade, perceptron
from model.config import ModelConfig
from model.modality import MODALITIES
from model.network.batch import Batch

EMBEDDING: Final = 128  # of each modality
HIDDEN: Final = (128, 128)
DROPOUT: Final = 0.5
JOINT: Final = EMBEDDING * len(MODALITIES)


class AE(NeuralBaseline):
    """Autoencoder over the concatenated embeddings of the modalities, zero where one is missing.

    Each modality's mean over slots is embedded by a perceptron [128, 128] → 128. The autoencoder has widths [256, 128];
    a decoder for each modality maps its third of the reconstruction to the mean over slots of a missing modality. The
    reconstruction is classified. Its source does not give the decoders' widths: [128, 128], as the encoders'.
    """

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(epochs=20, learning_rate=1e-3, clip_norm=5.0, complete=True),
        Stage(epochs=80, learning_rate=1e-3, clip_norm=5.0),
    )
    reconstruction_weight: ClassVar[float] = 0.2

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = {m: config.feature_size(m) for m in MODALITIES}
        self.encoders = nn.ModuleDict({m: perceptron(d, HIDDEN, EMBEDDING, DROPOUT) for m, d in sizes.items()})
        self.autoencoder = self.build_autoencoder(config)
        self.decoders = nn.ModuleDict({m: perceptron(EMBEDDING, HIDDEN, d, DROPOUT) for m, d in sizes.items()})
        self.classifier = perceptron(JOINT, HIDDEN, len(config.classes), DROPOUT)

    @staticmethod
    def build_autoencoder(config: ModelConfig) -> nn.Module:
        """A module `(B, 384)` → its codes, and the reconstruction `(B, 384)`."""
        del config
        return BottleneckAutoencoder(JOINT, (256, 128))

    def reconstruct(self, batch: Batch) -> Tensor:
        """The reconstructed embeddings of all modalities, `(B, 384)`."""
        means = mean_features(batch, batch.present)
        embeddings = [self.encoders[m](means[m]) * batch.present[:, i, None] for i, m in enumerate(MODALITIES)]
        reconstruction: Tensor = self.autoencoder(torch.cat(embeddings, dim=1))[1]  # 3 × (B, 128) → (B, 384)
        return reconstruction

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        logits: Tensor = self.classifier(self.reconstruct(batch))
        return logits

    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the squared errors of the missing modalities, summed over them."""
        reconstruction = self.reconstruct(batch)
        means = mean_features(batch, batch.held)
        hidden = batch.held & ~batch.present  # (B, 3)
        errors = [
            masked_mse(self.decoders[m](part), means[m], hidden[:, i])
            for i, (m, part) in enumerate(zip(MODALITIES, reconstruction.chunk(len(MODALITIES), dim=1), strict=True))
        ]
        return total(
            {
                "answer": (1.0, answer(self.classifier(reconstruction))),
                "reconstruction": (self.reconstruction_weight, torch.stack(errors).sum()),
            }
        )


class CRA(AE):
    """AE with a cascade of residual autoencoders of the inner widths of EMMR's instead of the one autoencoder."""

    reconstruction_weight: ClassVar[float] = 0.8

    @staticmethod
    def build_autoencoder(config: ModelConfig) -> nn.Module:
        """A module `(B, 384)` → its codes, and the reconstruction `(B, 384)`."""
        return ResidualCascade(JOINT, (256, 128, 64), config.network.residual_blocks)
