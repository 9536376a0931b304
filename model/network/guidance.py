"""The guidance network: EMMR's encoder and one transformer layer, trained on complete inputs, then frozen (Eqs. 3, 15).

Shapes: B batch, T slots, D hidden, C classes.
"""

# In the released code the guidance is the trained network itself on the incomplete batch; here it has its own weights.

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import COMPLETE
from model.network.batch import Batch
from model.network.encoders import Encoder, concatenate
from model.network.layers import AttentivePooling, TransformerLayer


class GuidanceNetwork(nn.Module):
    """Encoder, one transformer layer, pooling and classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = config.network
        self.encoder = Encoder(config)
        self.encoder.missing.requires_grad_(requires_grad=False)  # unused: inputs are complete
        self.layer = TransformerLayer(net.hidden, net.heads, net.feedforward, net.dropout)
        self.pool = AttentivePooling(net.hidden)
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(net.hidden, len(config.classes))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """E_pre `(B, T, D)` of all held modalities, and its valid slots `(B, T)`."""
        common = self.encoder.encode(batch.features, batch.valid, batch.held)
        x, valid = concatenate(COMPLETE, common, batch.valid)
        return self.layer(x, valid), valid

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        encoded, valid = self.encode(batch)
        logits: Tensor = self.classifier(self.dropout(self.pool(encoded, valid)))
        return logits

    @torch.no_grad()
    def guide(self, batch: Batch) -> Tensor:
        """E_pre of a frozen network, `(B, T, D)`."""
        return self.encode(batch)[0]
