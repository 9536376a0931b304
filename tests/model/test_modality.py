"""Modalities, their subsets, and the features of an utterance."""

import numpy as np
import pytest

from model.modality import COMPLETE, MODALITIES, PAIRS, SINGLES, SUBSETS, Modality, ModalitySet, Utterance

T, A, V = MODALITIES
ROW = np.ones((1, 3), dtype=np.float32)


def test_subsets_are_distinct_and_ordered_by_size() -> None:
    assert [len(s) for s in SUBSETS] == [3, 2, 2, 2, 1, 1, 1]
    assert len(set(SUBSETS)) == 7
    assert SUBSETS[0] == COMPLETE


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_subset_is_parsed_from_its_name(subset: ModalitySet) -> None:
    assert ModalitySet.parse(subset.name) == subset


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_present_and_missing_modalities_are_complementary_and_ordered(subset: ModalitySet) -> None:
    assert sorted((*subset, *subset.missing), key=MODALITIES.index) == list(MODALITIES)
    assert [m for m in MODALITIES if m in subset] == list(subset)
    assert subset.mask() == tuple(m in subset for m in MODALITIES)
    assert len(subset) + len(subset.missing) == 3
    assert subset.complete == (not subset.missing)


def test_subsets_have_distinct_numbers_and_masks() -> None:
    assert {subset.number for subset in SUBSETS} == set(range(1, 8))
    assert [ModalitySet.from_mask(subset.mask()) for subset in SUBSETS] == list(SUBSETS)
    assert [*PAIRS, *SINGLES] == list(SUBSETS[1:])


def test_name_follows_the_order_of_modalities() -> None:
    assert ModalitySet.of(V, T).name == "text+visual"


def test_empty_set_is_rejected() -> None:
    with pytest.raises(ValueError, match="no modality is present"):
        ModalitySet.of()


@pytest.mark.parametrize("name", ["", "smell", "text+smell", "text,audio"])
def test_unknown_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid Modality"):
        ModalitySet.parse(name)


def test_presence_follows_from_the_features() -> None:
    assert Utterance({V: ROW, T: ROW}).presence == ModalitySet.of(T, V)


def test_utterance_without_modality_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        Utterance({})


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 2, 3)])
def test_features_of_another_shape_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"audio features must be \(T, d\)"):
        Utterance({A: np.ones(shape, dtype=np.float32)})


def test_utterance_does_not_share_its_mapping() -> None:
    features = {T: ROW}
    utterance = Utterance(features)
    features[A] = ROW
    assert utterance.presence == ModalitySet.of(T)
    with pytest.raises(TypeError):
        utterance.features[A] = ROW  # type: ignore[index]  # the type forbids it as well


def test_keep_removes_the_other_modalities() -> None:
    whole = Utterance({T: ROW, A: 2 * ROW, V: 3 * ROW})
    kept = whole.keep([V, T])
    assert kept.presence == ModalitySet.of(T, V)
    assert kept.features[V] is whole.features[V]


def test_missing_modality_cannot_be_kept() -> None:
    with pytest.raises(KeyError):
        Utterance({T: ROW}).keep([Modality.AUDIO])
