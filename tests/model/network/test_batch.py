"""Padding utterances to a batch, and missing patterns."""

import numpy as np
import pytest
import torch

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.batch import Batch, collate
from tests.support.network import random_utterances, tiny_config

CONFIG = tiny_config()
T, A, V = MODALITIES
TEXT_ONLY = ModalitySet.of(T)


def sentence(slots: int) -> Utterance:
    return Utterance({T: np.full((slots, 384), slots, dtype=np.float32)})


def test_arrays_are_padded_and_masks_mark_content() -> None:
    batch = collate([sentence(2), sentence(5)], CONFIG)
    assert batch.size == 2
    assert batch.features[T].shape == (2, 5, 384)
    assert batch.valid[T].tolist() == [[True] * 2 + [False] * 3, [True] * 5]
    assert (batch.features[T][0, :2] == 2).all()
    assert (batch.features[T][1] == 5).all()


def test_collate_marks_everything_held_as_present() -> None:
    batch = collate(random_utterances(CONFIG, SUBSETS), CONFIG)
    assert batch.present.tolist() == [list(s.mask()) for s in SUBSETS]
    assert torch.equal(batch.present, batch.held)
    for column, modality in enumerate(MODALITIES):
        assert torch.equal(batch.valid[modality].any(dim=1), batch.held[:, column])


def test_missing_modality_is_padded_to_its_imputed_slots() -> None:
    batch = collate([sentence(1)], CONFIG)
    assert [batch.features[m].shape[1] for m in MODALITIES] == [1, 5, 1]
    assert not batch.valid[A].any()


def test_room_to_impute_pads_complete_utterances() -> None:
    utterance = Utterance({m: np.ones((1, CONFIG.feature_size(m)), dtype=np.float32) for m in MODALITIES})
    assert [collate([utterance], CONFIG).features[m].shape[1] for m in MODALITIES] == [1, 1, 1]
    padded = collate([utterance], CONFIG, room_to_impute=True)
    assert [padded.features[m].shape[1] for m in MODALITIES] == [4, 5, 1]
    assert [int(padded.valid[m].sum()) for m in MODALITIES] == [1, 1, 1]


def test_collate_requires_an_utterance() -> None:
    with pytest.raises(ValueError, match="nothing to collate"):
        collate([], CONFIG)


def test_collate_rejects_more_slots_than_the_config_has() -> None:
    with pytest.raises(ValueError, match="text: 13 slots, the config has 12"):
        collate([sentence(12), sentence(13)], CONFIG)


@pytest.mark.parametrize("modality", MODALITIES)
def test_collate_rejects_features_of_another_size(modality: Modality) -> None:
    with pytest.raises(ValueError, match=f"{modality}: 7 features a slot"):
        collate([Utterance({modality: np.ones((1, 7), dtype=np.float32)})], CONFIG)


def whole_batch() -> Batch:
    return collate(random_utterances(CONFIG, [COMPLETE, COMPLETE, TEXT_ONLY]), CONFIG)


def test_pattern_hides_held_modalities() -> None:
    batch = whole_batch()
    present = torch.tensor([COMPLETE.mask(), ModalitySet.of(A).mask(), TEXT_ONLY.mask()])
    hidden = batch.with_present(present)
    assert torch.equal(hidden.present, present)
    assert torch.equal(hidden.held, batch.held)
    assert hidden.features is batch.features


@pytest.mark.parametrize(
    "third", [ModalitySet.of(T, V).mask(), (False, False, False)], ids=["not held", "nothing left"]
)
def test_pattern_needs_held_modalities_and_leaves_one(third: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match="may only hide held modalities and must leave one"):
        whole_batch().with_present(torch.tensor([COMPLETE.mask(), COMPLETE.mask(), third]))


def test_select_keeps_the_order_of_rows() -> None:
    batch = whole_batch()
    chosen = batch.select(torch.tensor([2, 0]))
    assert chosen.size == 2
    for modality in MODALITIES:
        assert torch.equal(chosen.features[modality], batch.features[modality][[2, 0]])
        assert torch.equal(chosen.valid[modality], batch.valid[modality][[2, 0]])
    assert chosen.present.tolist() == [list(TEXT_ONLY.mask()), list(COMPLETE.mask())]


def test_whole_batch_moves_to_a_device() -> None:
    moved = whole_batch().to(torch.device("meta"))
    tensors = [*moved.features.values(), *moved.valid.values(), moved.held, moved.present]
    assert {t.device.type for t in tensors} == {"meta"}
