from collections import Counter
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import SPLITS, OpenFaceSource, SoundSource, TextSource
from model.training.datasets.iemocap import IemocapCorpus
from tests.support.native_corpora import write_iemocap

T, A, V = MODALITIES
DIALOGUE = "Ses01F_impro01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_iemocap(tmp_path_factory.mktemp("IEMOCAP_full_release"))


def test_an_utterance_has_its_sentence_sound_and_face(folder: Path) -> None:
    example = IemocapCorpus(folder, classes=4).examples("train")[0]
    assert (example.id, example.label) == (f"{DIALOGUE}_F000", "neutral")
    assert example.sources == {
        T: TextSource("This is neu."),
        A: SoundSource(folder / "Session1" / "sentences" / "wav" / DIALOGUE / f"{DIALOGUE}_F000.wav"),
        V: OpenFaceSource(folder / "openface" / f"{DIALOGUE}_F000.csv"),
    }


def test_a_face_that_does_not_exist_is_missing(folder: Path) -> None:
    assert IemocapCorpus(folder, classes=4).examples("train")[1].presence.name == "text+audio"


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (2, {"negative": 5, "positive": 2}),
        (4, {"angry": 1, "happy": 1, "neutral": 1, "sad": 1}),
        (7, dict.fromkeys(("angry", "excited", "frustrated", "happy", "neutral", "sad", "surprised"), 1)),
    ],
)
def test_the_papers_maps_select_and_group_the_emotions(folder: Path, classes: int, labels: dict[str, int]) -> None:
    corpus = IemocapCorpus(folder, classes=classes)
    assert corpus.name == f"iemocap-{classes}"
    assert corpus.classes == tuple(sorted(labels))
    assert Counter(example.label for example in corpus.examples("test")) == labels


def test_sessions_and_so_speakers_are_in_one_part_only(folder: Path) -> None:
    corpus = IemocapCorpus(folder, classes=2)
    sessions = {split: {example.id[:5] for example in corpus.examples(split)} for split in SPLITS}
    assert sessions == {"train": {"Ses01", "Ses02", "Ses03"}, "val": {"Ses04"}, "test": {"Ses05"}, "ood": set()}


EVALUATION = f"dialog/EmoEvaluation/{DIALOGUE}.txt"
TRANSCRIPT = f"dialog/transcriptions/{DIALOGUE}.txt"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (EVALUATION, f"{DIALOGUE}_F001\tfru", f"{DIALOGUE}_F001\tfrustrated", "line 7: unknown emotion 'frustrated'"),
        (EVALUATION, f"\t{DIALOGUE}_F001\tfru", f" {DIALOGUE}_F001 fru", "line 7: is no line"),
        (EVALUATION, "F001\tfru", "F000\tfru", f"line 7: {DIALOGUE}_F000 is there twice"),
        (TRANSCRIPT, f"{DIALOGUE}_F001 [", f"{DIALOGUE}_F901 [", f"line 7: {DIALOGUE}_F001 has no sentence in"),
        (TRANSCRIPT, f"{DIALOGUE}_F001 [", f"{DIALOGUE}_F001 <", "line 3: is no line 'utterance"),
    ],
)
def test_an_error_names_the_file_and_line(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    folder = write_iemocap(tmp_path)
    path = folder / "Session1" / file
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"{DIALOGUE}\.txt, {message}"):
        IemocapCorpus(folder, classes=7)


def test_a_missing_sound_or_session_is_an_error(tmp_path: Path) -> None:
    folder = write_iemocap(tmp_path)
    (folder / "Session3" / "sentences" / "wav" / "Ses03F_impro01" / "Ses03F_impro01_F001.wav").unlink()
    with pytest.raises(CorpusError, match=r"Ses03F_impro01\.txt, line 7: Ses03F_impro01_F001 has no sound"):
        IemocapCorpus(folder, classes=2)
    (folder / "Session2").rename(folder / "Session6")
    with pytest.raises(CorpusError, match=r"EmoEvaluation: holds no file Ses\*\.txt"):
        IemocapCorpus(folder, classes=2)
