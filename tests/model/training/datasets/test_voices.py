from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from model.errors import CorpusError
from model.modality import Modality, ModalitySet
from model.training.datasets.base import SoundSource
from model.training.datasets.signals import SPLITS
from model.training.datasets.voices import VoicesCorpus, read_voices
from tests.support.corpus import real_data, spoil, write_composite, write_voices

A = Modality.AUDIO
COUNTS = {
    "train": {"ravdess": 28, "nemo": 20, "emotiontts_kr": 8},
    "val": {"ravdess": 14, "nemo": 10, "emotiontts_kr": 8},
    "test": {"ravdess": 14, "nemo": 10, "emotiontts_kr": 8},
    "ood": {"emovo": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voices(write_composite(tmp_path_factory.mktemp("data"), rounds=1))


@pytest.fixture(scope="module")
def corpus(data: Path) -> VoicesCorpus:
    return VoicesCorpus(data)


def test_every_part_has_the_clips_of_its_corpora(corpus: VoicesCorpus) -> None:
    counts = {split: Counter(e.origins[A] for e in corpus.examples(split)) for split in SPLITS}
    assert counts == COUNTS


def test_an_example_is_a_voice_alone_labelled_with_its_polarity(corpus: VoicesCorpus, data: Path) -> None:
    example = next(e for e in corpus.examples("ood") if "joy" in e.id)
    assert example.id == "audio:voices/emovo/f1_joy_1.flac"
    assert example.presence == ModalitySet.of(A)
    assert example.sources == {A: SoundSource(data / "voices" / "emovo" / "f1_joy_1.flac")}
    assert (example.label, example.modality_labels, example.emotions) == ("positive", {A: "positive"}, {A: "happy"})
    assert (example.origins, example.decided_by) == ({A: "emovo"}, None)


def test_ids_are_unique(corpus: VoicesCorpus) -> None:
    ids = [e.id for split in SPLITS for e in corpus.examples(split)]
    assert len(set(ids)) == len(ids)


def test_an_emotion_has_one_name_in_all_corpora(corpus: VoicesCorpus) -> None:
    told = {e.emotions[A] for split in SPLITS for e in corpus.examples(split)}
    assert told == {"angry", "happy", "sad", "fearful", "disgust", "neutral", "calm"}
    polarities = {(e.emotions[A], e.label) for split in SPLITS for e in corpus.examples(split)}
    assert len(polarities) == len(told), "an emotion goes with one polarity"


def test_surprised_training_voices_are_beside_the_examples(corpus: VoicesCorpus) -> None:
    unclassed = corpus.unclassed()
    assert Counter(other.origins[A] for other in unclassed) == {"ravdess": 4, "nemo": 4}
    assert all(other.emotions == {A: "surprised"} for other in unclassed)
    assert {clip.split for clip in corpus.recordings.values() if clip.signal.polarity is None} == {
        "train",
        "val",
        "test",
    }


def test_there_is_nothing_to_redraw_and_nothing_beside_the_examples(corpus: VoicesCorpus) -> None:
    assert corpus.redraw(np.random.default_rng(0)) == corpus.examples("train")
    assert corpus.unimodal("train") == ()


def test_a_clip_tells_its_speaker_and_language(corpus: VoicesCorpus) -> None:
    clip = corpus.recordings["voices/nemo/AA_fear_2.flac"]
    assert (clip.speaker, clip.language, clip.split, clip.signal.emotion) == ("nemo_AA", "pl", "train", "fearful")
    clip = corpus.recordings["ravdess/03-01-04-01-01-02-17"]
    assert (clip.speaker, clip.language, clip.split, clip.signal.emotion) == ("ravdess_17", "en", "val", "sad")


def test_a_clip_of_an_actor_outside_the_parts_is_left_out(data: Path, tmp_path: Path) -> None:
    folder = spoil(data, tmp_path, "ravdess/au_mean.csv", "03-01-01-01-01-01-01", "03-01-01-01-01-01-24")
    actor = folder / "ravdess" / "Actor_24"
    actor.mkdir()
    (folder / "ravdess" / "Actor_01" / "03-01-01-01-01-01-01.flac").rename(actor / "03-01-01-01-01-01-24.flac")
    corpus = VoicesCorpus(folder)
    assert len(corpus.examples("train")) == sum(COUNTS["train"].values()) - 1
    assert "ravdess/03-01-01-01-01-01-24" not in corpus.recordings


@pytest.mark.parametrize(
    ("old", "new", "line", "detail"),
    [
        (",angry,negative,", ",angry,bad,", 2, "unknown polarity 'bad'"),
        (",angry,negative,", ",grumpy,negative,", 2, "unknown emotion 'grumpy'"),
        (",negative,train,", ",negative,exam,", 2, "unknown split 'exam'; known are train, val, test, ood"),
        ("AA_angry_1.flac", "AA_angry_9.flac", 2, "file 'nemo/AA_angry_9.flac' does not exist"),
        ("nemo/AA_angry_1.flac", "nemo", 2, "file 'nemo' does not exist"),
        ("nemo/AA_angry_1.flac", "../ravdess/au_mean.csv", 2, "lies outside the folder"),
        ("nemo/AA_angry_1.flac", "/etc/hostname", 2, "lies outside the folder"),
        ("nemo/AA_angry_1.flac", "", 2, "the file is empty"),
        ("AA_angry_2.flac", "AA_angry_1.flac", 3, "file 'nemo/AA_angry_1.flac' is there twice"),
        ("nemo,nemo/", " ,nemo/", 2, "the corpus is empty"),
        (",nemo_AA,", ",,", 2, "the speaker is empty"),
        (",nemo_CC,", ",nemo_AA,", 26, "speaker 'nemo_AA' is in the val split here, in train before"),
        ("emovo,emovo/", "nemo,emovo/", 74, "corpus 'nemo' is ood here, but train before"),
        ("speaker", "talker", 1, "missing column: speaker"),
        (",nemo_AA,", ",nemo_AA,x,", 2, "10 cells where the header has 9"),
    ],
)
def test_a_fault_is_named_by_file_and_line(
    data: Path, tmp_path: Path, old: str, new: str, line: int, detail: str
) -> None:
    folder = spoil(data, tmp_path, "voices/index.csv", old, new)
    with pytest.raises(CorpusError) as caught:
        VoicesCorpus(folder)
    assert (caught.value.path, caught.value.row) == (str(folder / "voices" / "index.csv"), line)
    assert detail in caught.value.detail


@pytest.mark.parametrize("file", ["voices/index.csv", "ravdess/au_mean.csv"])
def test_a_missing_table_is_named(data: Path, tmp_path: Path, file: str) -> None:
    folder = spoil(data, tmp_path, file, ",", ",")
    (folder / file).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file") as caught:
        VoicesCorpus(folder)
    assert caught.value.path == str(folder / file)


def test_the_real_voices_have_their_published_counts() -> None:
    clips = read_voices(real_voices() / "voices")
    assert len(clips) == 2485
    speakers = {(clip.signal.origin, clip.split, clip.speaker) for clip in clips.values()}
    counts = Counter((corpus, split) for corpus, split, _ in speakers)
    assert {split: counts["nemo", split] for split in SPLITS} == {"train": 6, "val": 1, "test": 2, "ood": 0}
    assert {split: counts["emotiontts_kr", split] for split in SPLITS} == {"train": 11, "val": 2, "test": 2, "ood": 0}


def test_the_real_corpus_tells_unseen_corpora_from_the_others() -> None:
    corpus = VoicesCorpus(real_voices())
    assert [len(corpus.examples(split)) for split in SPLITS] == [1794, 269, 394, 868]
    assert Counter(e.origins[A] for e in corpus.examples("ood")) == {"emovo": 268, "turev": 300, "urdu": 300}
    seen = {e.origins[A] for split in SPLITS if split != "ood" for e in corpus.examples(split)}
    assert seen == {"ravdess", "nemo", "emotiontts_kr"}


def real_voices() -> Path:
    folder = real_data()
    if not (folder / "voices" / "index.csv").is_file():
        pytest.skip("no voices/index.csv in the folder of real corpora")
    return folder
