"""Schemas of the lines that answer a recording, in their order. Fields are added and never renamed."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api import schemas
from app.api.schemas import Fraction
from app.recordings.transcript import Format

Seconds = Annotated[float, Field(ge=0)]
Shares = dict[str, Fraction]
"""Class → share of the time of the utterances."""
_NORMALIZED = "Whether the features are relative to the speaker's level over the recording so far."


class _Line(BaseModel, frozen=True):
    """Base class of the schemas."""


class SoundSource(_Line):
    """The sound of a recording."""

    seconds: Seconds = Field(description="Duration.")
    channels: int = Field(description="Channels of the file.")


class TranscriptSource(_Line):
    """The transcript of a recording."""

    format: Format = Field(description="Format of the file.")
    cues: int = Field(description="Cues of the file.")


class OpenFaceSource(_Line):
    """The OpenFace CSV of a recording."""

    seconds: Seconds = Field(description="Duration.")
    frames: int = Field(description="Frames of the file.")


class Sources(_Line):
    """What was given; null where it was not."""

    audio: SoundSource | None = Field(description="The sound.")
    transcript: TranscriptSource | None = Field(description="The words.")
    openface: OpenFaceSource | None = Field(description="The face.")


class RecordingLine(_Line):
    """The first line."""

    type: Literal["recording"] = Field(default="recording", description="Kind of line.")
    duration: Seconds = Field(description="Seconds, of the longest of the files.")
    channels: Literal["mix", "speakers"] = Field(description="Whether each channel of the sound is a speaker.")
    sources: Sources = Field(description="The files that were given.")
    model: schemas.ModelName = Field(description="The weights that answer.")
    warnings: list[schemas.InputWarning] = Field(description="What concerns the whole recording.")


class CoveredText(schemas.TextUse):
    """What was used of the words."""

    coverage: Fraction = Field(description="1 where there are words, otherwise 0.")


class CoveredAudio(schemas.AudioUse):
    """What was used of the sound."""

    coverage: Fraction = Field(description="Share of the utterance in which the sound is louder than silence.")
    speaker_normalized: bool = Field(default=False, description=_NORMALIZED)


class CoveredVisual(schemas.VisualUse):
    """What was used of the face."""

    coverage: Fraction = Field(description="Share of the utterance in which a face is visible.")
    speaker_normalized: bool = Field(default=False, description=_NORMALIZED)


class CoveredModalities(_Line):
    """What was there, modality by modality. In addition to the reasons of `/predict`: `no_words`, `face_lost`."""

    text: CoveredText = Field(description="The words.")
    audio: CoveredAudio = Field(description="The voice.")
    visual: CoveredVisual = Field(description="The face.")


class _SpanLine(_Line):
    type: str = Field(description="Kind of line.")
    index: int = Field(description="From 0, over utterances and gaps.")
    start: Seconds = Field(description="Seconds from the beginning of the recording.")
    end: Seconds = Field(description="Seconds from the beginning of the recording.")
    speaker: str | None = Field(description="The speaker where the transcript or the channels name one.")
    text: str | None = Field(description="The words; null without any.")
    modalities: CoveredModalities = Field(description="What was present and what was used of it.")


class UtteranceLine(_SpanLine):
    """The answer to one utterance: the fields of `/predict`, which describes them."""

    type: Literal["utterance"] = Field(default="utterance", description="Kind of line.")
    polarity: str = Field(description="The answer: one of the classes of the weights.")
    confidence: schemas.Probability = Field(description="Calibrated probability that `polarity` is right.")
    probabilities: dict[str, schemas.Probability] = Field(description="Calibrated probability of each class.")
    key_missing: schemas.KeyMissing = Field(description="Whether giving what is missing would change the answer.")
    summary: str = Field(description="The verdict in one plain sentence.")
    ensemble: schemas.Ensemble = Field(description="The reconstruction branches that were used.")
    votes: dict[str, dict[str, schemas.Probability]] | None = Field(
        default=None, description="With `explain=true` alone."
    )
    reconstruction: dict[str, dict[str, float]] | None = Field(default=None, description="With `explain=true` alone.")
    warnings: list[schemas.InputWarning] = Field(description="What to take into account before trusting the answer.")


class GapLine(_SpanLine):
    """A stretch in which nothing can be used."""

    type: Literal["gap"] = Field(default="gap", description="Kind of line.")
    reasons: dict[str, str] = Field(description="Modality → why it is missing.")


class SpeakerSummary(_Line):
    """The utterances of one speaker."""

    seconds: Seconds = Field(description="Duration of the utterances.")
    shares: Shares = Field(description="Class → share of that time.")


class PeriodSummary(_Line):
    """The utterances that begin in one period."""

    start: Seconds = Field(description="Seconds from the beginning of the recording.")
    end: Seconds = Field(description="Seconds from the beginning of the recording.")
    shares: Shares = Field(description="Class → share of the time of the utterances.")
    n: int = Field(description="Number of utterances.")


class AverageScore(_Line):
    """Mean over the utterances around a time of P(positive) minus P(negative), weighted by their length."""

    time: Seconds = Field(description="Seconds from the beginning of the recording.")
    score: Annotated[float, Field(ge=-1, le=1)] = Field(description="From -1, negative, to 1, positive.")


class KeyMissingSpan(_Line):
    """An utterance in which a key modality is missing."""

    start: Seconds = Field(description="Seconds from the beginning of the recording.")
    end: Seconds = Field(description="Seconds from the beginning of the recording.")
    modalities: list[str] = Field(description="Key missing modalities, the likeliest first.")
    score: Fraction = Field(description="Calibrated probability that the missing modalities would change the answer.")


class MissingSpan(_Line):
    """A stretch in which a modality is missing for one reason, over one or several utterances."""

    start: Seconds = Field(description="Seconds from the beginning of the recording.")
    end: Seconds = Field(description="Seconds from the beginning of the recording.")
    reason: str = Field(description="As in `modalities` of an utterance.")


class SummaryLine(_Line):
    """The last line."""

    type: Literal["summary"] = Field(default="summary", description="Kind of line.")
    utterances: int = Field(description="Number of utterances.")
    gaps: int = Field(description="Number of gaps.")
    by_speaker: dict[str, SpeakerSummary] = Field(description="`unknown` for utterances without a speaker.")
    over_time: list[PeriodSummary] = Field(description="Periods of equal length.")
    moving_average: list[AverageScore] = Field(description="Empty for weights without these two classes.")
    key_missing: list[KeyMissingSpan] = Field(description="Utterances in which a key modality is missing.")
    missing: dict[str, list[MissingSpan]] = Field(description="Modality → where it is missing.")
    warnings: list[schemas.InputWarning] = Field(description="What concerns the whole recording.")


class ProblemLine(schemas.Problem):
    """The last line where answering stops early: the fields of a problem response, but for the first two."""

    type: Literal["problem"] = Field(default="problem", description="Kind of line.")
    problem_type: str = Field(description="The `type` of a problem response.")


Line = RecordingLine | UtteranceLine | GapLine | SummaryLine
