"""Pretraining of the audio and visual encoders on single clips."""

from collections import Counter

import numpy as np
import torch

from model.modality import MODALITIES, Modality
from model.network.emmr import EMMR
from model.network.losses import SoftTargets
from model.training.batches import BatchSource
from model.training.datasets.base import ActionUnitMeansSource, Example, SoundSource, TextSource
from model.training.pretraining import PRETRAINED, PretrainingTask, draw_clips, single_modality_examples
from tests.support.training import CONFIG, source_of, tiny_training, toy


def pair(number: int, voice: str, face: str, own: str) -> Example:
    return Example(
        id=str(number),
        label="negative",
        sources={
            Modality.TEXT: TextSource(f"sentence {number}"),
            Modality.AUDIO: source_of(Modality.AUDIO, voice),
            Modality.VISUAL: source_of(Modality.VISUAL, face),
        },
        modality_labels={Modality.AUDIO: own},
        emotions={Modality.AUDIO: "4"},
    )


def test_each_distinct_clip_with_features_is_one_example() -> None:
    examples = [pair(0, "a", "x", "positive"), pair(1, "a", "y", "positive"), pair(2, "silent", "x", "neutral")]
    features = {
        source_of(Modality.AUDIO, "a"): np.zeros((1, 33), dtype=np.float32),
        source_of(Modality.VISUAL, "x"): np.zeros((1, 35), dtype=np.float32),
        source_of(Modality.VISUAL, "y"): np.zeros((1, 35), dtype=np.float32),
    }
    alone = single_modality_examples(examples, features)
    assert [tuple(e.sources) for e in alone] == [(Modality.AUDIO,), (Modality.VISUAL,), (Modality.VISUAL,)]
    assert isinstance(alone[0].sources[Modality.AUDIO], SoundSource)
    assert isinstance(alone[1].sources[Modality.VISUAL], ActionUnitMeansSource)


def test_the_label_replaces_an_unknown_polarity() -> None:
    features = {
        source_of(Modality.AUDIO, "a"): np.zeros((1, 33), dtype=np.float32),
        source_of(Modality.VISUAL, "x"): np.zeros((1, 35), dtype=np.float32),
    }
    voice, face = single_modality_examples([pair(0, "a", "x", "positive")], features)
    assert (voice.label, face.label) == ("positive", "negative")
    assert (dict(voice.emotions), dict(face.emotions)) == ({Modality.AUDIO: "4"}, {})


def test_the_clips_of_a_corpus_and_modality_are_limited() -> None:
    sizes = {(Modality.AUDIO, "large"): 20, (Modality.AUDIO, "small"): 3, (Modality.VISUAL, "large"): 9}
    clips = [
        Example(
            f"{origin} {modality} {n}",
            "neutral",
            {modality: source_of(modality, f"{origin}{n}")},
            origins={modality: origin},
        )
        for (modality, origin), size in sizes.items()
        for n in range(size)
    ]
    drawn = draw_clips(clips, 5, np.random.default_rng(0))
    assert len({clip.id for clip in drawn}) == len(drawn)
    assert Counter((modality, clip.origins[modality]) for clip in drawn for modality in clip.sources) == {
        key: min(size, 5) for key, size in sizes.items()
    }
    again = [draw_clips(clips, 5, np.random.default_rng(seed)) for seed in (0, 1)]
    assert drawn == again[0]
    assert {clip.id for clip in drawn} != {clip.id for clip in again[1]}


def test_pretraining_reduces_its_loss_and_changes_only_encoders_and_heads() -> None:
    corpus, features = toy()
    clips = single_modality_examples(corpus.examples("train"), features)
    torch.manual_seed(0)
    network = EMMR(CONFIG)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    task = PretrainingTask(network, clips, tiny_training())
    optimiser = torch.optim.Adam(task.parameters(), lr=3e-3)
    source = BatchSource(CONFIG, tiny_training(), features, seed=0)
    means = []
    for epoch in range(12):
        losses = []
        for item in source.epoch(clips, epoch):
            loss = task(item)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        means.append(sum(losses) / len(losses))
    assert means[-1] < 0.6 * means[0]
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    allowed = (*PRETRAINED, "modality_pools.", "modality_heads.")
    assert all(name.startswith(allowed) for name in moved)
    assert all(any(name.startswith(prefix) for name in moved) for prefix in PRETRAINED)


def test_soft_targets_replace_labels_of_held_modalities() -> None:
    corpus, features = toy()
    clips = single_modality_examples(corpus.examples("train"), features)
    torch.manual_seed(0)
    network = EMMR(CONFIG).eval()
    task = PretrainingTask(network, clips, tiny_training()).eval()
    item = next(BatchSource(CONFIG, tiny_training(), features, seed=0).epoch(clips, 0))
    alone = {m: torch.rand(item.batch.size, 3).softmax(dim=1) for m in Modality}
    soft_targets = SoftTargets(answer=alone[Modality.TEXT], subsets={}, alone=alone)
    batch = item.batch
    described = network.describe(network.encoder.encode(batch.features, batch.valid, batch.held), batch.valid)
    expected = torch.zeros(())
    for modality in (Modality.AUDIO, Modality.VISUAL):
        rows = batch.held[:, MODALITIES.index(modality)]
        logits = network.modality_heads[modality](described[modality])[rows]
        expected = expected - (alone[modality][rows] * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(task(item, soft_targets), expected)
    assert not torch.allclose(task(item), task(item, soft_targets))
