"""The shapes of answers: field names are the contract, so fields are added and never renamed.

For: HTTP answers, their documentation, and the command line's JSON, from one definition.
Does not know: how any value was found.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = float
Familiarity = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="How near it lies to what the weights were trained on; under 0.5 it counts only in proportion. "
        "Null where it is missing, or where the weights cannot tell.",
    ),
]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelName(_Answer):
    """Which weights answered."""

    name: str
    version: str = Field(description="Hash of the weights' content.")
    classes: list[str]


class TextUse(_Answer):
    """What was used of the text."""

    status: Literal["present", "missing"]
    reason: str | None = Field(default=None, description="Why it is missing: not_provided.")
    familiarity: Familiarity = None
    tokens: int | None = None
    truncated: bool | None = None


class AudioUse(_Answer):
    """What was used of the sound."""

    status: Literal["present", "missing"]
    reason: str | None = Field(
        default=None, description="Why it is missing: not_provided, silent, too_short, no_speech."
    )
    familiarity: Familiarity = None
    seconds: float | None = None
    frames: int | None = None
    truncated: bool | None = None


class VisualUse(_Answer):
    """What was used of the face."""

    status: Literal["present", "missing"]
    reason: str | None = Field(default=None, description="Why it is missing: not_provided, no_face.")
    familiarity: Familiarity = None
    frames: int | None = Field(default=None, description="Frames of the followed face that were used.")
    skipped: int | None = Field(default=None, description="Frames left out: no success, or too little confidence.")
    faces: int | None = Field(default=None, description="Different faces in the file; one of them is followed.")
    truncated: bool | None = None


class Modalities(_Answer):
    """What was there, modality by modality."""

    text: TextUse
    audio: AudioUse
    visual: VisualUse


class Rule(_Answer):
    """The rule of the EMMR paper (Eqs. 9 and 13): whether recovering what is missing changes the network's vote."""

    detected: bool
    modalities: list[str] = Field(description="The key missing modalities by that rule; empty unless detected.")


class KeyMissing(_Answer):
    """Whether giving something that is missing would change the answer."""

    detected: bool = Field(description="Whether something is missing and `score` is at least `threshold`.")
    modalities: list[str] = Field(
        description="The key missing modalities, the one most likely to change the answer first; empty unless detected."
    )
    polarity_full: str = Field(description="The answer with what is missing recovered; always `polarity`.")
    polarity_available: str = Field(
        description="The answer from what is there alone; always `polarity` unless detected."
    )
    score: Probability = Field(
        ge=0,
        le=1,
        description="Calibrated probability that giving everything missing would change the answer; 0 where nothing is "
        "missing. Of weights it was not fitted for, 1 minus the confidence in what is there.",
    )
    by_modality: dict[str, Probability] = Field(
        description="For each missing modality, the probability that giving it alone would change the answer."
    )
    threshold: Probability = Field(
        ge=0, le=1, description="Of `score`: the request's, else the service's, else the weights' own."
    )
    rule: Rule


class BranchWeights(_Answer):
    """How much each reconstruction branch counted."""

    transformer: float
    autoencoder: float
    cascade: float


class Ensemble(_Answer):
    """Whether the three branches were asked, and what each counted."""

    used: bool
    weights: BranchWeights


class InputWarning(_Answer):
    """Something a person should know before trusting the answer."""

    code: str
    detail: str


class Timings(_Answer):
    """Where the time went, in milliseconds."""

    parse: float = Field(description="Reading the body.")
    decode: float = Field(description="Sound and OpenFace decoding.")
    features: float
    queue: float
    forward: float


class Prediction(_Answer):
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

    votes: dict[str, dict[str, Probability]] = Field(
        description="Class probabilities of each head: text+audio, text+visual, audio+visual, all."
    )
    reconstruction: dict[str, dict[str, float]] = Field(
        description="Figures of each recovered modality; empty when nothing is missing."
    )


class Fault(_Answer):
    """One thing wrong with a request."""

    part: str | None = Field(description="The part it is in; null where it is the whole request.")
    place: str | None = Field(description="Where in the part; null where it is the whole part.")
    detail: str


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[Fault]


class ProblemType(_Answer):
    """What one `type` of problem means."""

    code: str
    status: int
    title: str
    summary: str


class Component(_Answer):
    """The state of one part of the service."""

    ok: bool
    state: str
    detail: dict[str, str | int | float | bool | None] = {}


class Health(_Answer):
    """The state of the service and its parts."""

    state: str
    ready: bool
    components: dict[str, Component]


class Unhealthy(Problem):
    """The same, while not ready."""

    state: str
    ready: bool
    components: dict[str, Component]


class Limits(_Answer):
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
    queue: int
    wait_seconds: float = Field(description="How long those who wait already may take; 0 for no such bound.")
    deadline_seconds: float


class ModelCard(_Answer):
    """The loaded weights, and what they take."""

    name: str
    version: str
    classes: list[str]
    openface_columns: str
    max_tokens: int
    limits: Limits
    card: str = Field(description="The model card, Markdown.")


class Reloaded(_Answer):
    """Which weights have been replaced by which."""

    old: ModelName
    new: ModelName
