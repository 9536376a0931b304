from pathlib import Path

import pytest

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.composite import Composite2Corpus, CompositeCorpus
from tests.support.corpus import clip_name, spoil, write_composite2

T, A, V = Modality

CORPORA = {"composite": CompositeCorpus, "composite2": Composite2Corpus}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sentence of each pairing: enough for errors in files."""
    return write_composite2(tmp_path_factory.mktemp("small"), rounds=1)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "line", "detail"),
    [
        ("composite", "composite/train.csv", "train-00001", "train-00000", 3, "id 'train-00000' is there twice"),
        ("composite", "composite/val.csv", "val-00001", "train-00000", 3, "id 'train-00000' is there twice"),
        ("composite", "composite/test.csv", "number 0 was awful for test", " ", 2, "the sentence is empty"),
        ("composite", "composite/test.csv", ",negative,congruent", ",sad,congruent", 2, "unknown label 'sad'"),
        ("composite", "composite/test.csv", ",congruent,", ",luck,", 2, "unknown decided_by 'luck'"),
        ("composite", "composite/test.csv", "decided_by", "decider", 1, "missing column: decided_by"),
        ("composite", "composite/test.csv", ",negative,congruent", ",positive,congruent", 2, "text is negative, but"),
        ("composite", "composite/test.csv", ",negative,congruent", ",negative,voice", 2, "text is negative, but"),
        ("composite", "composite/test.csv", ",meld-dev-", ",meld-film-", 2, "is in neither MELD nor"),
        ("composite", "composite/test.csv", ",19\r\n", ",18\r\n", 2, "name different actors"),
        ("composite", "composite/test.csv", ",19\r\n", ",x\r\n", 2, "name different actors"),
        ("composite", "composite/test.csv", ",19\r\n", ",19,20\r\n", 2, "9 cells where the header has 8"),
        ("composite", "composite/test.csv", "03-01-01-01-01-01-19", "03-01-01-02-01-01-19", None, "has no sound file"),
        ("composite", "composite/test.csv", "test-00000", '"test-00000', 2, "not readable as CSV"),
        ("composite", "ravdess/au_mean.csv", "03-01-02", "02-01-02", 4, "is not the name of a RAVDESS speech clip"),
        ("composite", "ravdess/au_mean.csv", "03-01-01-01-01-02-01", "03-01-01-01-01-01-01", 3, "is there twice"),
        ("composite", "ravdess/au_mean.csv", ",0.", ",nan0.", 2, "column AU01_r holds no finite number"),
        ("composite", "ravdess/au_mean.csv", ",0.", ",1_0.", 2, "column AU01_r holds no finite number"),
        ("composite", "meld/train_sent_emo.csv", ",negative,", ",grumpy,", 2, "unknown sentiment 'grumpy'"),
        ("composite", "meld/train_sent_emo.csv", ",anger,", ",wrath,", 2, "unknown emotion 'wrath'"),
        ("composite", "mosi/utterances.csv", ",pos,", ",good,", 2, "unknown label3 'good'"),
        ("composite2", "composite2/train.csv", "train2-00001", "train2-00000", 3, "id 'train2-00000' is there twice"),
        ("composite2", "composite2/ood.csv", "ood2-00001", "train2-00000", 3, "id 'train2-00000' is there twice"),
        ("composite2", "composite2/test.csv", "number 0 was awful for test", " ", 2, "the sentence is empty"),
        ("composite2", "composite2/test.csv", ",negative,congruent", ",sad,congruent", 2, "unknown label 'sad'"),
        ("composite2", "composite2/test.csv", ",congruent,", ",luck,", 2, "unknown decided_by 'luck'"),
        ("composite2", "composite2/test.csv", ",congruent,", ",native,", 2, "unknown decided_by 'native'"),
        ("composite2", "composite2/test.csv", "decided_by", "decider", 1, "missing column: decided_by"),
        ("composite2", "composite2/test.csv", ",negative,congruent", ",positive,congruent", 2, "text is negative, but"),
        ("composite2", "composite2/test.csv", ",negative,congruent", ",negative,text", 2, "audio is negative, but"),
        ("composite2", "composite2/test.csv", ",meld-dev-", ",meld-film-", 2, "is in neither MELD nor"),
        ("composite2", "composite2/test.csv", "test2-00000", '"test2-00000', 2, "not readable as CSV"),
        ("composite2", "voices/index.csv", ",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        ("composite2", "faces/stills.csv", ",ExpW,", ",,", 2, "the source is empty"),
        ("composite2", "ravdess/au_mean.csv", ",0.", ",nan0.", 2, "column AU01_r holds no finite number"),
        ("composite2", "meld/train_sent_emo.csv", ",negative,", ",grumpy,", 2, "unknown sentiment 'grumpy'"),
    ],
)
def test_errors_name_file_and_line(
    small: Path, tmp_path: Path, name: str, file: str, old: str, new: str, line: int | None, detail: str
) -> None:
    folder = spoil(small, tmp_path, file, old, new)
    with pytest.raises(CorpusError) as caught:
        CORPORA[name](folder)
    assert caught.value.path == str(folder / file)
    assert detail in caught.value.detail
    assert caught.value.row is not None
    if line is not None:
        assert caught.value.row == line


def test_surprised_clips_cannot_be_paired(small: Path, tmp_path: Path) -> None:
    folder = spoil(small, tmp_path, "composite/test.csv", clip_name(1, 19), clip_name(8, 19))
    with pytest.raises(CorpusError, match="an emotion without polarity"):
        CompositeCorpus(folder)


@pytest.mark.parametrize(
    ("part", "column", "content", "detail"),
    [
        ("train", "voice", "voices/nemo/none.flac", "voice 'voices/nemo/none.flac' is in no corpus"),
        ("train", "voice", "stills/expw/train_angry_0.jpg", "is in no corpus"),
        ("train", "face", "voices/nemo/AA_angry_1.flac", "is in no corpus"),
        ("train", "voice", "voices/nemo/CC_angry_1.flac", "is of the val split, where train is needed"),
        ("train", "voice", "voices/emovo/f1_angry_1.flac", "is of the ood split, where train is needed"),
        ("train", "face", "stills/raf-db/test_fear_0.jpg", "is of the test split, where train is needed"),
        ("val", "face", "ravdess/03-01-05-01-01-01-01", "is of the train split, where val is needed"),
        ("ood", "voice", "voices/nemo/DD_angry_1.flac", "is of the test split, where ood is needed"),
        ("ood", "face", "stills/expw/train_angry_0.jpg", "is of the train split, where test is needed"),
        ("train", "voice", "voices/nemo/AA_surprise_1.flac", "the audio shows an emotion without polarity"),
        ("train", "face", "stills/raf-db/train_surprise_1.jpg", "the visual shows an emotion without polarity"),
        ("train", "voice", "voices/nemo/AA_happy_1.flac", "audio is positive, but a negative row decided by congruent"),
        ("train", "face", "stills/raf-db/train_happy_1.jpg", "visual is positive, but a negative row decided by"),
    ],
)
def test_errors_name_a_voice_or_face_that_does_not_fit(
    small: Path, tmp_path: Path, part: str, column: str, content: str, detail: str
) -> None:
    first = (small / "composite2" / f"{part}.csv").read_text(encoding="utf-8").splitlines()[1]
    cells = first.split(",")
    cells[2 if column == "voice" else 3] = content
    file = f"composite2/{part}.csv"
    folder = spoil(small, tmp_path, file, first, ",".join(cells))
    with pytest.raises(CorpusError) as caught:
        Composite2Corpus(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / file), 2)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("composite", "composite/val.csv"),
        ("composite", "ravdess/au_mean.csv"),
        ("composite", "meld/dev_sent_emo.csv"),
        ("composite2", "composite2/ood.csv"),
        ("composite2", "voices/index.csv"),
        ("composite2", "faces/stills.csv"),
        ("composite2", "mosi/utterances.csv"),
    ],
)
def test_errors_name_a_missing_file(small: Path, tmp_path: Path, name: str, file: str) -> None:
    folder = spoil(small, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        CORPORA[name](folder)
    assert caught.value.path == str(folder / file)
