import io
import json
from typing import Any

import av
import numpy as np
import pytest

from model.errors import CorruptModality, EmptyModality, UnsupportedFormat
from model.features.audio.loading import read_sound
from model.features.video import video_sound, video_subtitles
from tests.support.sound import remuxed, voice_like
from tests.support.sound_files import FILES, read
from tests.support.video import RATE, make_video

WORDS = ["What a lovely\nsurprise!", "Thank you."]


def sound_of(video: bytes, warnings: dict[str, str] | None = None) -> bytes:
    blocks = video_sound(io.BytesIO(video), video, {} if warnings is None else warnings)
    return b"".join(block.tobytes() for block in blocks)


def subtitles_of(video: bytes, warnings: dict[str, str] | None = None) -> list[dict[str, Any]]:
    blocks = video_subtitles(io.BytesIO(video), video, {} if warnings is None else warnings)
    segments = json.loads(b"".join(block.tobytes() for block in blocks))["segments"]
    assert isinstance(segments, list)
    return segments


@pytest.mark.parametrize(
    ("container", "sound"),
    [
        ("mp4", "aac"),
        ("mov", "pcm_s16le"),
        ("matroska", "aac"),
        ("matroska", "libopus"),
        ("matroska", "libmp3lame"),
        ("matroska", "flac"),
        ("webm", "libopus"),
    ],
)
def test_the_sound_of_a_video_becomes_a_sound_file(container: str, sound: str) -> None:
    waveform, warnings = read_sound(io.BytesIO(sound_of(make_video(container, sound=sound, subtitles=()))))
    assert not warnings
    assert len(waveform) == pytest.approx(16_000, abs=3_000)  # coders pad
    part = voice_like(1.0, RATE)[::3][:12_000]
    delay = int(np.correlate(waveform, part, "valid").argmax())
    assert np.corrcoef(waveform[delay : delay + len(part)], part)[0, 1] > 0.9


def test_vorbis_is_copied_into_ogg() -> None:
    copied, whole = read(sound_of(remuxed(FILES["vorbis"], "matroska"))), read(FILES["vorbis"])
    assert np.corrcoef(copied[:12_000], whole[:12_000])[0, 1] > 0.99


def test_the_sound_is_that_of_the_video_read_as_sound() -> None:
    video = make_video()
    assert np.array_equal(read(sound_of(video)), read(video))


@pytest.mark.parametrize(
    ("container", "subtitles"),
    [("mp4", "mov_text"), ("matroska", "subrip"), ("matroska", "webvtt"), ("matroska", "ass"), ("webm", "webvtt")],
)
def test_subtitles_become_segments_without_markup(container: str, subtitles: str) -> None:
    sound = "libopus" if container == "webm" else "aac"
    segments = subtitles_of(make_video(container, sound=sound, subtitles=(subtitles,)))
    assert [segment["text"] for segment in segments] == WORDS
    times = [time for segment in segments for time in (segment["start"], segment["end"])]
    assert times == pytest.approx([0.1, 0.5, 0.6, 0.9], abs=0.002)


def test_english_subtitles_are_preferred() -> None:
    warnings: dict[str, str] = {}
    video = make_video("matroska", subtitles=("subrip", "subrip"), languages=("ger", "eng"))
    assert [segment["text"] for segment in subtitles_of(video, warnings)] == [f"{words} 1" for words in WORDS]
    assert list(warnings) == ["several_subtitles"]


def test_subtitles_are_timed_from_the_first_sample() -> None:
    (segment,) = subtitles_of(
        make_video("matroska", subtitles=("subrip",), cues=((0.7, 0.9, "Hello"),), sound_start=0.5)
    )
    assert segment["start"] == pytest.approx(0.2, abs=0.05)


def test_a_video_without_sound_or_subtitles_gives_none() -> None:
    video = make_video(sound=None, subtitles=())
    with pytest.raises(EmptyModality) as sound:
        sound_of(video)
    with pytest.raises(EmptyModality) as subtitles:
        subtitles_of(video)
    assert sound.value.reason == subtitles.value.reason == "not_provided"


def test_a_file_without_pictures_is_a_warning() -> None:
    warnings: dict[str, str] = {}
    sound_of(make_video(pictures=False), warnings)
    assert list(warnings) == ["no_picture"]


def test_another_container_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="accepted are MP4") as refused:
        sound_of(FILES["wav"])
    assert refused.value.place is None


def test_another_codec_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        sound_of(make_video("matroska", sound="ac3", subtitles=()))
    assert "coded as ac3" in refused.value.detail


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_truncated_video_is_refused_with_its_place(container: str, share: float) -> None:
    subtitles = "mov_text" if container == "mp4" else "subrip"
    video = make_video(container, subtitles=(subtitles,))
    with pytest.raises(CorruptModality) as refused:
        sound_of(video[: round(share * len(video))])
    assert refused.value.place is not None


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(CorruptModality) as refused:
        sound_of(b"")
    assert refused.value.detail == "the file is empty"


def test_a_damaged_video_ends_with_an_error_or_its_sound() -> None:
    video = make_video()
    rng = np.random.default_rng(3)
    outcomes: set[type[Exception] | None] = set()
    tables = len(video) - 2_500  # MP4 ends with them
    for position in (*rng.integers(0, tables, 10), *rng.integers(tables, len(video) - 8, 30)):
        damaged = video[:position] + rng.bytes(8) + video[position + 8 :]
        try:
            sound_of(damaged)
            subtitles_of(damaged)
            outcomes.add(None)
        except (CorruptModality, EmptyModality, UnsupportedFormat) as error:
            outcomes.add(type(error))
    assert {None, CorruptModality} <= outcomes


def test_the_copied_sound_holds_no_pictures() -> None:
    with av.open(io.BytesIO(sound_of(make_video()))) as copied:
        assert [stream.type for stream in copied.streams] == ["audio"]
