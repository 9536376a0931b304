from collections import Counter

import numpy as np
import pytest

from benchmarks.transcription import THRESHOLDS, distance, normalised, sounds, table


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert normalised("Well, it’s DONE!") == ["well", "it's", "done"]


@pytest.mark.parametrize(
    ("expected", "found", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "b c", 1), ("a b", "a b c d", 2), ("", "a", 1)],
)
def test_word_errors_are_the_edit_distance(expected: str, found: str, errors: int) -> None:
    assert distance(expected.split(), found.split()) == errors


def test_sounds_without_speech_are_reproducible() -> None:
    first, second = (list(sounds(3)) for _ in range(2))
    assert Counter(sound.size for sound in first) == {16_000: 1, 32_000: 1, 48_000: 1}
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_the_table_has_every_section() -> None:
    words = {
        "clips": 10,
        "outcomes": {"transcribed": 9, "low_confidence": 1},
        "word_error": 0.125,
        "same_polarity_imputed": 0.4,
        "same_polarity_transcribed": 0.9,
        "same_polarity_where_accepted": 0.95,
        "text_key_missing": 5,
        "still_key_missing": 1,
    }
    others = {f"p99_ms beside voices {way}": 20.0 for way in ("transcribed", "not transcribed")}
    found = {
        "machine": "A processor",
        "words": {"A voice": words},
        "thresholds": {"Another voice": {"clips": 4, **{f"{least:g}": 0.75 for least in THRESHOLDS}}},
        "languages": {"pl (corpus)": {"low_confidence": 3}},
        "latency": {"clips": 2, "median_clip_s": 3.5, "p50_s": 0.4, "p95_s": 0.5},
        "interference": {**others, "rounds": 3, "ratio": 1.0, "voice_p50_s": 0.5},
    }
    shown = table(found)
    for line in (
        "| A voice | 10 | 9 | 12% | 40% | 90% | 95% | 5 | 1 |",
        "| Another voice | 4 | 75% | 75% | 75% | 75% | 75% |",
        "low_confidence 3",
        "0.40 s (p50)",
        "20 ms",
    ):
        assert line in shown
