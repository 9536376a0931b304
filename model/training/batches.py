"""Examples and their slots → shuffled batches with targets, patterns and feature-level augmentation.

For: what one epoch feeds the network. Every draw is a function of (seed, epoch), so that a resumed run continues as
the uninterrupted one would have.
Does not know: losses, optimisers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig
from model.modality import MODALITIES, Modality, Utterance
from model.network.batch import Batch, collate
from model.network.losses import IGNORED, Targets
from model.training.datasets.base import Example, SoundSource, Source
from model.training.missing_patterns import TrainingMix, draw_training_patterns
from model.training.settings import TrainingSettings
from model.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One step's input and what it should have been."""

    batch: Batch
    targets: Targets
    examples: Sequence[Example]

    def select(self, rows: Tensor) -> Self:
        """The rows `(N,)` of this batch, in that order."""
        targets = self.targets
        return replace(
            self,
            batch=self.batch.select(rows),
            targets=Targets(
                targets.labels[rows],
                {m: labels[rows] for m, labels in targets.modality_labels.items()},
                targets.class_weights,
            ),
            examples=[self.examples[row] for row in rows.tolist()],
        )


class BatchSource:
    """Training batches of one corpus under one config."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainingSettings,
        features: Mapping[Source, FloatArray],
        seed: int,
        *,
        taught: bool = False,
    ) -> None:
        """Set up.

        Args:
            config: of the network.
            settings: shares and strengths of augmentation.
            features: normalised slots of every source.
            seed: of every draw.
            taught: a teacher says what a batch is worth, so that clips of any two polarities may be blended.
        """
        self.config = config
        self.settings = settings
        self.features = features
        self.seed = seed
        self.taught = taught
        two_missing = 1.0 - settings.complete_share - settings.one_missing_share
        self.mix = TrainingMix(settings.complete_share, settings.one_missing_share, max(two_missing, 0.0))

    def epoch(self, examples: Sequence[Example], epoch: int, *, complete: bool = False) -> Iterator[TrainingBatch]:
        """Batches of one epoch in a random order.

        Args:
            examples: at least one; those whose every source is without features are passed over.
            epoch: its number, part of every draw's seed.
            complete: only examples that have all modalities, and none is hidden (for the guidance network).
        """
        rng = np.random.default_rng([self.seed, epoch, int(complete)])
        pairs = [(e, u) for e in examples if (u := self._utterance(e, rng)) is not None]
        if complete:
            pairs = [(e, u) for e, u in pairs if u.presence.complete]
        weights = self._class_weights([e for e, _ in pairs])
        for rows in self._batches([u for _, u in pairs], rng):
            chosen = [pairs[i] for i in rows]
            utterances = [u for _, u in chosen]
            targets = self._targets([e for e, _ in chosen], weights)
            batch = self._augment(collate(utterances, self.config, room_to_impute=True), targets, rng)
            if not complete:
                kept = draw_training_patterns([u.presence for u in utterances], self.mix, rng)
                batch = batch.with_present(torch.tensor([p.mask() for p in kept]))
                batch, targets = self._exchange(batch, targets, rng)
            yield TrainingBatch(batch, targets, [e for e, _ in chosen])

    def _batches(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> Iterator[IntArray]:
        """Rows of each batch: a random order in which, where asked for, utterances of like length share a batch."""
        size, window = self.settings.batch_size, self.settings.batch_size * self.settings.length_bucket
        order = rng.permutation(len(utterances))
        if self.settings.length_bucket > 1:
            slots = np.array([sum(len(x) for x in u.features.values()) for u in utterances])
            windows = [order[start : start + window] for start in range(0, len(order), window)]
            order = np.concatenate([rows[np.argsort(slots[rows], kind="stable")] for rows in windows] or [order])
        starts = np.arange(0, len(order), size)
        if self.settings.length_bucket > 1:
            starts = rng.permutation(starts)
        return (order[start : start + size] for start in starts)

    def _utterance(self, example: Example, rng: np.random.Generator) -> Utterance | None:
        arrays = {}
        for modality, source in example.sources.items():
            chosen = source
            if isinstance(source, SoundSource) and self.settings.audio_variants:
                chosen = SoundSource(source.path, int(rng.integers(self.settings.audio_variants + 1)))
            array = self.features.get(chosen, self.features.get(source))
            if array is not None:
                arrays[modality] = array
        return Utterance(arrays) if arrays else None

    def _augment(self, batch: Batch, targets: Targets, rng: np.random.Generator) -> Batch:
        """Voices and faces blended with others of their polarity, noise, a hidden stretch of sound, hidden words."""
        features, valid = dict(batch.features), dict(batch.valid)
        settings = self.settings
        for modality, deviation in ((Modality.AUDIO, settings.audio_noise), (Modality.VISUAL, settings.visual_noise)):
            x = features[modality]
            most = settings.taught_blend if self.taught else settings.blend
            if most:
                own = targets.modality_labels[modality].numpy()
                x = _blend(x, valid[modality], np.zeros_like(own) if self.taught else own, most, rng)
            noise = rng.standard_normal(x.shape, dtype=np.float32) * deviation
            features[modality] = x + torch.from_numpy(noise)
        if settings.time_mask:
            valid[Modality.AUDIO] = _hide_stretch(valid[Modality.AUDIO], settings.time_mask, rng)
        if settings.word_dropout:
            mask = valid[Modality.TEXT]
            hidden = torch.from_numpy(rng.random(mask.shape) < settings.word_dropout)
            hidden[:, 0] = False  # [CLS] stays, so that no sentence is left without a slot
            valid[Modality.TEXT] = mask & ~hidden
        return Batch(features=features, valid=valid, held=batch.held, present=batch.present)

    def _exchange(self, batch: Batch, targets: Targets, rng: np.random.Generator) -> tuple[Batch, Targets]:
        """Some modalities exchanged between utterances that hold several; each takes what it says alone with it."""
        settings = self.settings
        shares = {
            Modality.TEXT: settings.text_exchange,
            Modality.AUDIO: settings.audio_exchange,
            Modality.VISUAL: settings.visual_exchange,
        }
        features, valid, own = dict(batch.features), dict(batch.valid), dict(targets.modality_labels)
        several = (batch.present.sum(dim=1) > 1).numpy()
        for column, modality in enumerate(MODALITIES):
            if not shares[modality]:
                continue
            here = several & batch.present[:, column].numpy() & (rng.random(len(several)) < shares[modality])
            order = np.arange(len(several))
            order[here] = rng.permutation(order[here])
            taken = torch.from_numpy(order)
            features[modality], valid[modality] = features[modality][taken], valid[modality][taken]
            own[modality] = own[modality][taken]
        exchanged = Batch(features=features, valid=valid, held=batch.held, present=batch.present)
        return exchanged, Targets(targets.labels, own, targets.class_weights)

    def _targets(self, examples: Sequence[Example], weights: Tensor | None) -> Targets:
        classes = self.config.classes
        own = {
            m: torch.tensor(
                [classes.index(e.modality_labels[m]) if m in e.modality_labels else IGNORED for e in examples]
            )
            for m in MODALITIES
        }
        return Targets(torch.tensor([classes.index(e.label) for e in examples]), own, weights)

    def _class_weights(self, examples: Sequence[Example]) -> Tensor | None:
        if not self.settings.class_balance or not examples:
            return None
        counts = np.bincount([self.config.classes.index(e.label) for e in examples], minlength=len(self.config.classes))
        weights = (counts.sum() / np.maximum(counts, 1)) ** self.settings.class_balance
        return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _blend(x: Tensor, valid: Tensor, labels: IntArray, most: float, rng: np.random.Generator) -> Tensor:
    """Mix into each row `(B, T, d)` up to a share `most` of a random row of the same known label and length.

    Between two speakers of one polarity lies a third: the nearest to new speakers that few speakers allow. (Mixup,
    Zhang et al. 2018, kept within what `labels` calls one, so that the label stands.)
    """
    lengths = valid.sum(dim=1).numpy()
    partner = np.arange(len(labels))
    kinds = set(zip(labels[labels >= 0].tolist(), lengths[labels >= 0].tolist(), strict=True))
    for label, length in kinds:
        rows = np.flatnonzero((labels == label) & (lengths == length))
        partner[rows] = rng.permutation(rows)
    share = torch.from_numpy((rng.random(len(labels)) * most).astype(np.float32))[:, None, None]
    return x + share * (x[torch.from_numpy(partner)] - x)


def _hide_stretch(valid: Tensor, longest: float, rng: np.random.Generator) -> Tensor:
    """Hide one random stretch of each row's valid slots, never all of them."""
    lengths = valid.sum(dim=1).numpy()  # content starts at slot 0
    widths = (rng.random(len(lengths)) * longest * lengths).astype(np.int64)
    starts = (rng.random(len(lengths)) * (lengths - widths + 1)).astype(np.int64)
    slot = torch.arange(valid.shape[1])
    start, end = torch.from_numpy(starts)[:, None], torch.from_numpy(starts + widths)[:, None]
    return valid & ~((slot >= start) & (slot < end))


def to_device(item: TrainingBatch, device: torch.device) -> TrainingBatch:
    """The same on a device."""
    targets = item.targets
    return TrainingBatch(
        item.batch.to(device),
        Targets(
            targets.labels.to(device, non_blocking=True),
            {m: labels.to(device, non_blocking=True) for m, labels in targets.modality_labels.items()},
            None if targets.class_weights is None else targets.class_weights.to(device, non_blocking=True),
        ),
        item.examples,
    )
