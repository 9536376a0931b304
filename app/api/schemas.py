"""Schemas of the responses and of the command line's JSON. Fields are added and never renamed."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.errors import Fault
from model.config import System

Probability = float
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Response(BaseModel, frozen=True):
    """Base class of the schemas."""


class ModelName(_Response):
    """Which weights answered."""

    name: str
    version: str = Field(description="Hash of the weights' content.")
    classes: list[str]


class _ModalityUse(_Response):
    status: Literal["present", "missing"]
    reason: str | None = Field(
        default=None,
        description="not_provided, no_tokens, silent, too_short, no_speech or no_face; of words to be transcribed "
        "no_speech, low_confidence, other_language or not_transcribed.",
    )
    familiarity: Fraction | None = Field(
        default=None,
        description="Similarity to the training data of the weights; under 0.5 the modality counts only in proportion. "
        "Null where it is missing, or where the weights have no estimate.",
    )


class TranscribedWord(_Response):
    """A word of a transcript, with its punctuation."""

    start: float = Field(description="Seconds from the beginning of the sound.")
    end: float
    word: str
    confidence: Fraction


class Transcript(_Response):
    """The words of the voice."""

    text: str
    confidence: Fraction = Field(description="Mean probability of the tokens.")
    language: str
    seconds: float = Field(description="Of the sound that were transcribed, from its beginning.")
    truncated: bool = Field(description="Whether the sound is longer than that.")
    words: list[TranscribedWord]


class TextUse(_ModalityUse):
    """What was used of the text."""

    source: Literal["provided", "transcribed"] | None = Field(
        default=None, description="Whether the words were sent, or transcribed from the voice; null without text."
    )
    transcript: Transcript | None = Field(
        default=None,
        description="The words of the voice; null where it was not transcribed, or the words do not count.",
    )
    tokens: int | None = None
    truncated: bool | None = None


class AudioUse(_ModalityUse):
    """What was used of the sound."""

    seconds: float | None = None
    frames: int | None = None
    truncated: bool | None = None


class VisualUse(_ModalityUse):
    """What was used of the face."""

    frames: int | None = Field(default=None, description="Frames of the followed face that were used.")
    skipped: int | None = Field(
        default=None,
        description="Frames of that face left out: no success, little confidence, or a needed cell without a number.",
    )
    faces: int | None = Field(default=None, description="Different faces in the file; one of them is followed.")
    truncated: bool | None = None


class Modalities(_Response):
    """What was there, modality by modality."""

    text: TextUse
    audio: AudioUse
    visual: VisualUse


class Rule(_Response):
    """The rule of the EMMR paper (Eqs. 9 and 13): whether recovering what is missing changes the network's vote."""

    detected: bool
    modalities: list[str] = Field(description="The key missing modalities by that rule; empty unless detected.")


class KeyMissing(_Response):
    """Whether giving something that is missing would change the answer.

    Every field is null where the system of the weights gives no verdict; only EMMR gives one.
    """

    detected: bool | None = Field(description="Whether something is missing and `score` is at least `threshold`.")
    modalities: list[str] | None = Field(
        description="Key missing modalities, the likeliest first; empty unless detected."
    )
    polarity_full: str | None = Field(description="The answer with what is missing recovered; always `polarity`.")
    polarity_available: str | None = Field(
        description="The answer without recovery; always `polarity` unless detected."
    )
    score: Fraction | None = Field(
        description="Calibrated probability that the missing modalities would change the answer; 0 where none is "
        "missing. Weights without a fitted probability give 1 minus the confidence."
    )
    by_modality: dict[str, Probability] | None = Field(
        description="For each missing modality, the probability that giving it alone would change the answer."
    )
    threshold: Fraction | None = Field(description="Of `score`: the request's, the service's or the weights'.")
    rule: Rule | None


class BranchWeights(_Response):
    """Weight of each reconstruction branch."""

    transformer: float
    autoencoder: float
    cascade: float


class Ensemble(_Response):
    """Whether the three branches were evaluated, and the weight of each; null where the system has no branches."""

    used: bool | None
    weights: BranchWeights | None


class InputWarning(_Response):
    """Something a person should know before trusting the answer."""

    code: str
    detail: str


class Timings(_Response):
    """Where the time went, in milliseconds."""

    parse: float = Field(description="Reading the body.")
    decode: float = Field(description="Sound and OpenFace decoding.")
    transcribe: float = Field(default=0.0, description="Transcription, waiting for it included; 0 without one.")
    features: float
    queue: float
    forward: float


class Prediction(_Response):
    """The answer to one utterance."""

    request_id: str
    model: ModelName
    polarity: str
    confidence: Probability
    probabilities: dict[str, Probability]
    modalities: Modalities
    key_missing: KeyMissing
    summary: str = Field(description="The verdict in one plain sentence.")
    ensemble: Ensemble
    warnings: list[InputWarning]
    timings_ms: Timings


class ExplainedPrediction(Prediction):
    """The answer with `explain=true`."""

    votes: dict[str, dict[str, Probability]] | None = Field(
        description="Class probabilities of each head: text+audio, text+visual, audio+visual, all. Null where the "
        "system has none."
    )
    reconstruction: dict[str, dict[str, float]] | None = Field(
        description="Figures of each recovered modality; empty when nothing is missing. Null where the system has none."
    )


class Problem(_Response):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[Fault]


class AnsweredItem(_Response):
    """An item of a batch with its answer."""

    id: str
    answer: ExplainedPrediction | Prediction


class RefusedItem(_Response):
    """An item of a batch with what is wrong with it."""

    id: str
    problem: Problem


class BatchAnswers(_Response):
    """The answers to a batch."""

    request_id: str
    items: list[AnsweredItem | RefusedItem] = Field(description="In the order of the request.")


class ProblemType(_Response):
    """What one `type` of problem means."""

    code: str
    status: int
    title: str
    summary: str


class Component(_Response):
    """The state of one part of the service."""

    ok: bool
    state: str
    detail: dict[str, str | int | float | bool | dict[str, bool] | None] = {}


class Health(_Response):
    """The state of the service and its parts."""

    state: str
    ready: bool
    components: dict[str, Component]


class Unhealthy(Health, Problem):
    """The same, while not ready."""


class Limits(_Response):
    """What a request may be at most."""

    body_bytes: int
    body_seconds: float
    text_bytes: int
    audio_seconds: float
    audio_decoded_bytes: int
    audio_rate: tuple[int, int]
    audio_channels: int
    audio_formats: list[str]
    openface_bytes: int
    openface_line_bytes: int
    openface_columns: int
    openface_rows: int
    decode_seconds: float
    batch_items: int = Field(description="Items of one `POST /predict/batch`.")
    queue: int
    wait_seconds: float = Field(description="How long those who wait already may take; 0 for no such bound.")
    deadline_seconds: float


class ModelCard(ModelName):
    """The loaded weights, and what they take."""

    system: System = Field(description="What answers: EMMR, or a baseline it is compared with.")
    openface_columns: str
    max_tokens: int
    limits: Limits
    card: str = Field(description="The model card, Markdown.")


class Reloaded(_Response):
    """Which weights have been replaced by which."""

    old: ModelName
    new: ModelName
