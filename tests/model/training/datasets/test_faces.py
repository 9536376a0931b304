from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import Modality, ModalitySet
from model.training.datasets.base import ActionUnitMeansSource
from model.training.datasets.faces import FacesCorpus, read_stills
from model.training.datasets.ravdess import ACTION_UNITS
from model.training.datasets.signals import SPLITS
from tests.support.corpus import real_data, spoil, write_composite, write_csv, write_faces

V = Modality.VISUAL


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(write_composite(tmp_path_factory.mktemp("data"), rounds=1))


@pytest.fixture(scope="module")
def corpus(data: Path) -> FacesCorpus:
    return FacesCorpus(data)


def test_every_part_has_the_faces_of_its_corpora(corpus: FacesCorpus) -> None:
    assert {split: Counter(e.origins[V] for e in corpus.examples(split)) for split in SPLITS} == {
        "train": {"ravdess": 28, "stills": 18},
        "val": {"ravdess": 14, "stills": 9},
        "test": {"ravdess": 14, "stills": 9},
        "ood": {},
    }


def test_an_example_is_a_face_alone_labelled_with_its_polarity(corpus: FacesCorpus) -> None:
    example = next(e for e in corpus.examples("train") if "fear" in e.id)
    source = example.sources[V]
    assert example.id == "visual:stills/expw/train_fear_0.jpg"
    assert example.presence == ModalitySet.of(V)
    assert isinstance(source, ActionUnitMeansSource)
    assert source.clip == "stills/expw/train_fear_0.jpg"
    assert (example.label, example.modality_labels, example.emotions) == ("negative", {V: "negative"}, {V: "fearful"})
    assert (example.origins, example.decided_by) == ({V: "stills"}, None)


def test_action_units_are_in_the_order_of_ravdess_whatever_that_of_the_file(tmp_path: Path) -> None:
    columns = (*ACTION_UNITS[::-1], "id", "source", "emotion", "polarity", "split")
    units: dict[str, object] = {unit: index for index, unit in enumerate(ACTION_UNITS)}
    labels: dict[str, object] = {"id": "a", "source": "RAF-DB", "emotion": "sad", "polarity": "negative"}
    write_csv(tmp_path / "stills.csv", columns, [units | labels | {"split": "val"}])
    source = read_stills(tmp_path / "stills.csv")["stills/a"].signal.source
    assert source == ActionUnitMeansSource("stills/a", tuple(map(float, range(35))))


def test_ids_are_unique(corpus: FacesCorpus) -> None:
    ids = [e.id for split in SPLITS for e in corpus.examples(split)]
    assert len(set(ids)) == len(ids)


def test_an_emotion_has_one_name_in_all_corpora(corpus: FacesCorpus) -> None:
    told = {e.emotions[V] for split in SPLITS for e in corpus.examples(split)}
    assert told == {"angry", "happy", "sad", "fearful", "disgust", "neutral", "calm"}


def test_surprised_training_faces_are_beside_the_examples(corpus: FacesCorpus) -> None:
    assert Counter(other.origins[V] for other in corpus.unclassed()) == {"ravdess": 4, "stills": 3}
    assert all(other.emotions == {V: "surprised"} for other in corpus.unclassed())


def test_there_is_nothing_to_redraw_and_nothing_beside_the_examples(corpus: FacesCorpus) -> None:
    assert corpus.redraw(np.random.default_rng(0)) == corpus.examples("train")
    assert corpus.unimodal("train") == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "detail"),
    [
        (",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        (",angry,negative,", ",grumpy,negative,", 2, "unknown emotion 'grumpy'"),
        (",negative,train,", ",negative,exam,", 2, "unknown split 'exam'"),
        ("expw/train_angry_1.jpg", "expw/train_angry_0.jpg", 3, "id 'expw/train_angry_0.jpg' is there twice"),
        ("expw/train_angry_0.jpg", "", 2, "the id is empty"),
        (",ExpW,", ",,", 2, "the source is empty"),
        (",0.975,0.", ",0.975,nan0.", 2, "column AU01_r holds no finite number"),
        (",0.975,0.", ",0.975,1_0.", 2, "column AU01_r holds no finite number"),
        (",0.975,0.", ",0.975,1e999", 2, "column AU01_r holds no finite number"),
        ("AU28_c", "AU29_c", 1, "missing column: AU28_c"),
    ],
)
def test_a_fault_is_named_by_file_and_line(
    data: Path, tmp_path: Path, old: str, new: str, line: int, detail: str
) -> None:
    folder = spoil(data, tmp_path, "faces/stills.csv", old, new)
    with pytest.raises(CorpusError) as caught:
        FacesCorpus(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / "faces" / "stills.csv"), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize("file", ["faces/stills.csv", "ravdess/au_mean.csv"])
def test_a_missing_table_is_named(data: Path, tmp_path: Path, file: str) -> None:
    folder = spoil(data, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        FacesCorpus(folder)
    assert caught.value.path == str(folder / file)


def test_the_real_faces_have_their_published_counts() -> None:
    folder = real_data()
    if not (folder / "faces" / "stills.csv").is_file():
        pytest.skip("no faces/stills.csv in the folder of real corpora")
    corpus = FacesCorpus(folder)
    assert len([id_ for id_ in corpus.recordings if id_.startswith("stills/")]) == 13_507
    assert [len(corpus.examples(split)) for split in SPLITS] == [11_843, 835, 906, 0]
    expw = [recording for recording in corpus.recordings.values() if recording.id.startswith("stills/expw/")]
    assert {(recording.split, recording.signal.polarity) for recording in expw} == {("train", "negative")}

    def smile(emotion: str) -> float:
        faces = [r.signal for r in corpus.recordings.values() if r.id.startswith("stills/rafdb/")]
        shown = [s.source.values for s in faces if s.emotion == emotion and isinstance(s.source, ActionUnitMeansSource)]
        return float(np.mean([values[ACTION_UNITS.index("AU12_r")] for values in shown]))

    assert smile("happy") > 5 * smile("neutral")
