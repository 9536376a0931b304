from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError
from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import SPLITS, ActionUnitMeansSource, Example, SoundSource, TextSource
from model.training.datasets.composite import CARRIERS
from model.training.datasets.composite_emotions import EMOTION_MAPS, EmotionCompositeCorpus
from model.training.datasets.ravdess import parse_clip_name
from tests.support.corpus import real_data, spoil, write_composite

T, A, V = Modality
CLASSES = {
    2: ("negative", "positive"),
    4: ("angry", "happy", "neutral", "sad"),
    7: ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_composite(tmp_path_factory.mktemp("data"), rounds=20)


@pytest.fixture(scope="module")
def corpora(data: Path) -> dict[int, EmotionCompositeCorpus]:
    return {classes: EmotionCompositeCorpus(data, classes=classes) for classes in EMOTION_MAPS}


@pytest.fixture(params=CLASSES)
def corpus(request: pytest.FixtureRequest, corpora: dict[int, EmotionCompositeCorpus]) -> EmotionCompositeCorpus:
    return corpora[request.param]


def everything(corpus: EmotionCompositeCorpus) -> list[Example]:
    fixed = [example for split in SPLITS for example in corpus.examples(split)]
    return [*fixed, *corpus.redraw(np.random.default_rng(0))]


def sentences(examples: Iterable[Example]) -> list[str]:
    return [source.text for e in examples if isinstance(source := e.sources[T], TextSource)]


def test_classes_are_those_of_the_table() -> None:
    assert {n: tuple(sorted(set(classes.values()))) for n, classes in EMOTION_MAPS.items()} == CLASSES


def test_exactly_the_carriers_have_the_class_of_the_label(corpus: EmotionCompositeCorpus) -> None:
    classes = EMOTION_MAPS[len(corpus.classes)]
    for example in everything(corpus):
        assert example.label in corpus.classes
        assert example.decided_by is not None
        for modality in Modality:
            emotion = example.emotions[modality]
            if modality in CARRIERS[example.decided_by]:
                assert classes[emotion] == example.label
            else:
                assert emotion in {"neutral", "calm"}
            assert example.modality_labels.get(modality) == classes.get(emotion)


def test_voice_and_face_are_of_one_actor_of_the_part(corpus: EmotionCompositeCorpus) -> None:
    for split in SPLITS[:3]:
        assert corpus.examples(split)
        for example in corpus.examples(split):
            voice, face = example.sources[A], example.sources[V]
            assert isinstance(voice, SoundSource)
            assert isinstance(face, ActionUnitMeansSource)
            names = parse_clip_name(voice.path.stem), parse_clip_name(face.clip)
            assert {name.actor for name in names} <= set(ravdess.ACTORS[split])
            assert names[0].actor == names[1].actor
            assert (names[0] == names[1]) is (example.decided_by not in {"voice", "face"})


def test_emotion_corpus_is_the_same_whenever_it_is_opened(data: Path, corpus: EmotionCompositeCorpus) -> None:
    again = EmotionCompositeCorpus(data, classes=len(corpus.classes))
    assert [again.examples(split) for split in SPLITS] == [corpus.examples(split) for split in SPLITS]


def test_redrawing_keeps_every_sentence_of_the_part(corpus: EmotionCompositeCorpus) -> None:
    first, second = (corpus.redraw(np.random.default_rng(seed)) for seed in (1, 2))
    assert corpus.redraw(np.random.default_rng(1)) == first != second
    for drawn in (first, second):
        assert [e.id for e in drawn] == [e.id for e in corpus.examples("train")]
        assert sentences(drawn) == sentences(corpus.examples("train"))


def test_pairings_have_the_frequencies_of_the_training_file(corpora: dict[int, EmotionCompositeCorpus]) -> None:
    # Of seven neutral sentences of MELD in that file one is paired by voice and two each by the other three kinds.
    expected = {
        2: {"voice+face": 2 / 5, "voice": 1 / 5, "face": 2 / 5},
        4: {"congruent": 2 / 7, "voice+face": 2 / 7, "voice": 1 / 7, "face": 2 / 7},
    }
    for classes, shares in expected.items():
        drawn = [e for seed in range(20) for e in corpora[classes].redraw(np.random.default_rng(seed))]
        kinds = Counter(e.decided_by for e in drawn if e.emotions[T] == "neutral")
        assert {k: n / kinds.total() for k, n in kinds.items()} == pytest.approx(shares, abs=0.05)
        others = Counter(e.decided_by for e in drawn if e.emotions[T] != "neutral")
        assert others["congruent"] / others.total() == pytest.approx(3 / 5, abs=0.05)
        labels = Counter(e.label for e in drawn if e.emotions[T] == "neutral" and e.label != "neutral")
        assert set(labels) == set(CLASSES[classes]) - {"neutral"}
        assert min(labels.values()) / max(labels.values()) > 0.85


@pytest.mark.parametrize(("classes", "label"), [(2, "negative"), (4, None), (7, "fearful")])
def test_sentence_of_another_emotion_has_its_class_or_is_left_out(
    data: Path, tmp_path: Path, classes: int, label: str | None
) -> None:
    # The first sentence of the file is angry.
    changed = EmotionCompositeCorpus(spoil(data, tmp_path, "meld/train_sent_emo.csv", "anger", "fear"), classes=classes)
    before = EmotionCompositeCorpus(data, classes=classes).examples("train")
    found = {e.id: e for e in changed.examples("train")}
    assert len(found) == len(before) - (label is None)
    assert (found[before[0].id].label if before[0].id in found else None) == label


def test_sentences_of_mosi_and_ravdess_are_left_out(corpus: EmotionCompositeCorpus) -> None:
    assert {e.origins[T] for e in everything(corpus)} == {"meld"}
    assert {e.origins[A] for e in everything(corpus)} == {"ravdess"}


def test_class_without_a_clip_in_a_part_is_an_error(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "ravdess/au_mean.csv", "clip", "clip")
    for sound in (folder / "ravdess" / "Actor_19").glob("03-01-08-*"):
        sound.unlink()
    assert EmotionCompositeCorpus(folder, classes=4).examples("test")
    with pytest.raises(ConfigError) as error:
        EmotionCompositeCorpus(folder, classes=7)
    assert "no actor of the test part has clips that are" in str(error.value)
    assert "surprised" in str(error.value)


def test_training_part_without_neutral_sentences_is_an_error(tmp_path: Path) -> None:
    folder = write_composite(tmp_path, rounds=1)
    path = folder / "composite" / "train.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "tuesday" not in line), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        EmotionCompositeCorpus(folder, classes=4)
    assert "lacks pairings of neutral sentences" in str(error.value)


def test_real_corpora_have_the_documented_sizes() -> None:
    folder = real_data()
    for classes, sizes in {2: (8784, 492, 467), 4: (8245, 453, 444), 7: (9989, 569, 540)}.items():
        corpus = EmotionCompositeCorpus(folder, classes=classes)
        assert tuple(len(corpus.examples(split)) for split in SPLITS[:3]) == sizes
        assert {e.label for split in SPLITS[:3] for e in corpus.examples(split)} == set(CLASSES[classes])
