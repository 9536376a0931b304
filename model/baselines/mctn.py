"""MCTN: the Multimodal Cyclic Translation Network (Pham et al., AAAI 2019).

Shapes: B batch, T_m slots of modality m, C classes, H hidden.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from model.baselines.base import AnswerLoss, NeuralBaseline, Stage, masked_mse, readable_features, total
from model.baselines.layers import AttentionDecoder, MaskedLSTM
from model.config import ModelConfig
from model.modality import MODALITIES, Modality
from model.network.batch import Batch
from model.network.layers import AttentivePooling

HIDDEN: Final = 32
TRANSLATION_WEIGHT: Final = 0.1  # of each of the three squared errors
_TEXT: Final = MODALITIES.index(Modality.TEXT)


class MCTN(NeuralBaseline):
    """Joint representation of the text that is learned by translating it; text alone is read to answer.

    The text is translated to the face and back; its encoder states are translated to the voice. The states of that
    second encoder are the joint representation, read by an LSTM with attentive pooling. Where text is missing the
    answer is the distribution of the classes in training.

    Its source does not give the number of epochs: at most 60, and the patience on validation ends the training.
    """

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(epochs=60, learning_rate=1e-4, weight_decay=0.01, batch_size=32, patience=20),
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        text, audio, visual = (config.feature_size(m) for m in MODALITIES)
        self.encode_text = MaskedLSTM(text, HIDDEN, bidirectional=True)
        self.write_visual = AttentionDecoder(HIDDEN, visual)
        self.encode_visual = MaskedLSTM(visual, HIDDEN, bidirectional=True)
        self.write_text = AttentionDecoder(HIDDEN, text)
        self.encode_joint = MaskedLSTM(HIDDEN, HIDDEN, bidirectional=True)
        self.write_audio = AttentionDecoder(HIDDEN, audio)
        self.read = MaskedLSTM(HIDDEN, HIDDEN)
        self.pool = AttentivePooling(HIDDEN)
        self.classifier = nn.Linear(HIDDEN, len(config.classes))
        self.counts = nn.Buffer(torch.ones(len(config.classes)))  # of the training labels, one of each class at first

    def forward(self, batch: Batch) -> Tensor:
        """`(B, C)` logits."""
        _, joint, front = self._encode(batch)
        return self._classify(batch, joint, front)

    def loss(self, batch: Batch, answer: AnswerLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the squared errors of the translations to face, back to text, and to voice."""
        with torch.no_grad():
            self.counts.add_(torch.bincount(answer.targets.labels, minlength=len(self.counts)))
        states, joint, front = self._encode(batch)
        known = readable_features(batch, batch.held & batch.present[:, _TEXT, None])
        text, audio, visual = (known[m] for m in MODALITIES)
        translated = self.write_visual(states, front, visual[0].shape[1])  # (B, T_v, d_v)
        back = self.write_text(*self.encode_visual(translated, visual[1]), text[0].shape[1])  # (B, T_t, d_t)
        to_audio = self.write_audio(joint, front, audio[0].shape[1])  # (B, T_a, d_a)
        cyclic = text[1] & visual[1].any(dim=1, keepdim=True)  # without a face there is nothing to translate back
        return total(
            {
                "answer": (1.0, answer(self._classify(batch, joint, front))),
                "visual": (TRANSLATION_WEIGHT, masked_mse(translated, *visual)),
                "cycle": (TRANSLATION_WEIGHT, masked_mse(back, text[0], cyclic)),
                "audio": (TRANSLATION_WEIGHT, masked_mse(to_audio, *audio)),
            }
        )

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """States of the text's encoder and joint representation, both `(B, T_t, H)`, and their mask `(B, T_t)`."""
        states, front = self.encode_text(*readable_features(batch, batch.present)[Modality.TEXT])
        joint, front = self.encode_joint(states, front)
        return states, joint, front

    def _classify(self, batch: Batch, joint: Tensor, front: Tensor) -> Tensor:
        logits = self.classifier(self.pool(*self.read(joint, front)))
        prior = (self.counts / self.counts.sum()).log().to(logits.dtype)
        return torch.where(batch.present[:, _TEXT, None], logits, prior)
