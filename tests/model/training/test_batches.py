"""Batches of an epoch: reproducible draws, augmentation, missing patterns and targets."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, MODALITIES, ModalitySet
from model.network.batch import Batch
from model.network.losses import IGNORED
from model.training.batches import BatchSource, TrainingBatch
from model.training.datasets.base import Example, SoundSource, Source, TextSource
from model.types import FloatArray
from tests.support.network import tiny_config
from tests.support.training import CONFIG, tiny_training, toy

T, A, V = MODALITIES
CORPUS, FEATURES = toy(train=40)
EXAMPLES = CORPUS.parts["train"]
KEPT: dict[str, Any] = {"text_exchange": 0, "audio_exchange": 0, "visual_exchange": 0}
PLAIN: dict[str, Any] = {"audio_noise": 0, "visual_noise": 0, "blend": 0, "time_mask": 0, "word_dropout": 0, **KEPT}


def source_of(seed: int = 0, features: dict[Source, FloatArray] | None = None, **settings: Any) -> BatchSource:
    return BatchSource(CONFIG, tiny_training(**settings), FEATURES if features is None else features, seed)


def same(one: TrainingBatch, other: TrainingBatch) -> bool:
    def tensors(item: TrainingBatch) -> list[torch.Tensor]:
        batch = item.batch
        return [*batch.features.values(), *batch.valid.values(), batch.held, batch.present, item.targets.labels]

    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    first, again = (list(source_of(seed=3).epoch(EXAMPLES, 5)) for _ in range(2))
    assert len(first) == 3  # 16 + 16 + 8 of 40
    assert all(same(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 6), (4, 5)])
def test_another_seed_or_epoch_draws_anew(seed: int, epoch: int) -> None:
    first, other = next(source_of(seed=3).epoch(EXAMPLES, 5)), next(source_of(seed=seed).epoch(EXAMPLES, epoch))
    assert not same(first, other)


def test_every_example_is_used_once_per_epoch() -> None:
    batches = list(source_of(**PLAIN).epoch(EXAMPLES, 0))
    assert [b.batch.size for b in batches] == [16, 16, 8]
    seen = [row.sum().item() for b in batches for row in b.batch.features[V][:, 0]]
    expected = [float(FEATURES[e.sources[V]].sum()) for e in EXAMPLES]
    np.testing.assert_allclose(sorted(seen), sorted(expected), atol=1e-3)
    assert not np.allclose(seen, expected, atol=1e-3)  # in a random order


def test_length_buckets_batch_utterances_of_similar_length_once_each() -> None:
    plain = [item.batch for item in source_of(**PLAIN).epoch(EXAMPLES, 0)]
    sorted_by_length = [item.batch for item in source_of(**PLAIN, length_bucket=3).epoch(EXAMPLES, 0)]

    def padding(batches: list[Batch]) -> int:
        return sum(int((~batch.valid[m]).sum()) for batch in batches for m in (T, A))

    assert padding(sorted_by_length) < 0.85 * padding(plain)
    contents = [
        sorted(row.sum().item() for b in batches for row in b.features[V]) for batches in (plain, sorted_by_length)
    ]
    np.testing.assert_allclose(contents[0], contents[1])
    lengths = [float(batch.valid[A].sum(dim=1).float().mean()) for batch in sorted_by_length]
    orders = {
        tuple(
            np.argsort([float(b.batch.valid[A].sum()) for b in source_of(**PLAIN, length_bucket=3).epoch(EXAMPLES, n)])
        )
        for n in range(6)
    }
    assert len(set(lengths)) == 3
    assert len(orders) > 1  # the batches themselves come in a random order


def test_labels_stay_with_their_examples() -> None:
    by_content = {round(float(FEATURES[e.sources[V]].sum()), 2): CONFIG.classes.index(e.label) for e in EXAMPLES}
    for item in source_of(**PLAIN).epoch(EXAMPLES, 0):
        for row, label in zip(item.batch.features[V][:, 0], item.targets.labels.tolist(), strict=True):
            assert by_content[round(row.sum().item(), 2)] == label


@pytest.mark.parametrize("epoch", range(3))
def test_cls_is_never_masked_and_no_modality_is_masked_completely(epoch: int) -> None:
    for item in source_of(word_dropout=0.95, time_mask=0.95).epoch(EXAMPLES, epoch):
        batch = item.batch
        assert batch.valid[T][:, 0].all()
        for modality in MODALITIES:
            assert batch.valid[modality].any(dim=1).all()


def test_text_slots_are_dropped_in_the_given_share() -> None:
    def words(**settings: Any) -> int:
        return sum(
            int(b.batch.valid[T][:, 1:].sum()) for n in range(5) for b in source_of(**settings).epoch(EXAMPLES, n)
        )

    assert words(word_dropout=0.4) / words(word_dropout=0.0) == pytest.approx(0.6, abs=0.05)


def test_audio_is_masked_in_one_span_of_limited_length() -> None:
    hidden = 0
    for plain, masked in zip(
        source_of(**PLAIN).epoch(EXAMPLES, 0), source_of(**{**PLAIN, "time_mask": 0.6}).epoch(EXAMPLES, 0), strict=True
    ):
        before, after = plain.batch.valid[A], masked.batch.valid[A]
        assert not (after & ~before).any()
        for row_before, row_after in zip(before, after, strict=True):
            gone = torch.nonzero(row_before & ~row_after).flatten().tolist()
            assert gone == list(range(gone[0], gone[-1] + 1)) if gone else True
            assert len(gone) <= 0.6 * int(row_before.sum())
            hidden += len(gone)
    assert hidden > 20


def test_noise_is_added_to_audio_and_visual_but_not_text() -> None:
    clean = next(source_of(**PLAIN).epoch(EXAMPLES, 0)).batch
    noisy = next(source_of(**{**PLAIN, "audio_noise": 0.5, "visual_noise": 0.2}).epoch(EXAMPLES, 0)).batch
    assert torch.equal(noisy.features[T], clean.features[T])
    for modality, deviation in ((A, 0.5), (V, 0.2)):
        difference = (noisy.features[modality] - clean.features[modality])[clean.valid[modality]]
        assert difference.std().item() == pytest.approx(deviation, rel=0.1)


def test_audio_and_visual_blend_only_within_polarity_and_length() -> None:
    marked = [replace(e, modality_labels={A: e.label, V: e.label}) for e in EXAMPLES]
    clean = next(source_of(**PLAIN).epoch(marked, 0))
    blended = next(source_of(**{**PLAIN, "blend": 0.4}).epoch(marked, 0))
    assert torch.equal(blended.targets.labels, clean.targets.labels)
    assert torch.equal(blended.batch.features[T], clean.batch.features[T])
    changed = 0
    for modality in (A, V):
        own, lengths = clean.targets.modality_labels[modality], clean.batch.valid[modality].sum(dim=1)
        before, after = clean.batch.features[modality], blended.batch.features[modality]
        for row in range(clean.batch.size):
            if torch.equal(before[row], after[row]):
                continue
            changed += 1
            others = [
                n for n in range(clean.batch.size)
                if n != row and own[n] == own[row] and lengths[n] == lengths[row]
            ]  # fmt: skip
            # What was added points at one of them, at most 0.4 of the way.
            shares = [(after[row] - before[row]).norm() / (before[n] - before[row]).norm() for n in others]
            found = [
                torch.allclose(after[row], before[row] + share * (before[n] - before[row]), atol=1e-4)
                for n, share in zip(others, shares, strict=True)
            ]
            assert sum(found) == 1
            assert shares[found.index(True)] <= 0.4 + 1e-5
    assert changed > 10


def test_with_a_teacher_clips_of_different_polarities_may_blend() -> None:
    settings = tiny_training(**{**PLAIN, "taught_blend": 0.9})
    marked = [replace(e, modality_labels={A: e.label, V: e.label}) for e in EXAMPLES]
    clean = next(source_of(**PLAIN).epoch(marked, 0)).batch
    taught = next(BatchSource(CONFIG, settings, FEATURES, 0, taught=True).epoch(marked, 0))
    labels, before, after = taught.targets.labels, clean.features[V], taught.batch.features[V]
    across = 0
    for row in range(clean.size):
        others = [n for n in range(clean.size) if n != row and labels[n] != labels[row]]
        shares = [(after[row] - before[row]).norm() / (before[n] - before[row]).norm() for n in others]
        across += any(
            0 < share <= 0.9 + 1e-5
            and torch.allclose(after[row], before[row] + share * (before[n] - before[row]), atol=1e-4)
            for n, share in zip(others, shares, strict=True)
        )
    assert across > 5


def test_a_clip_of_unknown_polarity_is_not_blended() -> None:
    clean = next(source_of(**PLAIN).epoch(EXAMPLES, 0)).batch
    blended = next(source_of(**{**PLAIN, "blend": 0.4}).epoch(EXAMPLES, 0)).batch
    assert all(torch.equal(blended.features[m], clean.features[m]) for m in MODALITIES)


def test_missing_patterns_have_the_given_shares_and_stay_held() -> None:
    source = source_of(complete_share=0.2, one_missing_share=0.5)
    assert source.shares == pytest.approx((0.2, 0.5, 0.3))
    items = [item.batch for n in range(20) for item in source.epoch(EXAMPLES, n)]
    assert all(batch.held.all() for batch in items)
    lost = Counter(int(count) for batch in items for count in (~batch.present).sum(dim=1))
    assert set(lost) == {0, 1, 2}
    for count, share in ((0, 0.2), (1, 0.5), (2, 0.3)):
        assert lost[count] / lost.total() == pytest.approx(share, abs=0.08)


def faces_of(items: list[TrainingBatch]) -> list[list[float]]:
    return [item.batch.features[V][:, 0].sum(dim=1).tolist() for item in items]


def test_exchange_moves_the_given_share_of_one_modality_only() -> None:
    known = [replace(e, modality_labels={V: CONFIG.classes[n % 3]}) for n, e in enumerate(EXAMPLES)]
    polarity = {round(float(FEATURES[e.sources[V]].sum()), 2): n % 3 for n, e in enumerate(EXAMPLES)}
    moved = total = 0
    for epoch in range(10):
        plain = list(source_of(**PLAIN, complete_share=1, one_missing_share=0).epoch(known, epoch))
        settings = {**PLAIN, "visual_exchange": 0.5, "complete_share": 1, "one_missing_share": 0}
        exchanged = list(source_of(**settings).epoch(known, epoch))
        for one, other in zip(plain, exchanged, strict=True):
            assert torch.equal(one.targets.labels, other.targets.labels)
            for kept in (T, A):
                assert torch.equal(one.batch.features[kept], other.batch.features[kept])
        for before, after, item in zip(faces_of(plain), faces_of(exchanged), exchanged, strict=True):
            assert sorted(before) == pytest.approx(sorted(after))
            moved += sum(abs(a - b) > 1e-4 for a, b in zip(before, after, strict=True))
            total += len(before)
            # The polarity moves with the visual features.
            assert item.targets.modality_labels[V].tolist() == [polarity[round(face, 2)] for face in after]
    assert moved / total == pytest.approx(0.45, abs=0.1)  # half are drawn, and some of them fall to themselves


def test_single_or_missing_modalities_are_not_exchanged() -> None:
    settings: dict[str, Any] = {"complete_share": 0, "one_missing_share": 0.5}
    everything = dict.fromkeys(KEPT, 1.0)
    changed = 0
    for epoch in range(5):  # the first batch of each: the draws before it are the same
        one = next(source_of(**PLAIN, **settings).epoch(EXAMPLES, epoch))
        other = next(source_of(**{**PLAIN, **everything}, **settings).epoch(EXAMPLES, epoch))
        assert torch.equal(one.batch.present, other.batch.present)
        for column, modality in enumerate(MODALITIES):
            here = one.batch.present[:, column] & (one.batch.present.sum(dim=1) > 1)
            assert torch.equal(one.batch.features[modality][~here], other.batch.features[modality][~here])
            changed += int((one.batch.features[modality][here] != other.batch.features[modality][here]).sum())
    assert changed


def test_shares_that_add_up_to_one_are_never_negative() -> None:
    for complete in (0.1, 0.3, 0.7, 0.9):
        source = source_of(complete_share=complete, one_missing_share=1 - complete)
        assert source.shares == pytest.approx((complete, 1 - complete, 0.0))


def test_complete_mode_uses_complete_examples_without_missing_patterns() -> None:
    corpus, features = toy(train=14, mixed=True)
    items = list(source_of(features=features).epoch(corpus.parts["train"], 0, complete=True))
    assert sum(item.batch.size for item in items) == 2
    assert all(item.batch.present.all() for item in items)


def test_a_modality_that_an_example_lacks_is_not_held() -> None:
    corpus, features = toy(train=14, mixed=True)
    (item,) = source_of(features=features).epoch(corpus.parts["train"], 0)
    assert Counter(tuple(row) for row in item.batch.held.tolist()) == Counter(
        e.presence.mask() for e in corpus.parts["train"]
    )
    assert not (item.batch.present & ~item.batch.held).any()


def test_sources_and_examples_without_features_are_left_out() -> None:
    few = {s: x for s, x in FEATURES.items() if s in {EXAMPLES[0].sources[A], EXAMPLES[0].sources[V]}}
    (item,) = source_of(features=few).epoch(EXAMPLES, 0)
    assert item.batch.held.tolist() == [list(ModalitySet.of(A, V).mask())]


def test_no_example_makes_no_batch() -> None:
    assert list(source_of(features={}).epoch(EXAMPLES, 0)) == []


def test_known_polarities_of_modalities_are_targets() -> None:
    known = [replace(e, modality_labels={T: "positive"}) for e in EXAMPLES]
    for item in source_of().epoch(known, 0):
        assert set(item.targets.modality_labels[T].tolist()) == {2}
        assert set(item.targets.modality_labels[A].tolist()) == {IGNORED}


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_rare_classes_weigh_more(balance: float) -> None:
    uneven = [replace(e, label=CONFIG.classes[0 if n < 30 else 1 if n < 38 else 2]) for n, e in enumerate(EXAMPLES)]
    weights = next(source_of(class_balance=balance).epoch(uneven, 0)).targets.class_weights
    raised = np.array([(40 / count) ** balance for count in (30, 8, 2)])
    assert weights is not None
    np.testing.assert_allclose(weights, raised / raised.mean(), rtol=1e-5)


def test_without_balance_there_are_no_class_weights() -> None:
    assert next(source_of(class_balance=0).epoch(EXAMPLES, 0)).targets.class_weights is None


def test_variants_are_drawn_and_the_clip_replaces_missing_ones() -> None:
    clip = SoundSource(Path("clip"))
    values: dict[Source, FloatArray] = {
        SoundSource(clip.path, k): np.full((1, 33), k, dtype=np.float32) for k in range(3)
    }
    source = source_of(features=values, audio_variants=3, **PLAIN)
    example = Example("x", "neutral", {A: clip})
    drawn = Counter(
        int(item.batch.features[A][0, 0, 0]) for epoch in range(200) for item in source.epoch([example], epoch)
    )
    assert set(drawn) == {0, 1, 2}
    assert drawn[0] / 200 == pytest.approx(0.5, abs=0.12)  # itself, and in the third variant's place


def test_all_tensors_of_a_batch_move_to_a_device() -> None:
    item = next(source_of().epoch(EXAMPLES, 0))
    moved = item.to(torch.device("meta"))
    assert moved.targets.class_weights is not None
    tensors = [
        *moved.batch.features.values(), moved.batch.present, moved.targets.labels, moved.targets.class_weights,
        *moved.targets.modality_labels.values(),
    ]  # fmt: skip
    assert {t.device.type for t in tensors} == {"meta"}
    unweighted = replace(item, targets=replace(item.targets, class_weights=None))
    assert unweighted.to(torch.device("meta")).targets.class_weights is None


def test_batches_have_imputed_slots_for_modalities_that_may_be_missing() -> None:
    short = Example("x", "neutral", {T: TextSource("a"), A: SoundSource(Path("b"))})
    features: dict[Source, FloatArray] = {
        short.sources[T]: np.ones((1, 384), dtype=np.float32),
        short.sources[A]: np.ones((1, 33), dtype=np.float32),
    }
    (item,) = source_of(features=features).epoch([short], 0)
    assert [item.batch.valid[m].shape[1] for m in COMPLETE] == [4, 5, 1]


def test_a_regression_has_scores_in_the_order_of_the_rows() -> None:
    config = tiny_config(classes=("-1", "0", "1"), task="regression")
    examples = [replace(e, label=("-1", "0", "1")[n % 3], score=n / 40 - 0.5) for n, e in enumerate(EXAMPLES)]
    source = BatchSource(config, tiny_training(**KEPT), FEATURES, 0)
    for item in source.epoch(examples, 0):
        assert item.targets.scores is not None
        assert item.targets.class_values is not None
        assert item.targets.class_values.tolist() == [-1, 0, 1]
        assert item.targets.scores.tolist() == pytest.approx([e.score for e in item.examples])
        half = item.select(torch.arange(2)).to(torch.device("cpu"))
        assert half.targets.scores is not None
        assert half.targets.scores.tolist() == item.targets.scores[:2].tolist()


def test_a_classification_has_no_scores() -> None:
    assert next(source_of().epoch(EXAMPLES, 0)).targets.scores is None
