import json

import pytest
from pydantic import ValidationError

from app.transcription.transcription import ADAPTER, DETAILS, MAX_CHARACTERS, Transcription, Word, judge

SENTENCE = "I did not expect to like this film, and yet I did!"


def transcription(text: str = SENTENCE, confidence: float = 0.7, language: str = "en") -> Transcription:
    return Transcription(text, confidence, language, (Word(0.5, 0.75, "I", 0.875),), seconds=2.0)


def test_confident_english_words_count() -> None:
    given = transcription()
    assert judge(given, 0.5) == given


@pytest.mark.parametrize(("confidence", "refused"), [(0.5, None), (0.4999, "low_confidence")])
def test_words_below_the_least_confidence_are_refused(confidence: float, refused: str | None) -> None:
    judged = judge(transcription(confidence=confidence), 0.5)
    assert judged.refused == refused
    assert judged.text == SENTENCE


@pytest.mark.parametrize(
    "given",
    [
        transcription(language="pl"),
        transcription(text="Człowiek zaczyna umierać już w momencie narodzin."),
        transcription(text="Das habe ich wirklich nicht von diesem Film erwartet."),
    ],
)
def test_words_that_are_not_english_are_refused(given: Transcription) -> None:
    assert judge(given, 0.5).refused == "other_language"


def test_words_repeated_in_a_loop_are_refused() -> None:
    given = transcription(text="I'm going to do this, " * 6)
    assert judge(given, 0.5).refused == "low_confidence"


def test_a_word_repeated_a_few_times_counts() -> None:
    given = transcription(text="No, no, no, no, no!")
    assert judge(given, 0.5).refused is None


def test_a_refusal_of_the_recogniser_is_kept() -> None:
    given = Transcription("", 0.0, "en", (), 1.0, refused="no_speech")
    assert judge(given, 0.0) is given


def test_every_refusal_has_a_sentence() -> None:
    assert set(DETAILS) == {"no_speech", "low_confidence", "other_language"}
    assert not any(detail.endswith(".") for detail in DETAILS.values())


def test_a_transcription_passes_through_json_unchanged() -> None:
    given = transcription()
    assert ADAPTER.validate_json(ADAPTER.dump_json(given)) == given


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": 1.5},
        {"seconds": -1.0},
        {"refused": "another"},
        {"text": "a" * (MAX_CHARACTERS + 1)},
        {"words": [[0.0, 0.5, "I", 2.0]]},
        {"words": [[0.0, "soon", "I", 0.5]]},
    ],
)
def test_values_out_of_range_are_not_accepted(change: dict[str, object]) -> None:
    given = json.loads(ADAPTER.dump_json(transcription())) | change
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_json(json.dumps(given))
    assert caught.value.errors()[0]["loc"][0] == next(iter(change))
