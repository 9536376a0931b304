from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality, ModalitySet
from model.training.datasets.base import SPLITS, ActionUnitMeansSource, SoundSource
from model.training.datasets.recordings import (
    FacesCorpus,
    SingleModalityCorpus,
    VoicesCorpus,
    read_stills,
    read_voices,
)
from tests.support.corpus import real_data, spoil, write_composite, write_csv, write_faces, write_voices

A, V = Modality.AUDIO, Modality.VISUAL
INDEX, STILLS = "voices/index.csv", "faces/stills.csv"
COUNTS = {
    A: {
        "train": {"ravdess": 28, "nemo": 20, "emotiontts_kr": 8},
        "val": {"ravdess": 14, "nemo": 10, "emotiontts_kr": 8},
        "test": {"ravdess": 14, "nemo": 10, "emotiontts_kr": 8},
        "ood": {"emovo": 8},
    },
    V: {
        "train": {"ravdess": 28, "stills": 18},
        "val": {"ravdess": 14, "stills": 9},
        "test": {"ravdess": 14, "stills": 9},
        "ood": {},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(write_voices(write_composite(tmp_path_factory.mktemp("data"), rounds=1)))


@pytest.fixture(scope="module")
def voices(data: Path) -> VoicesCorpus:
    return VoicesCorpus(data)


@pytest.fixture(scope="module")
def faces(data: Path) -> FacesCorpus:
    return FacesCorpus(data)


@pytest.fixture(params=[A, V])
def modality(request: pytest.FixtureRequest) -> Modality:
    return Modality(request.param)


@pytest.fixture
def corpus(modality: Modality, voices: VoicesCorpus, faces: FacesCorpus) -> SingleModalityCorpus:
    return voices if modality == A else faces


def test_parts_have_the_recordings_of_their_corpora(corpus: SingleModalityCorpus, modality: Modality) -> None:
    counts = {split: Counter(e.origins[modality] for e in corpus.examples(split)) for split in SPLITS}
    assert counts == COUNTS[modality]


def test_ids_are_unique(corpus: SingleModalityCorpus) -> None:
    ids = [e.id for split in SPLITS for e in corpus.examples(split)]
    assert len(set(ids)) == len(ids)


def test_emotions_have_one_name_and_polarity_in_all_corpora(corpus: SingleModalityCorpus, modality: Modality) -> None:
    found = {(e.emotions[modality], e.label) for split in SPLITS for e in corpus.examples(split)}
    assert sorted(emotion for emotion, _ in found) == [
        "angry",
        "calm",
        "disgust",
        "fearful",
        "happy",
        "neutral",
        "sad",
    ]


def test_surprised_training_recordings_are_unclassed(corpus: SingleModalityCorpus, modality: Modality) -> None:
    expected = {A: {"ravdess": 4, "nemo": 4}, V: {"ravdess": 4, "stills": 3}}[modality]
    assert Counter(other.origins[modality] for other in corpus.unclassed()) == expected
    assert all(other.emotions == {modality: "surprised"} for other in corpus.unclassed())
    without = {recording.split for recording in corpus.recordings.values() if recording.signal.polarity is None}
    assert without == {"train", "val", "test"}


def test_single_modality_corpora_have_nothing_to_redraw(corpus: SingleModalityCorpus) -> None:
    assert corpus.redraw(np.random.default_rng(0)) == corpus.examples("train")
    assert corpus.unimodal("train") == ()


def test_a_voice_example_is_labelled_with_its_polarity(voices: VoicesCorpus, data: Path) -> None:
    example = next(e for e in voices.examples("ood") if "joy" in e.id)
    assert example.id == "audio:voices/emovo/f1_joy_1.flac"
    assert example.presence == ModalitySet.of(A)
    assert example.sources == {A: SoundSource(data / "voices" / "emovo" / "f1_joy_1.flac")}
    assert (example.label, example.modality_labels, example.emotions) == ("positive", {A: "positive"}, {A: "happy"})
    assert (example.origins, example.decided_by) == ({A: "emovo"}, None)


def test_a_face_example_is_labelled_with_its_polarity(faces: FacesCorpus) -> None:
    example = next(e for e in faces.examples("train") if "fear" in e.id)
    source = example.sources[V]
    assert example.id == "visual:stills/expw/train_fear_0.jpg"
    assert example.presence == ModalitySet.of(V)
    assert isinstance(source, ActionUnitMeansSource)
    assert source.clip == "stills/expw/train_fear_0.jpg"
    assert (example.label, example.modality_labels, example.emotions) == ("negative", {V: "negative"}, {V: "fearful"})
    assert (example.origins, example.decided_by) == ({V: "stills"}, None)


def test_action_units_are_ordered_by_name_not_by_the_file(tmp_path: Path) -> None:
    columns = (*ACTION_UNIT_COLUMNS[::-1], "id", "source", "emotion", "polarity", "split")
    units: dict[str, object] = {unit: index for index, unit in enumerate(ACTION_UNIT_COLUMNS)}
    labels: dict[str, object] = {"id": "a", "source": "RAF-DB", "emotion": "sad", "polarity": "negative"}
    write_csv(tmp_path / "stills.csv", columns, [units | labels | {"split": "val"}])
    source = read_stills(tmp_path / "stills.csv")["stills/a"].signal.source
    assert source == ActionUnitMeansSource("stills/a", tuple(map(float, range(35))))


def test_clips_have_the_speaker_of_the_index(voices: VoicesCorpus) -> None:
    clip = voices.recordings["voices/nemo/AA_fear_2.flac"]
    assert (clip.speaker, clip.split, clip.signal.emotion) == ("nemo_AA", "train", "fearful")
    clip = voices.recordings["ravdess/03-01-04-01-01-02-17"]
    assert (clip.speaker, clip.split, clip.signal.emotion) == ("ravdess_17", "val", "sad")


def test_clips_of_actors_outside_the_parts_are_left_out(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "ravdess/au_mean.csv", "03-01-01-01-01-01-01", "03-01-01-01-01-01-24")
    actor = folder / "ravdess" / "Actor_24"
    actor.mkdir()
    (folder / "ravdess" / "Actor_01" / "03-01-01-01-01-01-01.flac").rename(actor / "03-01-01-01-01-01-24.flac")
    corpus = VoicesCorpus(folder)
    assert len(corpus.examples("train")) == sum(COUNTS[A]["train"].values()) - 1
    assert "ravdess/03-01-01-01-01-01-24" not in corpus.recordings


@pytest.mark.parametrize(
    ("file", "old", "new", "line", "detail"),
    [
        (INDEX, ",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        (INDEX, ",angry,negative,", ",grumpy,negative,", 2, "unknown emotion 'grumpy'"),
        (INDEX, ",negative,train,", ",negative,exam,", 2, "unknown split 'exam'; known are train, val, test, ood"),
        (INDEX, "AA_angry_1.flac", "AA_angry_9.flac", 2, "file 'nemo/AA_angry_9.flac' does not exist"),
        (INDEX, "nemo/AA_angry_1.flac", "nemo", 2, "file 'nemo' does not exist"),
        (INDEX, "nemo/AA_angry_1.flac", "../ravdess/au_mean.csv", 2, "lies outside the folder"),
        (INDEX, "nemo/AA_angry_1.flac", "/etc/hostname", 2, "lies outside the folder"),
        (INDEX, "nemo/AA_angry_1.flac", "", 2, "the file is empty"),
        (INDEX, "AA_angry_2.flac", "AA_angry_1.flac", 3, "file 'nemo/AA_angry_1.flac' is there twice"),
        (INDEX, "nemo,nemo/", " ,nemo/", 2, "the corpus is empty"),
        (INDEX, ",nemo_AA,", ",,", 2, "the speaker is empty"),
        (INDEX, ",nemo_CC,", ",nemo_AA,", 26, "speaker 'nemo_AA' is in the val split here, in train before"),
        (INDEX, "emovo,emovo/", "nemo,emovo/", 74, "corpus 'nemo' is ood here, but train before"),
        (INDEX, "speaker", "talker", 1, "missing column: speaker"),
        (INDEX, ",nemo_AA,", ",nemo_AA,x,", 2, "10 cells where the header has 9"),
        (STILLS, ",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        (STILLS, ",angry,negative,", ",grumpy,negative,", 2, "unknown emotion 'grumpy'"),
        (STILLS, ",negative,train,", ",negative,exam,", 2, "unknown split 'exam'"),
        (STILLS, "expw/train_angry_1.jpg", "expw/train_angry_0.jpg", 3, "id 'expw/train_angry_0.jpg' is there twice"),
        (STILLS, "expw/train_angry_0.jpg", "", 2, "the id is empty"),
        (STILLS, ",ExpW,", ",,", 2, "the source is empty"),
        (STILLS, ",0.975,0.", ",0.975,nan0.", 2, "column AU01_r holds no finite number"),
        (STILLS, ",0.975,0.", ",0.975,1_0.", 2, "column AU01_r holds no finite number"),
        (STILLS, ",0.975,0.", ",0.975,1e999", 2, "column AU01_r holds no finite number"),
        (STILLS, "AU28_c", "AU29_c", 1, "missing column: AU28_c"),
    ],
)
def test_errors_name_file_and_line(
    data: Path, tmp_path: Path, file: str, old: str, new: str, line: int, detail: str
) -> None:
    folder = spoil(data, tmp_path, file, old, new)
    with pytest.raises(CorpusError) as caught:
        (VoicesCorpus if file == INDEX else FacesCorpus)(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / file), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("corpus_class", "file"),
    [
        (VoicesCorpus, INDEX),
        (VoicesCorpus, "ravdess/au_mean.csv"),
        (FacesCorpus, STILLS),
        (FacesCorpus, "ravdess/au_mean.csv"),
    ],
)
def test_errors_name_a_missing_table(
    data: Path, tmp_path: Path, corpus_class: type[VoicesCorpus | FacesCorpus], file: str
) -> None:
    folder = spoil(data, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        corpus_class(folder)
    assert caught.value.path == str(folder / file)


def test_the_real_voices_have_their_published_counts() -> None:
    clips = read_voices(real("voices/index.csv") / "voices")
    assert len(clips) == 2485
    speakers = {(clip.signal.origin, clip.split, clip.speaker) for clip in clips.values()}
    counts = Counter((corpus, split) for corpus, split, _ in speakers)
    assert {split: counts["nemo", split] for split in SPLITS} == {"train": 6, "val": 1, "test": 2, "ood": 0}
    assert {split: counts["emotiontts_kr", split] for split in SPLITS} == {"train": 11, "val": 2, "test": 2, "ood": 0}


def test_real_unseen_corpora_are_in_no_other_part() -> None:
    corpus = VoicesCorpus(real("voices/index.csv"))
    assert [len(corpus.examples(split)) for split in SPLITS] == [1794, 269, 394, 868]
    assert Counter(e.origins[A] for e in corpus.examples("ood")) == {"emovo": 268, "turev": 300, "urdu": 300}
    seen = {e.origins[A] for split in SPLITS if split != "ood" for e in corpus.examples(split)}
    assert seen == {"ravdess", "nemo", "emotiontts_kr"}


def test_the_real_faces_have_their_published_counts() -> None:
    corpus = FacesCorpus(real("faces/stills.csv"))
    assert len([id_ for id_ in corpus.recordings if id_.startswith("stills/")]) == 13_507
    assert [len(corpus.examples(split)) for split in SPLITS] == [11_843, 835, 906, 0]
    expw = [recording for recording in corpus.recordings.values() if recording.id.startswith("stills/expw/")]
    assert {(recording.split, recording.signal.polarity) for recording in expw} == {("train", "negative")}

    def smile(emotion: str) -> float:
        faces = [r.signal for r in corpus.recordings.values() if r.id.startswith("stills/rafdb/")]
        shown = [s.source.values for s in faces if s.emotion == emotion and isinstance(s.source, ActionUnitMeansSource)]
        return float(np.mean([values[ACTION_UNIT_COLUMNS.index("AU12_r")] for values in shown]))

    assert smile("happy") > 5 * smile("neutral")


def real(file: str) -> Path:
    folder = real_data()
    if not (folder / file).is_file():
        pytest.skip(f"no {file} in the folder of real corpora")
    return folder
