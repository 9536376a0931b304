"""The words of a voice, as a speech recogniser returns them, and whether they may count as text."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from pydantic import Field, TypeAdapter

from model.features.text.language import ENGLISH, check_text

Refusal: TypeAlias = Literal["no_speech", "low_confidence", "other_language"]
# The process that returns a transcription reads uploads, so that nothing it returns is trusted.
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_CHARACTERS: Final = 2**16

NO_SPEECH: Final = "no_speech"
LOW_CONFIDENCE: Final = "low_confidence"
OTHER_LANGUAGE: Final = "other_language"
NOT_TRANSCRIBED: Final = "not_transcribed"
"""Reason of a text that is missing because the service could not transcribe the voice at that moment."""
DETAILS: Final[Mapping[Refusal, str]] = {
    NO_SPEECH: "the sound holds no speech",
    LOW_CONFIDENCE: "the words of the voice were not recognised with enough confidence",
    OTHER_LANGUAGE: "the words of the voice are not English",
}
"""Reason for which words do not count as text → sentence."""
OUTCOMES: Final = ("transcribed", *DETAILS, NOT_TRANSCRIBED)


class Word(NamedTuple):
    """A word with its punctuation; times are seconds from the sound's beginning."""

    start: Seconds
    end: Seconds
    word: str
    probability: Probability


@dataclass(frozen=True, slots=True)
class Transcription:
    """Words of one sound.

    Args:
        text: the words, without a final period; also where they are refused.
        confidence: geometric mean of the tokens' probabilities, in [0, 1]; 0 without words.
        language: ISO 639-1 code of the language.
        words: in the order of time.
        seconds: duration of the sound that was transcribed.
        refused: why the words do not count as text: a key of `DETAILS`; None if they count.
        truncated: whether the sound was longer than what was transcribed.
    """

    text: Annotated[str, Field(max_length=MAX_CHARACTERS)]
    confidence: Probability
    language: str
    words: Annotated[tuple[Word, ...], Field(max_length=MAX_CHARACTERS)]
    seconds: Seconds
    refused: Refusal | None = None
    truncated: bool = False


MAX_REPETITION: Final = 2.0
"""Largest ratio of a text's length to its length compressed; whisper/transcribe.py has 2.4 for windows of 30 s."""
ADAPTER: Final = TypeAdapter(Transcription)
"""Encodes and validates transcriptions as JSON."""


def judge(transcription: Transcription, min_confidence: float) -> Transcription:
    """Refuse words of low confidence and words that are not English.

    A recogniser of English alone writes other languages as English words, with a low confidence or over and over, and
    then with a high one.
    """
    if transcription.refused is not None:
        return transcription
    if transcription.language != ENGLISH or check_text(transcription.text).foreign:
        return replace(transcription, refused=OTHER_LANGUAGE)
    if transcription.confidence < min_confidence or _repetition(transcription.text) > MAX_REPETITION:
        return replace(transcription, refused=LOW_CONFIDENCE)
    return transcription


def _repetition(text: str) -> float:
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))
