"""Training batches of a corpus: shuffled, with targets, missing patterns and augmentation of features.

Every draw is a function of (seed, epoch), so that a resumed run continues exactly as the uninterrupted one.
"""
# Shapes: B batch, T slots, d features of a slot, C classes, N rows.

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
from model.training.missing_patterns import draw_training_patterns
from model.training.settings import TrainingSettings
from model.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The input of one training step, its targets, and the examples it was made of."""

    batch: Batch
    targets: Targets
    examples: Sequence[Example]

    def select(self, rows: Tensor) -> Self:
        """The rows `(N,)` of this batch, in that order."""
        labels = {m: labels[rows] for m, labels in self.targets.modality_labels.items()}
        return replace(
            self,
            batch=self.batch.select(rows),
            targets=replace(
                self.targets,
                labels=self.targets.labels[rows],
                modality_labels=labels,
                scores=None if self.targets.scores is None else self.targets.scores[rows],
            ),
            examples=[self.examples[row] for row in rows.tolist()],
        )

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        given = self.targets

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        targets = Targets(
            given.labels.to(device, non_blocking=True),
            {m: labels.to(device, non_blocking=True) for m, labels in given.modality_labels.items()},
            *map(moved, (given.class_weights, given.scores, given.class_values)),
        )
        return replace(self, batch=self.batch.to(device), targets=targets)


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Training batches of one corpus under one config.

    Args:
        config: of the network.
        settings: shares and strengths of augmentation.
        features: normalised slots of every source.
        seed: of every draw.
        taught: soft targets of a teacher replace the labels, so that clips of different polarities may be blended.
    """

    config: ModelConfig
    settings: TrainingSettings
    features: Mapping[Source, FloatArray]
    seed: int
    taught: bool = False

    @property
    def shares(self) -> tuple[float, float, float]:
        """Probabilities of 0, 1 and 2 missing modalities."""
        complete, one_missing = self.settings.complete_share, self.settings.one_missing_share
        return complete, one_missing, max(1.0 - complete - one_missing, 0.0)

    def epoch(self, examples: Sequence[Example], epoch: int, *, complete: bool = False) -> Iterator[TrainingBatch]:
        """Batches of one epoch in a random order.

        Args:
            examples: those without any features are left out.
            epoch: its number, part of the seed of every draw.
            complete: use only examples with all modalities, and no missing patterns (for the guidance network).
        """
        rng = np.random.default_rng([self.seed, epoch, int(complete)])
        pairs = [(e, u) for e in examples if (u := self._utterance(e, rng)) is not None]
        if complete:
            pairs = [(e, u) for e, u in pairs if u.presence.complete]
        weights = self._class_weights([e for e, _ in pairs])
        for rows in self._batches([u for _, u in pairs], rng):
            chosen = [pairs[i][0] for i in rows]
            utterances = [pairs[i][1] for i in rows]
            targets = self._targets(chosen, weights)
            batch = self._augment(collate(utterances, self.config, room_to_impute=True), targets, rng)
            if not complete:
                kept = draw_training_patterns([u.presence for u in utterances], self.shares, rng)
                batch = batch.with_present(torch.tensor([p.mask() for p in kept]))
                batch, targets = self._exchange(batch, targets, rng)
            yield TrainingBatch(batch, targets, chosen)

    def _batches(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> Iterator[IntArray]:
        """Rows of each batch in a random order; with length buckets, utterances of similar length share a batch."""
        size, window = self.settings.batch_size, self.settings.batch_size * self.settings.length_bucket
        order = rng.permutation(len(utterances))
        starts = np.arange(0, len(order), size)
        if self.settings.length_bucket > 1:
            slots = np.array([sum(len(x) for x in u.features.values()) for u in utterances])
            windows = [order[start : start + window] for start in range(0, len(order), window)]
            order = np.concatenate([rows[np.argsort(slots[rows], kind="stable")] for rows in windows] or [order])
            starts = rng.permutation(starts)
        return (order[start : start + size] for start in starts)

    def _utterance(self, example: Example, rng: np.random.Generator) -> Utterance | None:
        """The features of an example, with a random variant of its sound; None where it has no features."""
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
        """Blend and add noise to audio and visual features; mask a span of audio slots and single text slots."""
        features, valid = dict(batch.features), dict(batch.valid)
        settings = self.settings
        largest = settings.taught_blend if self.taught else settings.blend
        for modality, deviation in ((Modality.AUDIO, settings.audio_noise), (Modality.VISUAL, settings.visual_noise)):
            x = features[modality]
            if largest:
                polarities = targets.modality_labels[modality].numpy()
                groups = np.zeros_like(polarities) if self.taught else polarities
                x = _blend(x, valid[modality], groups, largest, rng)
            noise = rng.standard_normal(x.shape, dtype=np.float32) * deviation
            features[modality] = x + torch.from_numpy(noise)
        if settings.time_mask:
            valid[Modality.AUDIO] = _mask_span(valid[Modality.AUDIO], settings.time_mask, rng)
        if settings.word_dropout:
            mask = valid[Modality.TEXT]
            dropped = torch.from_numpy(rng.random(mask.shape) < settings.word_dropout)
            dropped[:, 0] = False  # [CLS] stays, so that every sentence keeps a slot
            valid[Modality.TEXT] = mask & ~dropped
        return replace(batch, features=features, valid=valid)

    def _exchange(self, batch: Batch, targets: Targets, rng: np.random.Generator) -> tuple[Batch, Targets]:
        """Permute some modalities, with their polarities, among utterances that have several present."""
        shares = (self.settings.text_exchange, self.settings.audio_exchange, self.settings.visual_exchange)
        features, valid, polarities = dict(batch.features), dict(batch.valid), dict(targets.modality_labels)
        several = (batch.present.sum(dim=1) > 1).numpy()
        for column, (modality, share) in enumerate(zip(MODALITIES, shares, strict=True)):
            if not share:
                continue
            exchanged = several & batch.present[:, column].numpy() & (rng.random(len(several)) < share)
            order = np.arange(len(several))
            order[exchanged] = rng.permutation(order[exchanged])
            for tensors in (features, valid, polarities):
                tensors[modality] = tensors[modality][torch.from_numpy(order)]
        return replace(batch, features=features, valid=valid), replace(targets, modality_labels=polarities)

    def _targets(self, examples: Sequence[Example], weights: Tensor | None) -> Targets:
        index = {name: number for number, name in enumerate(self.config.classes)}
        polarities = {
            m: torch.tensor([index[e.modality_labels[m]] if m in e.modality_labels else IGNORED for e in examples])
            for m in MODALITIES
        }
        labels = torch.tensor([index[e.label] for e in examples])
        if self.config.task != "regression":
            return Targets(labels, polarities, weights)
        scores = torch.tensor([float(e.label) if e.score is None else e.score for e in examples])
        return Targets(labels, polarities, weights, scores, torch.tensor(self.config.class_values))

    def _class_weights(self, examples: Sequence[Example]) -> Tensor | None:
        """`(C,)`, a power of the inverse class frequency; None without class balance."""
        if not self.settings.class_balance or not examples:
            return None
        counts = np.bincount([self.config.classes.index(e.label) for e in examples], minlength=len(self.config.classes))
        weights = (counts.sum() / np.maximum(counts, 1)) ** self.settings.class_balance
        return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _blend(x: Tensor, valid: Tensor, groups: IntArray, largest: float, rng: np.random.Generator) -> Tensor:
    """Mix up to a share `largest` of another row into each row `(B, T, d)`, of the same group and length.

    Mixup (Zhang et al. 2018) of speakers or faces imitates new ones. Within one polarity the label stays valid. Rows of
    a negative group are not changed.
    """
    lengths = valid.sum(dim=1).numpy()
    partner = np.arange(len(groups))
    kinds = set(zip(groups[groups >= 0].tolist(), lengths[groups >= 0].tolist(), strict=True))
    for group, length in kinds:
        rows = np.flatnonzero((groups == group) & (lengths == length))
        partner[rows] = rng.permutation(rows)
    share = torch.from_numpy((rng.random(len(groups)) * largest).astype(np.float32))[:, None, None]
    return x + share * (x[torch.from_numpy(partner)] - x)


def _mask_span(valid: Tensor, largest: float, rng: np.random.Generator) -> Tensor:
    """Mask a random span of up to a share `largest` of the valid slots of each row `(B, T)`, never all of them."""
    lengths = valid.sum(dim=1).numpy()  # content starts at slot 0
    widths = (rng.random(len(lengths)) * largest * lengths).astype(np.int64)
    starts = (rng.random(len(lengths)) * (lengths - widths + 1)).astype(np.int64)
    slot = torch.arange(valid.shape[1])
    start, end = torch.from_numpy(starts)[:, None], torch.from_numpy(starts + widths)[:, None]
    return valid & ~((slot >= start) & (slot < end))
