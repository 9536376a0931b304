"""Schemas of the lines that answer a recording, in their order. Fields are added and never renamed."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api import schemas
from app.api.schemas import Fraction
from app.recordings.transcript import Format

Seconds = Annotated[float, Field(ge=0)]
Shares = dict[str, Fraction]
"""Class → share of the time of the utterances."""


class _Line(BaseModel, frozen=True):
    """Base class of the schemas."""


class SoundSource(_Line):
    """The sound of a recording."""

    seconds: Seconds
    channels: int


class TranscriptSource(_Line):
    """The transcript of a recording."""

    format: Format
    cues: int


class OpenFaceSource(_Line):
    """The OpenFace CSV of a recording."""

    seconds: Seconds
    frames: int


class Sources(_Line):
    """What was given; null where it was not."""

    audio: SoundSource | None
    transcript: TranscriptSource | None
    openface: OpenFaceSource | None


class RecordingLine(_Line):
    """The first line."""

    type: Literal["recording"] = "recording"
    duration: Seconds
    channels: Literal["mix", "speakers"] = Field(description="Whether each channel of the sound is a speaker.")
    sources: Sources
    model: schemas.ModelName
    warnings: list[schemas.InputWarning]


class CoveredText(schemas.TextUse):
    """What was used of the words."""

    coverage: Fraction = Field(description="1 where there are words, otherwise 0.")


class CoveredAudio(schemas.AudioUse):
    """What was used of the sound."""

    coverage: Fraction = Field(description="Share of the utterance in which the sound is louder than silence.")


class CoveredVisual(schemas.VisualUse):
    """What was used of the face."""

    coverage: Fraction = Field(description="Share of the utterance in which a face is visible.")


class CoveredModalities(_Line):
    """What was there, modality by modality. In addition to the reasons of `/predict`: `no_words`, `face_lost`."""

    text: CoveredText
    audio: CoveredAudio
    visual: CoveredVisual


class _SpanLine(_Line):
    type: str
    index: int = Field(description="From 0, over utterances and gaps.")
    start: Seconds
    end: Seconds
    speaker: str | None
    text: str | None
    modalities: CoveredModalities


class UtteranceLine(_SpanLine):
    """The answer to one utterance: the fields of `/predict`, which describes them."""

    type: Literal["utterance"] = "utterance"
    polarity: str
    confidence: schemas.Probability
    probabilities: dict[str, schemas.Probability]
    key_missing: schemas.KeyMissing
    summary: str
    ensemble: schemas.Ensemble
    votes: dict[str, dict[str, schemas.Probability]] | None = Field(
        default=None, description="With `explain=true` alone."
    )
    reconstruction: dict[str, dict[str, float]] | None = Field(default=None, description="With `explain=true` alone.")
    warnings: list[schemas.InputWarning]


class GapLine(_SpanLine):
    """A stretch in which nothing can be used."""

    type: Literal["gap"] = "gap"
    reasons: dict[str, str] = Field(description="Modality → why it is missing.")


class SpeakerSummary(_Line):
    """The utterances of one speaker."""

    seconds: Seconds
    shares: Shares


class PeriodSummary(_Line):
    """The utterances that begin in one period."""

    start: Seconds
    end: Seconds
    shares: Shares
    n: int


class AverageScore(_Line):
    """Mean over the utterances around a time of P(positive) minus P(negative), weighted by their length."""

    time: Seconds
    score: Annotated[float, Field(ge=-1, le=1)]


class KeyMissingSpan(_Line):
    """An utterance in which a key modality is missing."""

    start: Seconds
    end: Seconds
    modalities: list[str]
    score: Fraction


class MissingSpan(_Line):
    """A stretch in which a modality is missing for one reason, over one or several utterances."""

    start: Seconds
    end: Seconds
    reason: str


class SummaryLine(_Line):
    """The last line."""

    type: Literal["summary"] = "summary"
    utterances: int
    gaps: int
    by_speaker: dict[str, SpeakerSummary] = Field(description="`unknown` for utterances without a speaker.")
    over_time: list[PeriodSummary]
    moving_average: list[AverageScore] = Field(description="Empty for weights without these two classes.")
    key_missing: list[KeyMissingSpan]
    missing: dict[str, list[MissingSpan]] = Field(description="Modality → where it is missing.")
    warnings: list[schemas.InputWarning]


class ProblemLine(schemas.Problem):
    """The last line where answering stops early: the fields of a problem response, but for the first two."""

    type: Literal["problem"] = "problem"
    problem_type: str = Field(description="The `type` of a problem response.")


Line = RecordingLine | UtteranceLine | GapLine | SummaryLine
