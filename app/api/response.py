"""A decision and what led to it → the answer's fields.

For: HTTP and the command line, which give the same answer.
Does not know: how either of them sends it, or how anything was computed.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Final

from app.api.languages import NAMES
from app.api.schemas import (
    AudioUse,
    BranchWeights,
    Ensemble,
    ExplainedPrediction,
    InputWarning,
    KeyMissing,
    Modalities,
    ModelName,
    Prediction,
    Rule,
    TextUse,
    Timings,
    VisualUse,
)
from app.api.summary import summarise
from app.engine.engine import Reply
from app.engine.predictor import Outcome, PreparedRequest
from model.config import ModelConfig
from model.errors import EmptyModality
from model.modality import MODALITIES, Modality
from model.network.decision import Decision, argmax

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.network.reliability import Reliability

NOT_PROVIDED: Final = "not_provided"
FAMILIARITY_DIGITS: Final = 4
UNFAMILIAR: Final = {Modality.TEXT: "text", Modality.AUDIO: "voice", Modality.VISUAL: "face"}
"""What the warnings call each modality."""


def model_name(checkpoint: "Checkpoint") -> ModelName:
    """Which weights these are."""
    config = checkpoint.config
    return ModelName(name=config.name, version=checkpoint.version, classes=list(config.classes))


def compose(request_id: str, checkpoint: "Checkpoint", reply: Reply, parsed: float) -> Prediction:
    """The answer to one request, an `ExplainedPrediction` where that was asked for.

    Args:
        request_id: as given back in `X-Request-ID`.
        checkpoint: the weights that answered.
        reply: what the engine gave.
        parsed: seconds it took to read the body.
    """
    prepared, outcome = reply.prepared, reply.outcome
    classes, decision = checkpoint.config.classes, outcome.decision
    polarity, confidence = classes[decision.label_index], decision.probabilities[decision.label_index]
    key_missing = KeyMissing(
        detected=bool(decision.key_modalities),
        modalities=[str(modality) for modality in decision.key_modalities],
        polarity_full=classes[argmax(decision.full)],
        polarity_available=classes[argmax(decision.available)],
        score=decision.key_score,
        by_modality={str(modality): p for modality, p in decision.key_by_modality.items()},
        threshold=decision.threshold,
        rule=Rule(detected=bool(decision.rule), modalities=[str(modality) for modality in decision.rule]),
    )
    fitted = bool(checkpoint.reliability.verdict.fitted)
    answer = Prediction(
        request_id=request_id,
        model=model_name(checkpoint),
        polarity=polarity,
        confidence=confidence,
        probabilities=_named(classes, decision.probabilities),
        modalities=_modalities(checkpoint, prepared, outcome),
        key_missing=key_missing,
        summary=summarise(polarity, confidence, key_missing, fitted=fitted),
        ensemble=Ensemble(used=decision.ensemble_used, weights=BranchWeights(**decision.branch_weights)),
        warnings=list(_warnings(checkpoint.config, prepared, outcome)),
        timings_ms=Timings(
            parse=_ms(parsed),
            decode=_ms(reply.decode),
            features=_ms(reply.features),
            queue=_ms(reply.queue),
            forward=_ms(reply.forward),
        ),
    )
    if not prepared.options.explain:
        return answer
    return ExplainedPrediction(
        **dict(answer),
        votes={head: _named(classes, vote) for head, vote in (decision.votes or {}).items()},
        reconstruction={str(m): dict(figures) for m, figures in (decision.reconstruction or {}).items()},
    )


def _named(classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    return dict(zip(classes, probabilities, strict=True))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _modalities(checkpoint: "Checkpoint", prepared: PreparedRequest, outcome: Outcome) -> Modalities:
    familiarity = {m: _familiarity(checkpoint.reliability, outcome.decision, m) for m in MODALITIES}
    return Modalities(
        text=_text_use(checkpoint.config, outcome, familiarity[Modality.TEXT]),
        audio=_audio_use(prepared, familiarity[Modality.AUDIO]),
        visual=_visual_use(prepared, familiarity[Modality.VISUAL]),
    )


def _familiarity(reliability: "Reliability", decision: Decision, modality: Modality) -> float | None:
    """Of a modality that is there, where something is known of it."""
    value = decision.familiarity.get(modality)
    # Weights without a fitted familiarity give 1 to everything, which says nothing; what is doubtful has 0 even so.
    fitted = isfinite(float(reliability.familiarity[modality].get_buffer("bounds")[0]))
    return None if value is None or not (fitted or value < 1) else round(value, FAMILIARITY_DIGITS)


def _reason(empty: EmptyModality | None) -> str:
    return NOT_PROVIDED if empty is None else empty.reason


def _text_use(config: ModelConfig, outcome: Outcome, familiarity: float | None) -> TextUse:
    text = outcome.text
    if text is None:
        return TextUse(status="missing", reason=NOT_PROVIDED)
    return TextUse(
        status="present",
        familiarity=familiarity,
        tokens=min(text.tokens, config.text.max_tokens),
        truncated=text.truncated,
    )


def _audio_use(prepared: PreparedRequest, familiarity: float | None) -> AudioUse:
    audio = prepared.audio
    if audio is None:
        return AudioUse(status="missing", reason=_reason(prepared.empty.get(Modality.AUDIO)))
    return AudioUse(
        status="present",
        familiarity=familiarity,
        seconds=round(audio.seconds, 3),
        frames=audio.frames,
        truncated=audio.truncated,
    )


def _visual_use(prepared: PreparedRequest, familiarity: float | None) -> VisualUse:
    visual, track = prepared.visual, prepared.track
    if visual is None or track is None:
        return VisualUse(status="missing", reason=_reason(prepared.empty.get(Modality.VISUAL)))
    return VisualUse(
        status="present",
        familiarity=familiarity,
        frames=visual.frames,
        skipped=track.skipped_unsuccessful + track.skipped_low_confidence,
        faces=track.faces,
        truncated=visual.truncated,
    )


def _warnings(config: ModelConfig, prepared: PreparedRequest, outcome: Outcome) -> Iterator[InputWarning]:
    for modality, error in prepared.empty.items():
        yield InputWarning(
            code=f"{modality}_{error.reason}", detail=f"The {modality} counts as missing: {error.detail}."
        )
    yield from _of_text(config, prepared, outcome)
    yield from _of_audio(prepared)
    yield from _of_visual(prepared)
    yield from _of_familiarity(prepared, outcome.decision)


def _of_text(config: ModelConfig, prepared: PreparedRequest, outcome: Outcome) -> Iterator[InputWarning]:
    text, check = outcome.text, prepared.check
    if text is not None and text.truncated:
        limit = config.text.max_tokens
        yield InputWarning(
            code="text_truncated", detail=f"The text has {text.tokens} tokens; only {limit} of them count."
        )
    if check is not None and check.foreign:
        name = NAMES.get(check.language)
        likely = "in which language was not recognised" if name is None else f"likely {name}: {check.language}"
        detail = f"The text is not English ({likely}); the weights know English only, so it counts for nothing."
        yield InputWarning(code="language", detail=detail)
    if check is not None and check.low_information:
        yield InputWarning(code="low_information", detail="The text holds no word, so it counts for nothing.")


def _of_audio(prepared: PreparedRequest) -> Iterator[InputWarning]:
    audio = prepared.audio
    if audio is None:
        return
    if audio.truncated:
        yield InputWarning(code="audio_truncated", detail="Only the beginning of the sound counts.")
    if audio.channel is not None:
        which = f"channel {audio.channel + 1} alone was used"
        yield InputWarning(code="channel", detail=f"The channels cancel each other or one is silent; {which}.")
    if not audio.likely_speech:
        yield InputWarning(code="not_speech", detail="The sound is likely not speech, so it counts for nothing.")


def _of_visual(prepared: PreparedRequest) -> Iterator[InputWarning]:
    visual, track = prepared.visual, prepared.track
    if visual is None or track is None:
        return
    if visual.truncated:
        yield InputWarning(code="visual_truncated", detail="Only the first frames of the face count.")
    if track.faces > 1:
        detail = f"The file holds {track.faces} faces; the most confident one was followed."
        yield InputWarning(code="several_faces", detail=detail)
    unsuccessful, unsure = track.skipped_unsuccessful, track.skipped_low_confidence
    if unsuccessful or unsure:
        detail = f"Frames left out: {unsuccessful} without success, {unsure} with too little confidence."
        yield InputWarning(code="frames_skipped", detail=detail)
    if track.out_of_scale:
        detail = (
            f"In {track.out_of_scale} of {track.kept} frames an action unit is outside OpenFace's scale (intensities 0 "
            "to 5, occurrences 0 or 1); what lies beyond an end of the scale counts as that end."
        )
        yield InputWarning(code="out_of_scale", detail=detail)
    if track.all_zero:
        detail = "Every action unit is 0 in every frame, as in no real face, so the face counts for nothing."
        yield InputWarning(code="unfamiliar_face", detail=detail)


def _of_familiarity(prepared: PreparedRequest, decision: Decision) -> Iterator[InputWarning]:
    """Of what is unfamiliar for no reason that was given already."""
    from model.network.reliability import FAMILIAR  # with PyTorch, which is there once there is a decision

    for modality, kind in UNFAMILIAR.items():
        if modality not in prepared.doubtful and decision.familiarity.get(modality, 1.0) < FAMILIAR:
            detail = (
                f"The weights were trained on other kinds of recordings than this {kind} comes from, so it counts only "
                "in proportion to its familiarity."
            )
            yield InputWarning(code=f"unfamiliar_{kind}", detail=detail)
