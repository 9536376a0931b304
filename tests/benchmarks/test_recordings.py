import io
from typing import Any

import numpy as np
import pytest
import soundfile

from app.recordings.transcript import read_transcript
from benchmarks.recordings import Clip, face_of, planted, polarities, sound_of, transcript_of, unreported
from model.features.visual.frame_index import index_frames
from model.features.visual.table import OpenFaceLimits
from model.modality import Modality

VOICE = np.full(32_000, 0.1, dtype=np.float32)
FACE = [0.0] * 35


def clip(start: float, **missing: str) -> Clip:
    planted_ = {Modality(name): reason for name, reason in missing.items()}
    return Clip("positive", start, start + 2.0, "Hello.", VOICE, FACE, planted_)


CLIPS = [clip(0.0), clip(2.25, audio="silent", visual="no_rows"), clip(4.5, audio="silent", text="no_words")]


def test_the_sound_is_silent_where_the_voice_is_missing() -> None:
    samples, rate = soundfile.read(io.BytesIO(sound_of(CLIPS)))
    assert (len(samples) / rate, np.flatnonzero(samples).max() / rate) == pytest.approx((6.75, 2.0), abs=0.01)


def test_the_transcript_has_a_cue_for_each_clip_with_words() -> None:
    cues = read_transcript(transcript_of(CLIPS)).cues
    assert [cue.start for cue in cues] == [0.0, 2.25]


def test_the_table_has_no_usable_row_where_the_face_is_missing() -> None:
    lost = [*CLIPS[:2], clip(4.5, visual="face_lost")]
    rows = np.concatenate(list(index_frames(io.BytesIO(face_of(lost)), "action_units", 0.5, OpenFaceLimits())))
    seen = rows[rows[:, 1] > 0, 0]
    assert not np.any((seen > 2.25) & (seen < 4.5))
    assert seen.max() == pytest.approx(5.3, abs=0.05)


def test_gaps_of_clips_in_a_row_are_one() -> None:
    assert planted(CLIPS, Modality.AUDIO) == [(2.25, 6.5, "silent")]


def test_gaps_reported_late_or_with_another_reason_do_not_count() -> None:
    def summary(**span: Any) -> dict[str, Any]:
        return {"missing": {"audio": [{"start": 2.0, "end": 6.75, "reason": "silent", **span}]}}

    assert unreported(CLIPS, summary(), Modality.AUDIO) == []
    for span in ({"start": 1.6}, {"reason": "no_speech"}):
        assert len(unreported(CLIPS, summary(**span), Modality.AUDIO)) == 1


def test_a_clip_has_the_polarity_of_the_utterance_it_overlaps_most() -> None:
    lines = [
        {"type": "utterance", "start": 0.0, "end": 2.5, "polarity": "positive"},
        {"type": "utterance", "start": 2.5, "end": 4.0, "polarity": "negative"},
        {"type": "gap", "start": 4.0, "end": 7.0},
    ]
    assert polarities(CLIPS, lines) == ["positive", "negative", None]
