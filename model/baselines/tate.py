"""TATE: the Tag-Assisted Transformer Encoder (Zeng et al., SIGIR 2022).

Shapes: B batch, T_m slots of modality m, T their sum, D hidden, C classes.
"""

from math import gcd
from typing import ClassVar, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.baselines.base import AnswerLoss, PretrainedBaseline, Stage, frozen_copy, readable_features, total
from model.config import ModelConfig
from model.modality import MODALITIES, Modality
from model.network.batch import Batch
from model.network.encoders import CommonSpace, modality_encoders
from model.network.layers import AttentivePooling, TransformerLayer
from model.network.losses import symmetric_kl

TAG: Final = 4  # digits
DIGITS: Final = {Modality.VISUAL: 1, Modality.AUDIO: 2, Modality.TEXT: 3}
"""The digit that says that a modality is missing; the first one says that none is."""
AUXILIARY_WEIGHT: Final = 0.1


def tags(present: Tensor) -> Tensor:
    """`(B, 3)` bool → `(B, 4)`: 1000 if complete; 0100, 0010, 0001 without visual, audio, text; unions for two."""
    missing = ~present
    digits = [missing[:, MODALITIES.index(m)] for m in sorted(DIGITS, key=lambda m: DIGITS[m])]
    return torch.stack([present.all(dim=1), *digits], dim=1).float()  # 4 × (B,) → (B, 4)


class Encoded(NamedTuple):
    """Common sequence and encoder output `(B, T, D + 4)`, and their valid slots `(B, T)`."""

    common: Tensor
    output: Tensor
    valid: Tensor


class TaggedEncoder(nn.Module):
    """Modality encoders, the tag of the missing pattern in every slot, the common space, and a transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net, width = config.network, config.network.hidden + TAG
        self.imputed = {m: net.imputed_slots.of(m) for m in MODALITIES}
        self.modalities = modality_encoders(config)
        self.common = CommonSpace(width)
        self.layer = TransformerLayer(width, gcd(net.heads, width), net.feedforward, net.dropout)

    def forward(self, batch: Batch, readable: Tensor) -> Encoded:
        """Encode what may be read, `(B, 3)` bool; the slots of the other modalities contain the tag alone."""
        tag = tags(readable).unsqueeze(1)  # (B, 1, 4)
        common, slots = [], []
        for column, (modality, (x, valid)) in enumerate(readable_features(batch, readable).items()):
            read, length = readable[:, column], x.shape[1]
            encoded = self.modalities[modality](x, valid)
            encoded = torch.where(read[:, None, None], encoded, encoded.new_zeros(()))
            tagged = torch.cat([encoded, tag.to(encoded.dtype).expand(-1, length, -1)], dim=-1)  # (B, T_m, D + 4)
            common.append(self.common(tagged, modality))
            imputed = torch.arange(length, device=x.device) < self.imputed[modality]  # (T_m,)
            slots.append(torch.where(read[:, None], valid, imputed))
        sequence, valid = torch.cat(common, dim=1), torch.cat(slots, dim=1)
        return Encoded(sequence, self.layer(sequence, valid), valid)


class TATE(PretrainedBaseline):
    """Transformer encoder and decoder over tagged slots; the encoder's output is pooled and classified.

    The first stage trains on complete inputs, and its encoder, frozen, is the pretrained network of the second stage's
    forward loss. The backward loss compares the decoder's output with the common sequence of everything held. The last
    four pooled features restore the tag. The second stage starts from the first.

    Its source leaves open the sizes under another config than the published one: hidden size, heads, feed-forward size
    and dropout are the config's, which were chosen on validation for EMMR. Epochs and learning rate are those of Table
    7 of EMMR's paper, by the same authors. The length of the first stage (of 2, 5, 10 and 20 epochs at most) had the
    highest macro-F1 on the validation part of MOSI's vectors, the mean of three seeds.
    """

    encoder: TaggedEncoder
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(epochs=10, learning_rate=1e-3, complete=True),
        Stage(epochs=20, learning_rate=1e-3),
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        net, width = config.network, config.network.hidden + TAG
        self.encoder = TaggedEncoder(config)
        self.decoder = TransformerLayer(width, gcd(net.heads, width), net.feedforward, net.dropout)
        self.pool = AttentivePooling(width)
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(width, len(config.classes))
        self.frozen = frozen_copy(self.encoder)

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        return self._classify(self._pool(self.encoder(batch, batch.present)))

    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy and the tag's absolute error; in the second stage also the forward and backward divergences."""
        encoded = self.encoder(batch, batch.present)
        pooled = self._pool(encoded)
        restored = pooled[:, -TAG:].float().sigmoid()
        terms = {
            "answer": (1.0, answer(self._classify(pooled))),
            "tag": (AUXILIARY_WEIGHT, F.l1_loss(restored, tags(batch.present))),
        }
        if self.stage > 0:
            with torch.no_grad():
                pretrained: Encoded = self.frozen(batch, batch.held)
                complete: Encoded = self.encoder(batch, batch.held)
            known = torch.cat([valid for _, valid in readable_features(batch, batch.held).values()], dim=1)
            weights = (known & encoded.valid).float()  # (B, T); slots with true content to compare with
            decoded = self.decoder(encoded.output, encoded.valid)
            terms["forward"] = (AUXILIARY_WEIGHT, symmetric_kl(encoded.output, pretrained.output, weights))
            terms["backward"] = (AUXILIARY_WEIGHT, symmetric_kl(decoded, complete.common, weights))
        return total(terms)

    def _pool(self, encoded: Encoded) -> Tensor:
        pooled: Tensor = self.pool(encoded.output, encoded.valid)
        return pooled

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits
