"""Voice and face encoders learn what each carries alone, before they meet one another.

For: corpora with few speakers. Trained within the whole network, the encoders meet each clip dozens of times an epoch
under labels that other modalities decide, and learn the speakers; from distinct clips and their own polarity (and
emotion, where the corpus knows it), or from a teacher, they learn what carries over to new ones. Chosen on validation
data.
Does not know: text, which has its adapters (`model.training.adapters`), fusion, reconstruction.

Shapes: B batch, D hidden.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.modality import MODALITIES, Modality
from model.network.emmr import EMMR
from model.network.losses import IGNORED, SoftTargets, taught_cross_entropy
from model.training.batches import TrainingBatch
from model.training.datasets.base import Example, Source
from model.training.settings import TrainingSettings
from model.types import FloatArray

MODALITIES_PRETRAINED: Final = (Modality.AUDIO, Modality.VISUAL)
PRETRAINED: Final = ("encoder.modalities.audio", "encoder.modalities.visual", "encoder.common")
"""Prefixes of the parameters this shapes."""


def draw_clips(clips: Sequence[Example], most: int, rng: np.random.Generator) -> list[Example]:
    """At most `most` of each modality and corpus, drawn without replacement."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for clip in clips:
        (modality,) = clip.sources
        groups.setdefault((modality, clip.origins.get(modality, "")), []).append(clip)
    return [group[i] for group in groups.values() for i in rng.permutation(len(group))[:most]]


def single_modality_examples(examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> list[Example]:
    """Each distinct voice and face that has features, alone, with the polarity it carries or else the label."""
    alone: dict[tuple[Modality, Source], Example] = {}
    for example in examples:
        for modality in MODALITIES_PRETRAINED:
            source = example.sources.get(modality)
            if source is None or source not in features or (modality, source) in alone:
                continue
            polarity = example.modality_labels.get(modality, example.label)
            alone[modality, source] = Example(
                id=f"{example.id} {modality}",
                label=polarity,
                sources={modality: source},
                modality_labels={modality: polarity},
                emotions={m: emotion for m, emotion in example.emotions.items() if m == modality},
                origins={m: origin for m, origin in example.origins.items() if m == modality},
            )
    return list(alone.values())


class PretrainingTask(nn.Module):
    """A network's encoders and modality heads, with emotion heads that are thrown away afterwards."""

    def __init__(self, network: EMMR, examples: Sequence[Example], settings: TrainingSettings) -> None:
        super().__init__()
        self.encoder = network.encoder  # the same objects: training the task trains the network
        self.pools, self.heads = network.modality_pools, network.modality_heads
        self.network = [network]  # in a list, so that its other parameters are not the task's
        self.emotion_weight = settings.emotion_weight
        self.emotions = sorted({emotion for e in examples for emotion in e.emotions.values()})
        hidden, device = network.config.network.hidden, next(network.parameters()).device
        self.emotion_heads = nn.ModuleDict(
            {m: nn.Linear(hidden, max(1, len(self.emotions))) for m in MODALITIES_PRETRAINED}
        ).to(device)
        classes = network.config.classes
        counts = np.bincount([classes.index(e.label) for e in examples], minlength=len(classes))
        weights = counts.sum() / (len(classes) * np.maximum(counts, 1))
        self.class_weights = torch.from_numpy(weights.astype(np.float32)).to(device)

    def forward(self, item: TrainingBatch, lesson: SoftTargets | None = None) -> Tensor:
        """The scalar to minimise: polarity, and emotion where it is known, of each voice and face in the batch.

        Args:
            item: voices and faces, each alone.
            lesson: of a teacher, which knows better than the labels.
        """
        (network,), batch = self.network, item.batch
        described = network.describe(network.encoder.encode(batch.features, batch.valid, batch.held), batch.valid)
        total = self.class_weights.new_zeros(())
        for modality in MODALITIES_PRETRAINED:
            if lesson is not None:
                here = batch.held[:, MODALITIES.index(modality)]
                logits = self.heads[modality](described[modality]).float()
                total = total + taught_cross_entropy(logits, lesson.alone[modality], row_weights=here)
                continue
            labels, feature = item.targets.modality_labels[modality], described[modality]
            here = batch.held[:, MODALITIES.index(modality)] & (labels != IGNORED)
            # A sum over a constant count: a batch that happens to hold few voices does not shout for them.
            polarity = F.cross_entropy(
                self.heads[modality](feature).float(), labels, self.class_weights, reduction="none"
            )
            total = total + torch.where(here, polarity, polarity.new_zeros(())).mean()
            if self.emotions and self.emotion_weight:
                emotions = torch.tensor(
                    [
                        self.emotions.index(e.emotions[modality]) if modality in e.emotions else IGNORED
                        for e in item.examples
                    ],
                    device=labels.device,
                )
                logits = self.emotion_heads[modality](feature).float()
                total = total + self.emotion_weight * F.cross_entropy(logits, emotions, reduction="none").mean()
        return total
