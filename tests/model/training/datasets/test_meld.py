from pathlib import Path

import pytest

from model.errors import CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import OpenFaceSource, SoundSource, Split, TextSource
from model.training.datasets.meld import MeldCorpus
from tests.support.corpus import real_data
from tests.support.native_corpora import rewrite, write_meld

T, A, V = MODALITIES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_meld(tmp_path)


@pytest.mark.parametrize(
    ("split", "part", "clips"),
    [
        ("train", "train", "train_splits"),
        ("val", "dev", "dev_splits_complete"),
        ("test", "test", "output_repeated_splits_test"),
    ],
)
def test_an_utterance_has_its_sentence_clip_and_face(data: Path, split: Split, part: str, clips: str) -> None:
    example = MeldCorpus(data).examples(split)[0]
    assert (example.id, example.label) == (f"{part}-dia0_utt0", "positive")
    assert example.sources == {
        T: TextSource("I can\u2019t believe it"),
        A: SoundSource(data / "meld" / clips / "dia0_utt0.wav"),
        V: OpenFaceSource(data / "meld" / "openface" / part / "dia0_utt0.csv"),
    }


def test_clips_that_do_not_exist_are_missing_modalities(data: Path) -> None:
    names = [example.presence.name for example in MeldCorpus(data).examples("train")]
    assert names == ["text+audio+visual", "text+audio", "text+audio", "text"]


def test_clips_may_be_films(data: Path) -> None:
    film = data / "meld" / "train_splits" / "dia1_utt1.mp4"
    film.touch()
    assert MeldCorpus(data).examples("train")[3].sources[A] == SoundSource(film)


def test_labels_are_three_sentiments_or_seven_emotions(data: Path) -> None:
    assert [e.label for e in MeldCorpus(data).examples("train")] == ["positive", "negative", "neutral", "negative"]
    corpus = MeldCorpus(data, emotions=True)
    assert (corpus.name, len(corpus.classes)) == ("meld-emotions", 7)
    assert [e.label for e in corpus.examples("train")] == ["happy", "disgust", "neutral", "surprised"]


@pytest.mark.parametrize("written", [b"\xc2\x92", b"\x92", b"\xc3\xa2\xe2\x82\xac\xe2\x84\xa2", b"\xe2\x80\x99"])
def test_mistaken_encodings_of_punctuation_are_repaired(data: Path, written: bytes) -> None:
    path = data / "meld" / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace("\u2019".encode(), written))
    assert MeldCorpus(data).examples("train")[0].sources[T] == TextSource("I can\u2019t believe it")


def test_a_release_without_a_test_part_can_be_trained_on(data: Path) -> None:
    (data / "meld" / "test_sent_emo.csv").unlink()
    assert MeldCorpus(data).examples("test") == ()
    (data / "meld" / "dev_sent_emo.csv").unlink()
    with pytest.raises(CorpusError, match=r"dev_sent_emo\.csv: cannot be read: No such file"):
        MeldCorpus(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Sentiment": "good"}, "unknown sentiment 'good'"),
        ({"Emotion": "bored"}, "unknown emotion 'bored'"),
        ({"Emotion": "calm"}, "unknown emotion 'calm'"),
        ({"Utterance": ""}, "the Utterance is empty"),
        ({"Dialogue_ID": "x"}, "column Dialogue_ID holds no whole number"),
        ({"Utterance_ID": "../1"}, "column Utterance_ID holds no whole number"),
        ({"Dialogue_ID": "0", "Utterance_ID": "1"}, "utterance dia0_utt1 is there twice"),
    ],
)
def test_an_error_of_a_row_names_its_line(data: Path, change: dict[str, object], message: str) -> None:
    rewrite(data / "meld" / "train_sent_emo.csv", {2: change})
    with pytest.raises(CorpusError, match=rf"train_sent_emo\.csv, line 4: {message}"):
        MeldCorpus(data)


def test_the_real_sentences_hold_no_control_characters() -> None:
    corpus = MeldCorpus(real_data(), emotions=True)
    assert [len(corpus.examples("train")), len(corpus.examples("val"))] == [9989, 1109]
    assert {example.label for example in corpus.examples("val")} == set(corpus.classes)
    for example in corpus.examples("train"):
        text = example.sources[T]
        assert isinstance(text, TextSource)
        assert not any("\x80" <= character <= "\x9f" for character in text.text)
