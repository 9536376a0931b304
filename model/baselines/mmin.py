"""MMIN: the Missing Modality Imagination Network (Zhao et al., ACL 2021).

Shapes: B batch, C classes.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from model.baselines.base import (
    AnswerLoss,
    PretrainedBaseline,
    Stage,
    frozen_copy,
    masked_mse,
    readable_features,
    total,
)
from model.baselines.layers import MaskedLSTM, ResidualCascade, TextCNN, masked_max, perceptron
from model.config import ModelConfig
from model.modality import MODALITIES, Modality
from model.network.batch import Batch

EMBEDDING: Final = 128  # of each modality
KERNELS: Final = (3, 4, 5)  # tokens
HIDDEN: Final = (128, 128)
WIDTHS: Final = (256, 128, 64)  # of each residual autoencoder
BLOCKS: Final = 5
IMAGINATION_WEIGHT: Final = 4.0
CYCLE_WEIGHT: Final = 2.0


class UtteranceEncoder(nn.Module):
    """An embedding `(B, 128)` of each modality, zero where it may not be read: LSTM and maximum, or text CNN."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextCNN(config.feature_size(Modality.TEXT), EMBEDDING, KERNELS, config.network.dropout)
        self.recurrent = nn.ModuleDict(
            {m: MaskedLSTM(config.feature_size(m), EMBEDDING) for m in (Modality.AUDIO, Modality.VISUAL)}
        )

    def forward(self, batch: Batch, readable: Tensor) -> Tensor:
        """A batch and `(B, 3)` bool → `(B, 3, 128)`."""
        features = readable_features(batch, readable)
        embedded = {m: masked_max(*recurrent(*features[Modality(m)])) for m, recurrent in self.recurrent.items()}
        embedded[Modality.TEXT] = self.text(*features[Modality.TEXT])
        return torch.stack([embedded[m] for m in MODALITIES], dim=1) * readable.unsqueeze(-1)  # 3 × (B, 128)


class MMIN(PretrainedBaseline):
    """Encoders and classifier on complete inputs; then imagination of the missing modalities' embeddings.

    In the second stage a cascade of residual autoencoders maps the embeddings of what is present to those of what is
    missing, a second one maps back, and the codes of the first are classified. The targets are the embeddings of the
    first stage's encoders, frozen. Its missing patterns are the six incomplete ones and the complete one. Its source
    does not give the dropout rate: the config's.
    """

    encoder: UtteranceEncoder
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(epochs=30, learning_rate=2e-4, weight_decay=1e-5, clip_norm=1.0, complete=True),
        Stage(epochs=30, learning_rate=2e-4, weight_decay=1e-5, clip_norm=1.0),
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        joint, dropout, classes = EMBEDDING * len(MODALITIES), config.network.dropout, len(config.classes)
        self.encoder = UtteranceEncoder(config)
        self.complete_classifier = perceptron(joint, HIDDEN, classes, dropout)  # of the first stage
        self.imagine = ResidualCascade(joint, WIDTHS, BLOCKS)
        self.imagine_back = ResidualCascade(joint, WIDTHS, BLOCKS)
        self.classifier = perceptron(BLOCKS * WIDTHS[-1], HIDDEN, classes, dropout)
        self.frozen = frozen_copy(self.encoder)

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits of the stage's classifier."""
        embedded = self.encoder(batch, batch.present).flatten(1)  # (B, 3, 128) → (B, 384)
        if self.stage == 0:
            complete: Tensor = self.complete_classifier(embedded)
            return complete
        logits: Tensor = self.classifier(self.imagine(embedded)[0])
        return logits

    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy; in the second stage also of the imagined embeddings and of those imagined back from them."""
        if self.stage == 0:
            return total({"answer": (1.0, answer(self(batch)))})
        embedded = self.encoder(batch, batch.present)  # (B, 3, 128)
        codes, imagined = self.imagine(embedded.flatten(1))  # (B, 320), (B, 384)
        back = self.imagine_back(imagined)[1]
        with torch.no_grad():
            true = self.frozen(batch, batch.held)  # (B, 3, 128)
        hidden = batch.held & ~batch.present  # (B, 3)
        return total(
            {
                "answer": (1.0, answer(self.classifier(codes))),
                "imagination": (IMAGINATION_WEIGHT, masked_mse(imagined.view_as(true), true, hidden)),
                "cycle": (CYCLE_WEIGHT, masked_mse(back.view_as(true), embedded.detach(), batch.present)),
            }
        )
