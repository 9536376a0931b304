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

    name: str = Field(description="Name of the weights.")
    version: str = Field(description="Hash of the weights' content.")
    classes: list[str] = Field(description="The polarities that the weights distinguish.")


class _ModalityUse(_Response):
    status: Literal["present", "missing"] = Field(
        description="Whether the modality counts; empty content counts as missing, with a reason."
    )
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
    end: float = Field(description="Seconds from the beginning of the sound.")
    word: str = Field(description="The word as transcribed.")
    confidence: Fraction = Field(description="Probability of the word.")


class Transcript(_Response):
    """The words of the voice."""

    text: str = Field(description="All words, without a final period.")
    confidence: Fraction = Field(description="Mean probability of the tokens.")
    language: str = Field(description="Code of the language, such as en.")
    seconds: float = Field(description="Of the sound that were transcribed, from its beginning.")
    truncated: bool = Field(description="Whether the sound is longer than that.")
    words: list[TranscribedWord] = Field(description="Each word with its times.")


class TextUse(_ModalityUse):
    """What was used of the text."""

    source: Literal["provided", "transcribed"] | None = Field(
        default=None, description="Whether the words were sent, or transcribed from the voice; null without text."
    )
    transcript: Transcript | None = Field(
        default=None,
        description="The words of the voice; null where it was not transcribed, or the words do not count.",
    )
    tokens: int | None = Field(default=None, description="Tokens that were used; null where the text is missing.")
    truncated: bool | None = Field(
        default=None, description="Whether only the beginning of the text was used; null where it is missing."
    )


class AudioUse(_ModalityUse):
    """What was used of the sound."""

    seconds: float | None = Field(
        default=None, description="Duration of the sound that was used; null where it is missing."
    )
    frames: int | None = Field(
        default=None, description="Feature frames that were used; null where the sound is missing."
    )
    truncated: bool | None = Field(
        default=None, description="Whether only the beginning of the sound was used; null where it is missing."
    )


class VisualUse(_ModalityUse):
    """What was used of the face."""

    frames: int | None = Field(default=None, description="Frames of the followed face that were used.")
    skipped: int | None = Field(
        default=None,
        description="Frames of that face left out: no success, little confidence, or a needed cell without a number.",
    )
    faces: int | None = Field(default=None, description="Different faces in the file; one of them is followed.")
    truncated: bool | None = Field(
        default=None, description="Whether only the beginning of the file was used; null where the face is missing."
    )


class Modalities(_Response):
    """What was there, modality by modality."""

    text: TextUse = Field(description="The text.")
    audio: AudioUse = Field(description="The voice.")
    visual: VisualUse = Field(description="The face, which the part openface carries.")


class Rule(_Response):
    """The rule of the EMMR paper (Eqs. 9 and 13): whether recovering what is missing changes the network's vote."""

    detected: bool = Field(description="Whether recovering what is missing changes the vote.")
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
    rule: Rule | None = Field(description="What the rule of the paper gives; `detected` is decided by `score` instead.")


class BranchWeights(_Response):
    """Weight of each reconstruction branch."""

    transformer: float = Field(description="Of the branch with a transformer.")
    autoencoder: float = Field(description="Of the branch with an autoencoder.")
    cascade: float = Field(description="Of the branch with cascaded residual autoencoders.")


class Ensemble(_Response):
    """Whether the three branches were evaluated, and the weight of each; null where the system has no branches."""

    used: bool | None = Field(description="Whether all three branches were evaluated.")
    weights: BranchWeights | None = Field(description="Weight of each branch in the recovered modalities.")


class InputWarning(_Response):
    """Something a person should know before trusting the answer."""

    code: str = Field(description="Stable identifier, such as text_truncated; docs/http.md lists all.")
    detail: str = Field(description="A sentence for a person, with the place where there is one.")


class Timings(_Response):
    """Where the time went, in milliseconds."""

    parse: float = Field(description="Reading the body.")
    decode: float = Field(description="Sound and OpenFace decoding.")
    transcribe: float = Field(default=0.0, description="Transcription, waiting for it included; 0 without one.")
    features: float = Field(description="Features of all parts.")
    queue: float = Field(description="Waiting for the forward pass.")
    forward: float = Field(description="The forward pass of the batch that contains the request.")


