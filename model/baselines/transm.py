"""TransM: end-to-end fusion by translation between modalities with transformers (Wang et al., WWW 2020).

Shapes: B batch, T_m slots of modality m, d_m features of a slot, D hidden, C classes.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from model.baselines.base import AnswerLoss, NeuralBaseline, Stage, masked_mse, readable_features, total
from model.config import ModelConfig
from model.modality import MODALITIES, Modality
from model.network.batch import Batch
from model.network.encoders import modality_encoders
from model.network.layers import TransformerLayer, masked_mean

DIRECTIONS: Final = tuple(
    pair for other in (Modality.AUDIO, Modality.VISUAL) for pair in ((Modality.TEXT, other), (other, Modality.TEXT))
)
"""Source and target of each translation: forward and backward, between text and each other modality."""
TRANSLATION_WEIGHT: Final = 1.0


class Translation(nn.Module):
    """Transformer encoder of a source, and decoder that writes a target slot for each learned query.

    Args:
        config: sizes of the network.
        target: the modality to write.
    """

    def __init__(self, config: ModelConfig, target: Modality) -> None:
        super().__init__()
        net = config.network
        self.encoder = TransformerLayer(net.hidden, net.heads, net.feedforward, net.dropout)
        self.queries = nn.Parameter(torch.randn(config.slots.of(target), net.hidden) * 0.02)
        self.decoder = nn.TransformerDecoderLayer(net.hidden, net.heads, net.feedforward, net.dropout, batch_first=True)
        self.write = nn.Linear(net.hidden, config.feature_size(target))

    def forward(self, states: Tensor, valid: Tensor, slots: int) -> Tensor:
        """Encoder states of the source `(B, T, D)` and their mask → the target's features `(B, slots, d)`."""
        queries = self.queries[:slots].expand(states.shape[0], -1, -1)  # (slots, D) → (B, slots, D)
        ignored = ~valid & valid.any(dim=1, keepdim=True)  # (B, T); a softmax over no slot would be NaN
        written: Tensor = self.write(self.decoder(queries, states, memory_key_padding_mask=ignored))
        return written


class TransM(NeuralBaseline):
    """Four translations; the means of their encoder states are concatenated and classified, zero where one is missing.

    Its source gives no sizes, optimiser or weight of the translations. Hidden size, heads, feed-forward size and
    dropout are the config's, which were chosen on validation for EMMR; the number of epochs is that of Table 7 of
    EMMR's paper. Learning rate (of 3e-4 and 1e-3) and weight (of 0.1 and 1) had the highest macro-F1 on the validation
    part of MOSI's vectors, the mean of three seeds.
    """

    stages: ClassVar[tuple[Stage, ...]] = (Stage(epochs=20, learning_rate=3e-4),)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        net = config.network
        self.encoders = modality_encoders(config)
        self.translations = nn.ModuleDict({f"{s}_{t}": Translation(config, t) for s, t in DIRECTIONS})
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(len(DIRECTIONS) * net.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        return self._classify(self._encode(batch))

    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the squared errors of the forward and of the backward translations."""
        encoded = self._encode(batch)
        held = readable_features(batch, batch.held)
        errors = []
        for source, target in DIRECTIONS:
            states, valid = encoded[source, target]
            x, slots = held[target]
            written = self.translations[f"{source}_{target}"](states, valid, x.shape[1])
            errors.append(masked_mse(written, x, slots & valid.any(dim=1, keepdim=True)))
        return total(
            {
                "answer": (1.0, answer(self._classify(encoded))),
                "forward": (TRANSLATION_WEIGHT, torch.stack(errors[::2]).sum()),
                "backward": (TRANSLATION_WEIGHT, torch.stack(errors[1::2]).sum()),
            }
        )

    def _encode(self, batch: Batch) -> dict[tuple[Modality, Modality], tuple[Tensor, Tensor]]:
        """Encoder states `(B, T_s, D)` of each direction, and their mask."""
        features = readable_features(batch, batch.present)
        encoded = {m: self.encoders[m](*features[m]) for m in MODALITIES}
        found = {}
        for source, target in DIRECTIONS:
            translation, valid = self.translations[f"{source}_{target}"], features[source][1]
            assert isinstance(translation, Translation)
            found[source, target] = translation.encoder(encoded[source], valid), valid
        return found

    def _classify(self, encoded: dict[tuple[Modality, Modality], tuple[Tensor, Tensor]]) -> Tensor:
        means = [masked_mean(states, valid) for states, valid in encoded.values()]
        logits: Tensor = self.classifier(self.dropout(torch.cat(means, dim=-1)))  # 4 × (B, D) → (B, 4 D)
        return logits
