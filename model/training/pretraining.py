"""Pretraining of the audio and visual encoders on distinct clips, each with its own polarity and emotion.

Trained only within the whole network, they overfit to the speakers of small corpora (chosen on validation data).
"""
# Shapes: B batch, D hidden.

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.modality import MODALITIES, Modality
from model.network.emmr import EMMR
from model.network.losses import IGNORED, SoftTargets, soft_cross_entropy
from model.training.batches import TrainingBatch
from model.training.datasets.base import Example, Source
from model.training.settings import TrainingSettings
from model.types import FloatArray

MODALITIES_PRETRAINED: Final = (Modality.AUDIO, Modality.VISUAL)
PRETRAINED: Final = ("encoder.modalities.audio", "encoder.modalities.visual", "encoder.common")
"""Prefixes of the names of pretrained parameters."""


def draw_clips(clips: Sequence[Example], most: int, rng: np.random.Generator) -> list[Example]:
    """Draw at most `most` clips of each modality and corpus, without replacement."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for clip in clips:
        (modality,) = clip.sources
        groups.setdefault((modality, clip.origins.get(modality, "")), []).append(clip)
    return [group[i] for group in groups.values() for i in rng.permutation(len(group))[:most]]


def single_modality_examples(examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> list[Example]:
    """Each distinct audio and visual source that has features as an example, with its polarity or else the label."""
    singles: dict[tuple[Modality, Source], Example] = {}
    for example in examples:
        for modality in MODALITIES_PRETRAINED:
            source = example.sources.get(modality)
            if source is None or source not in features or (modality, source) in singles:
                continue
            polarity = example.modality_labels.get(modality, example.label)
            singles[modality, source] = Example(
                id=f"{example.id} {modality}",
                label=polarity,
                sources={modality: source},
                modality_labels={modality: polarity},
                emotions={m: emotion for m, emotion in example.emotions.items() if m == modality},
                origins={m: origin for m, origin in example.origins.items() if m == modality},
            )
    return list(singles.values())


class PretrainingTask(nn.Module):
    """The encoders and modality heads of a network, shared with it, and temporary heads for the examples' emotions."""

    def __init__(self, network: EMMR, examples: Sequence[Example], settings: TrainingSettings) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.pools, self.heads = network.modality_pools, network.modality_heads
        self.network = [network]  # in a list, so that its other parameters are not the task's
        self.emotion_weight = settings.emotion_weight
        names = sorted({emotion for e in examples for emotion in e.emotions.values()})
        self.emotions = {name: number for number, name in enumerate(names)}
        hidden, device = network.config.network.hidden, next(network.parameters()).device
        self.emotion_heads = nn.ModuleDict(
            {m: nn.Linear(hidden, max(1, len(self.emotions))) for m in MODALITIES_PRETRAINED}
        ).to(device)
        classes = network.config.classes
        counts = np.bincount([classes.index(e.label) for e in examples], minlength=len(classes))
        weights = counts.sum() / (len(classes) * np.maximum(counts, 1))
        self.class_weights = torch.from_numpy(weights.astype(np.float32)).to(device)

    def forward(self, item: TrainingBatch, soft_targets: SoftTargets | None = None) -> Tensor:
        """Cross-entropy of the polarity of each clip and of its emotion where known, or of soft targets; a scalar."""
        (network,), batch = self.network, item.batch
        pooled = network.describe(network.encoder.encode(batch.features, batch.valid, batch.held), batch.valid)
        total = self.class_weights.new_zeros(())
        for modality in MODALITIES_PRETRAINED:
            feature = pooled[modality]  # (B, D)
            held = batch.held[:, MODALITIES.index(modality)]
            logits = self.heads[modality](feature).float()
            if soft_targets is not None:
                total = total + soft_cross_entropy(logits, soft_targets.alone[modality], row_weights=held)
                continue
            labels = item.targets.modality_labels[modality]
            known = held & (labels != IGNORED)
            # Divided by B, not by the number of clips: a batch with few audio clips does not give them more weight.
            loss = F.cross_entropy(logits, labels, self.class_weights, reduction="none")
            total = total + torch.where(known, loss, loss.new_zeros(())).mean()
            if self.emotions and self.emotion_weight:
                numbers = [self.emotions.get(e.emotions.get(modality, ""), IGNORED) for e in item.examples]
                emotions = torch.tensor(numbers, device=labels.device)
                logits = self.emotion_heads[modality](feature).float()
                total = total + self.emotion_weight * F.cross_entropy(logits, emotions, reduction="none").mean()
        return total