class Prediction(_Response):
    """The answer to one utterance."""

    request_id: str = Field(description="Also in the header X-Request-ID and in the log lines of the request.")
    model: ModelName = Field(description="The weights that answered.")
    polarity: str = Field(description="The answer: one of the classes of the weights.")
    confidence: Probability = Field(description="Calibrated probability that `polarity` is right.")
    probabilities: dict[str, Probability] = Field(description="Calibrated probability of each class.")
    modalities: Modalities = Field(description="What was present and what was used of it.")
    key_missing: KeyMissing = Field(description="Whether giving what is missing would change the answer.")
    summary: str = Field(description="The verdict in one plain sentence.")
    ensemble: Ensemble = Field(description="The reconstruction branches that were used.")
    warnings: list[InputWarning] = Field(description="What to take into account before trusting the answer.")
    timings_ms: Timings = Field(description="Milliseconds of each stage.")


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

    type: str = Field(
        description="Path of this service that describes the type of problem; about:blank for a plain HTTP status."
    )
    title: str = Field(description="What the type means, in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong with this request; never quotes content.")
    instance: str = Field(description="Path of the request, and of a batch its item.")
    request_id: str = Field(description="Also in the header X-Request-ID and in the log lines of the request.")
    errors: list[Fault] = Field(
        description="Each fault with its part and place; empty where the whole request is refused."
    )


class AnsweredItem(_Response):
    """An item of a batch with its answer."""

    id: str = Field(description="The id of the item.")
    answer: ExplainedPrediction | Prediction = Field(description="What POST /predict would answer.")


class RefusedItem(_Response):
    """An item of a batch with what is wrong with it."""

    id: str = Field(description="The id of the item.")
    problem: Problem = Field(description="What POST /predict would answer.")


class BatchAnswers(_Response):
    """The answers to a batch."""

    request_id: str = Field(description="Also in the header X-Request-ID.")
    items: list[AnsweredItem | RefusedItem] = Field(description="In the order of the request.")


class ProblemType(_Response):
    """What one `type` of problem means."""

    code: str = Field(description="Last component of the `type` of a problem.")
    status: int = Field(description="The HTTP status of the problem.")
    title: str = Field(description="The `title` of the problem.")
    summary: str = Field(description="What the type means, in a sentence.")


class Component(_Response):
    """The state of one part of the service."""

    ok: bool = Field(description="Whether the part works.")
    state: str = Field(description="The state in a word, such as running.")
    detail: dict[str, str | int | float | bool | dict[str, bool] | None] = Field(
        default={}, description="Figures of the part."
    )


class Health(_Response):
    """The state of the service and its parts."""

    state: str = Field(description="The phase of the service: starting, warming, ready, leaving, draining or failed.")
    ready: bool = Field(description="Whether requests are accepted.")
    components: dict[str, Component] = Field(description="Name of a part → its state.")


class Unhealthy(Health, Problem):
    """The same, while not ready."""


class Limits(_Response):
    """What a request may be at most."""

    body_bytes: int = Field(description="Size of a body.")
    body_seconds: float = Field(description="From the first byte of a body to its last.")
    text_bytes: int = Field(description="Size of the part text.")
    audio_seconds: float = Field(description="Duration of a sound.")
    audio_decoded_bytes: int = Field(description="Size of the decoded samples of a sound.")
    audio_rate: list[int] = Field(
        min_length=2, max_length=2, description="Lowest and highest sample rate of a sound, in Hz."
    )
    audio_channels: int = Field(description="Channels of a sound.")
    audio_formats: list[str] = Field(description="Formats of sound that are accepted.")
    openface_bytes: int = Field(description="Size of the part openface.")
    openface_line_bytes: int = Field(description="Length of a line of the part openface.")
    openface_columns: int = Field(description="Columns of the part openface.")
    openface_rows: int = Field(description="Rows of the part openface.")
    decode_seconds: float = Field(description="Time to decode a file.")
    batch_items: int = Field(description="Items of one `POST /predict/batch`.")
    queue: int = Field(description="Requests that may wait.")
    wait_seconds: float = Field(description="How long those who wait already may take; 0 for no such bound.")
    deadline_seconds: float = Field(description="From the last byte of a body to its answer.")


class ModelCard(ModelName):
    """The loaded weights, and what they take."""

    system: System = Field(description="What answers: EMMR, or a baseline it is compared with.")
    openface_columns: str = Field(description="Set of OpenFace columns that the weights need.")
    max_tokens: int = Field(description="Tokens of a text that count.")
    limits: Limits = Field(description="What a request may contain.")
    card: str = Field(description="The model card, Markdown.")


class Reloaded(_Response):
    """Which weights have been replaced by which."""

    old: ModelName = Field(description="The weights served before.")
    new: ModelName = Field(description="The weights served now.")
