import pytest

from app.api.schemas import Ensemble, KeyMissing
from app.recordings.schemas import CoveredAudio, CoveredModalities, CoveredText, CoveredVisual, UtteranceLine
from app.recordings.summary import Summarizer

PRESENT = {"status": "present", "reason": None, "coverage": 1.0}


def utterance(
    start: float,
    end: float,
    positive: float,
    speaker: str | None = None,
    *,
    words: bool = True,
    silent: bool = False,
    key: bool = False,
) -> UtteranceLine:
    audio = {"status": "missing", "reason": "silent", "coverage": 0.0} if silent else PRESENT
    text = PRESENT if words else {"status": "missing", "reason": "no_words", "coverage": 0.0}
    polarity = "positive" if positive > 0.5 else "negative"
    found = KeyMissing(
        detected=key,
        modalities=["text"] if key else [],
        polarity_full=polarity,
        polarity_available="neutral" if key else polarity,
        score=0.7 if key else 0.1,
        by_modality={},
        threshold=0.5,
        rule=None,
    )
    return UtteranceLine(
        index=0,
        start=start,
        end=end,
        speaker=speaker,
        text="Hi." if words else None,
        modalities=CoveredModalities(
            text=CoveredText.model_validate(text),
            audio=CoveredAudio.model_validate(audio),
            visual=CoveredVisual.model_validate(PRESENT),
        ),
        polarity=polarity,
        confidence=max(positive, 1 - positive),
        probabilities={"negative": 1 - positive, "positive": positive},
        key_missing=found,
        summary="",
        ensemble=Ensemble(used=False, weights=None),
        warnings=[],
    )


def test_shares_are_of_the_time_of_each_speaker() -> None:
    summarizer = Summarizer(20.0)
    for line in (utterance(0, 1, 0.9, "A"), utterance(1, 4, 0.1, "A"), utterance(4, 5, 0.1)):
        summarizer.add(line)
    found = summarizer.summary().by_speaker
    assert found["A"].shares == {"positive": 0.25, "negative": 0.75}
    assert (found["A"].seconds, found["unknown"].seconds) == (4.0, 1.0)


def test_periods_cover_the_recording_and_count_each_utterance_once() -> None:
    summarizer = Summarizer(90.0)
    for start in (0, 29, 30, 89, 95):  # the last cue begins past the end
        summarizer.add(utterance(start, start + 1, 0.9))
    periods = summarizer.summary().over_time
    assert [(period.start, period.end, period.n) for period in periods] == [(0, 30, 2), (30, 60, 1), (60, 90, 2)]


def test_the_average_is_weighted_over_a_minute() -> None:
    summarizer = Summarizer(200.0)
    for line in (utterance(0, 3, 1.0), utterance(10, 11, 0.0), utterance(150, 151, 1.0)):
        summarizer.add(line)
    averages = summarizer.summary().moving_average
    assert [(average.time, average.score) for average in averages] == [(1.5, 0.5), (10.5, 0.5), (150.5, 1.0)]


def test_utterances_with_a_key_missing_modality_are_listed() -> None:
    summarizer = Summarizer(5.0)
    summarizer.add(utterance(0, 1, 0.9))
    summarizer.add(utterance(1, 2, 0.9, key=True))
    (found,) = summarizer.summary().key_missing
    assert (found.start, found.end, found.modalities, found.score) == (1.0, 2.0, ["text"], 0.7)


def test_missing_words_of_neighbours_are_one_stretch() -> None:
    summarizer = Summarizer(9.0)
    for start, words in ((0, False), (1.2, False), (2.3, True), (4, False)):
        summarizer.add(utterance(start, start + 1, 0.9, words=words))
    summarizer.add_faceless([(3.0, 4.5)])
    missing = summarizer.summary().missing
    assert [(span.start, span.end) for span in missing["text"]] == [(0.0, 2.2), (4.0, 5.0)]
    assert [(span.start, span.reason) for span in missing["visual"]] == [(3.0, "no_face")]


def test_silent_utterances_are_trimmed_to_the_measured_silence() -> None:
    summarizer = Summarizer(9.0)
    for start in (1.0, 4.0):
        summarizer.add(utterance(start, start + 2, 0.9, silent=True))
    summarizer.trim_silent([(0.0, 2.0), (2.1, 2.8)])
    missing = summarizer.summary().missing["audio"]
    assert [(span.start, span.end) for span in missing] == [(1.0, 2.8), (4.0, 6.0)]


def test_a_recording_without_utterances_has_an_empty_summary() -> None:
    found = Summarizer(0.0).summary()
    assert (found.utterances, found.over_time, found.moving_average) == (0, [], [])
    assert found.by_speaker == pytest.approx({})
