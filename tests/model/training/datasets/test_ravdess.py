from pathlib import Path

import pytest

from model.training.datasets.ravdess import ACTION_UNITS, EMOTIONS, ClipName, parse_clip_name, read_clips
from model.training.datasets.signals import EMOTIONS as SHARED_EMOTIONS
from tests.support.corpus import clip_name, write_composite


def test_a_clip_name_says_emotion_intensity_statement_repetition_and_actor() -> None:
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


def test_emotion_codes_have_the_names_that_all_corpora_share() -> None:
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
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a RAVDESS speech clip"):
        parse_clip_name(name)


def test_there_are_17_intensities_and_18_presences() -> None:
    assert [unit[-1] for unit in ACTION_UNITS] == ["r"] * 17 + ["c"] * 18
    assert {unit[:4] for unit in ACTION_UNITS[17:]} - {unit[:4] for unit in ACTION_UNITS[:17]} == {"AU28"}


def test_only_clips_with_both_a_voice_and_a_face_are_read(tmp_path: Path) -> None:
    folder = write_composite(tmp_path, rounds=1) / "ravdess"
    silenced = clip_name(3, 2)
    (folder / "Actor_02" / f"{silenced}.flac").unlink()
    clips = read_clips(folder)
    assert len(clips) == 4 * 8 * 2 - 1
    assert silenced not in clips
    clip = clips[clip_name(4, 2)]
    assert clip.sound.path == folder / "Actor_02" / f"{clip_name(4, 2)}.flac"
    assert len(clip.face.values) == 35
