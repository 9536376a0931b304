from collections import Counter
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.modality import MODALITIES
from model.training.datasets.base import EMOTIONS as SHARED_EMOTIONS
from model.training.datasets.base import ActionUnitMeansSource, OpenFaceSource, SoundSource, TextSource
from model.training.datasets.ravdess import EMOTIONS, ClipName, RavdessCorpus, parse_clip_name, read_clips
from tests.support.corpus import clip_name, write_composite
from tests.support.native_corpora import write_ravdess

T, A, V = MODALITIES


def test_clip_names_are_parsed_into_five_fields() -> None:
    assert parse_clip_name("03-01-06-01-02-01-12") == ClipName(6, 1, 2, 1, 12)


@pytest.mark.parametrize(
    ("emotion", "polarity"),
    [
        (1, "neutral"),
        (2, "neutral"),
        (3, "positive"),
        (4, "negative"),
        (5, "negative"),
        (6, "negative"),
        (7, "negative"),
        (8, None),
    ],
)
def test_emotions_map_to_polarities_and_surprise_to_none(emotion: int, polarity: str | None) -> None:
    assert parse_clip_name(clip_name(emotion, 1)).polarity == polarity


def test_emotion_codes_have_the_names_shared_by_all_corpora() -> None:
    assert set(EMOTIONS.values()) == set(SHARED_EMOTIONS)


@pytest.mark.parametrize(
    ("actor", "split"), [(1, "train"), (16, "train"), (17, "val"), (18, "val"), (19, "test"), (20, "test"), (21, None)]
)
def test_the_actor_decides_the_part(actor: int, split: str | None) -> None:
    assert parse_clip_name(clip_name(1, actor)).split == split


@pytest.mark.parametrize(
    "name",
    [
        "",
        "03-01-06-01-02-01",
        "03-01-09-01-02-01-12",
        "03-02-06-01-02-01-12",
        "02-01-06-01-02-01-12",
        "03-01-06-01-02-01-12.flac",
        "03-01-06-01-02-01-12\n",
        "03-01-06-03-02-01-12",
    ],
)
def test_other_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a RAVDESS speech clip"):
        parse_clip_name(name)


def test_only_clips_with_both_a_voice_and_a_face_are_read(tmp_path: Path) -> None:
    folder = write_composite(tmp_path, rounds=1) / "ravdess"
    without_sound = clip_name(3, 2)
    (folder / "Actor_02" / f"{without_sound}.flac").unlink()
    clips = read_clips(folder)
    assert len(clips) == 4 * 8 * 2 - 1
    assert without_sound not in clips
    clip = clips[clip_name(4, 2)]
    assert clip.voice.source == SoundSource(folder / "Actor_02" / f"{clip_name(4, 2)}.flac")
    assert isinstance(clip.face.source, ActionUnitMeansSource)
    assert len(clip.face.source.values) == 35


def test_the_release_is_a_corpus_with_statement_voice_and_face(tmp_path: Path) -> None:
    corpus = RavdessCorpus(write_ravdess(tmp_path))
    counts = [Counter(example.label for example in corpus.examples(split)) for split in ("train", "val", "test")]
    assert counts == [{"negative": n * 4, "neutral": n * 2, "positive": n} for n in (2, 1, 1)]  # not actor 24
    example = next(e for e in corpus.examples("train") if e.id == clip_name(3, 1))
    assert example.sources == {
        T: TextSource("Kids are talking by the door."),
        A: SoundSource(tmp_path / "ravdess" / "Actor_01" / f"{clip_name(3, 1)}.wav"),
        V: OpenFaceSource(tmp_path / "ravdess" / "openface" / f"{clip_name(3, 1)}.csv"),
    }
    assert {e.presence.name for e in corpus.examples("test")} == {"text+audio"}


def test_the_corpus_has_seven_emotions_with_calm_as_neutral(tmp_path: Path) -> None:
    corpus = RavdessCorpus(write_ravdess(tmp_path), emotions=True)
    labels = Counter(example.label for example in corpus.examples("test"))
    assert labels == {name: 2 if name == "neutral" else 1 for name in corpus.classes}


def test_the_corpus_reads_action_units_where_they_are(tmp_path: Path) -> None:
    write_composite(tmp_path, rounds=1)
    face = RavdessCorpus(tmp_path).examples("train")[0].sources[V]
    assert isinstance(face, ActionUnitMeansSource)


def test_a_folder_without_clips_or_with_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"ravdess: holds no Actor_NN/\*\.wav or \*\.flac"):
        RavdessCorpus(tmp_path)
    path = write_ravdess(tmp_path) / "ravdess" / "Actor_01" / "song.wav"
    path.touch()
    with pytest.raises(CorpusError, match=r"song\.wav: 'song' is not the name of a RAVDESS speech clip"):
        RavdessCorpus(tmp_path)
