"""Folds for cross-fitting: training and test parts are disjoint and cover the corpus."""

from collections.abc import Iterable

import numpy as np
import pytest

from model.modality import MODALITIES
from model.training.crossfit import FOLDS, HELD_OUT_VOICES, CrossFold, fold_of
from model.training.datasets import ravdess
from model.training.datasets.base import SPLITS, ActionUnitMeansSource, Example, Source, TextSource, Unclassed
from model.training.datasets.composite import Composite2Corpus
from tests.support.corpus import write_composite2

T, A, V = MODALITIES
Content = Example | Unclassed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Composite2Corpus:
    return Composite2Corpus(write_composite2(tmp_path_factory.mktemp("crossfit"), rounds=2))


@pytest.fixture(scope="module", params=range(FOLDS))
def fold(request: pytest.FixtureRequest, corpus: Composite2Corpus) -> tuple[int, CrossFold]:
    return request.param, CrossFold(corpus, request.param)


def sources(examples: Iterable[Content]) -> set[Source]:
    return {source for example in examples for source in example.sources.values()}


def sentences(examples: Iterable[Example]) -> set[str]:
    return {s.text for s in sources(examples) if isinstance(s, TextSource)}


def voices(examples: Iterable[Content]) -> set[str]:
    """Corpora of the audio sources."""
    return {e.origins[A] for e in examples if A in e.sources}


def actors(examples: Iterable[Content]) -> set[str]:
    """Actors of the visual sources of RAVDESS."""
    found = set()
    for example in examples:
        if V in example.sources and example.origins[V] == ravdess.ORIGIN:
            source = example.sources[V]
            assert isinstance(source, ActionUnitMeansSource)
            found.add(source.clip.rpartition("-")[2])
    return found


def pictures(examples: Iterable[Content]) -> set[Source]:
    return {e.sources[V] for e in examples if V in e.sources and e.origins[V] != ravdess.ORIGIN}


def test_training_contains_nothing_of_the_test_part(fold: tuple[int, CrossFold]) -> None:
    number, part = fold
    tested = part.examples("test")
    trained: list[Content] = [*part.examples("train"), *part.unimodal("train"), *part.unclassed()]
    chosen: list[Content] = [*part.examples("val"), *part.unimodal("val")]
    assert tested
    for shown in (trained, chosen):
        assert not sources(tested) & sources(shown)
        assert not pictures(tested) & pictures(shown)
        assert HELD_OUT_VOICES[number] not in voices(shown)
    assert not sentences(tested) & sentences([*part.examples("train"), *part.examples("val")])
    assert not actors(tested) & actors(trained)
    assert voices(tested) == {HELD_OUT_VOICES[number]}


def test_validation_shares_nothing_with_training(fold: tuple[int, CrossFold]) -> None:
    _, part = fold
    trained: list[Content] = [*part.examples("train"), *part.unimodal("train"), *part.unclassed()]
    assert not sources(trained) & sources([*part.examples("val"), *part.unimodal("val")])


def test_the_test_parts_of_all_folds_cover_every_training_sentence(corpus: Composite2Corpus) -> None:
    parts = [CrossFold(corpus, number) for number in range(FOLDS)]
    tested = [sentences(part.examples("test")) for part in parts]
    assert set().union(*tested) == sentences(corpus.examples("train"))
    assert sum(map(len, tested)) == len(sentences(corpus.examples("train")))
    for part in parts:
        both = [*part.examples("train"), *part.examples("test")]
        assert {e.id for e in both} == {e.id for e in corpus.examples("train")}
        assert len(both) == len(corpus.examples("train"))


def test_every_part_uses_recordings_of_its_own_split_only(
    corpus: Composite2Corpus, fold: tuple[int, CrossFold]
) -> None:
    _, part = fold
    known = {r.signal.source for r in corpus.recordings() if r.split == "train"}
    for shown in (part.examples("train"), part.unimodal("train"), part.unclassed(), part.examples("test")):
        assert {s for s in sources(shown) if not isinstance(s, TextSource)} <= known
    later = {r.signal.source for r in corpus.recordings() if r.split == "val"}
    for shown in (part.examples("val"), part.unimodal("val")):
        assert {s for s in sources(shown) if not isinstance(s, TextSource)} <= later


def test_redrawn_pairs_use_only_content_of_the_training_part(fold: tuple[int, CrossFold]) -> None:
    _, part = fold
    known, clips = part.examples("train"), sources(part.unimodal("train"))
    drawn = [part.redraw(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for examples in drawn:
        assert [e.id for e in examples] == [e.id for e in known]
        assert [e.sources[T] for e in examples] == [e.sources[T] for e in known]
        assert {s for s in sources(examples) if not isinstance(s, TextSource)} <= clips


def test_labels_are_those_of_the_deciding_modalities(fold: tuple[int, CrossFold]) -> None:
    _, part = fold
    for split in ("train", "val", "test"):
        for example in part.examples(split):
            assert example.decided_by is not None
            carriers = example.modality_labels
            decided = (
                set(carriers.values())
                if example.decided_by == "congruent"
                else {
                    {"text": carriers[T], "voice": carriers[A], "face": carriers[V]}[name]
                    for name in example.decided_by.split("+")
                }
            )
            assert decided == {example.label}


def test_a_fold_is_reproducible(corpus: Composite2Corpus, fold: tuple[int, CrossFold]) -> None:
    number, part = fold
    again = CrossFold(corpus, number)
    assert part.name == f"composite2-fold{number}"
    assert part.classes == corpus.classes
    for split in SPLITS:
        assert part.examples(split) == again.examples(split)
        assert part.unimodal(split) == again.unimodal(split)
    assert part.examples("ood") == ()
    assert part.unimodal("test") == []


def test_the_fold_of_a_name_is_fixed() -> None:
    assert [fold_of(name) for name in ("01", "02", "a sentence", "stills/x.jpg")] == [0, 1, 2, 2]
    assert {fold_of(str(number)) for number in range(30)} == set(range(FOLDS))
