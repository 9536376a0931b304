"""Modalities, their subsets, and an utterance's features."""

import numpy as np
import pytest

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance

T, A, V = MODALITIES
ROW = np.ones((1, 3), dtype=np.float32)


def test_the_seven_subsets_are_all_different_and_the_largest_come_first() -> None:
    assert [len(s) for s in SUBSETS] == [3, 2, 2, 2, 1, 1, 1]
    assert len(set(SUBSETS)) == 7
    assert SUBSETS[0] == COMPLETE


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_a_subset_is_read_back_from_its_name(subset: ModalitySet) -> None:
    assert ModalitySet.parse(subset.name) == subset


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_what_is_present_and_what_is_missing_make_up_all_modalities_in_order(subset: ModalitySet) -> None:
    assert sorted((*subset, *subset.missing), key=MODALITIES.index) == list(MODALITIES)
    assert [m for m in MODALITIES if m in subset] == list(subset)
    assert subset.mask() == tuple(m in subset for m in MODALITIES)
    assert len(subset) + len(subset.missing) == 3
    assert subset.complete == (not subset.missing)


def test_names_follow_the_order_of_modalities_not_of_arguments() -> None:
    assert ModalitySet.of(V, T).name == "text+visual"


def test_presence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no modality is present"):
        ModalitySet.of()


@pytest.mark.parametrize("name", ["", "smell", "text+smell", "text,audio"])
def test_a_name_that_is_no_modality_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid Modality"):
        ModalitySet.parse(name)


def test_an_utterance_knows_what_it_has() -> None:
    assert Utterance({V: ROW, T: ROW}).presence == ModalitySet.of(T, V)


def test_an_utterance_needs_something() -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        Utterance({})


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 2, 3)])
def test_features_that_are_not_slots_by_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"audio features must be \(T, d\)"):
        Utterance({A: np.ones(shape, dtype=np.float32)})


def test_an_utterance_cannot_be_changed_through_the_mapping_it_was_made_from() -> None:
    features = {T: ROW}
    utterance = Utterance(features)
    features[A] = ROW
    assert utterance.presence == ModalitySet.of(T)
    with pytest.raises(TypeError):
        utterance.features[A] = ROW  # type: ignore[index]  # the type forbids it as well


def test_keeping_some_modalities_leaves_the_others_out() -> None:
    whole = Utterance({T: ROW, A: 2 * ROW, V: 3 * ROW})
    kept = whole.keep([V, T])
    assert kept.presence == ModalitySet.of(T, V)
    assert kept.features[V] is whole.features[V]


def test_what_is_not_there_cannot_be_kept() -> None:
    with pytest.raises(KeyError):
        Utterance({T: ROW}).keep([Modality.AUDIO])
