"""A decision and what led to it → the answer's fields.

For: HTTP and the command line, which give the same answer.
Does not know: how either of them sends it, or how anything was computed.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from app.api.schemas import (
    AudioUse,
    BranchWeights,
    Caution,
    Ensemble,
    ExplainedPrediction,
    KeyMissing,
    Modalities,
    ModelName,
    Prediction,
    TextUse,
    Timings,
    VisualUse,
)
from app.inference.engine import Reply
from app.inference.predictor import Outcome, Prepared
from model.config import ModelConfig
from model.emmr.decision import argmax
from model.errors import EmptyModality
from model.modality import Modality

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.features.extraction import AudioFeatures, VisualFeatures
    from model.features.openface import FaceTrack
    from model.features.text import TextFeatures

NOT_PROVIDED: Final = "not_provided"


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
    answer = Prediction(
        request_id=request_id,
        model=model_name(checkpoint),
        polarity=classes[decision.label_index],
        confidence=decision.probabilities[decision.label_index],
        probabilities=_named(classes, decision.probabilities),
        modalities=_modalities(checkpoint.config, prepared, outcome),
        key_missing=KeyMissing(
            detected=bool(decision.key_modalities),
            modalities=[str(modality) for modality in decision.key_modalities],
            polarity_full=classes[argmax(decision.full)],
            polarity_available=classes[argmax(decision.available)],
            score=decision.key_score,
        ),
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
    if not prepared.explain:
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


def _modalities(config: ModelConfig, prepared: Prepared, outcome: Outcome) -> Modalities:
    return Modalities(
        text=_text_use(config, outcome.text),
        audio=_audio_use(prepared.audio, prepared.empty.get(Modality.AUDIO)),
        visual=_visual_use(prepared.visual, prepared.track, prepared.empty.get(Modality.VISUAL)),
    )


def _reason(empty: EmptyModality | None) -> str:
    return NOT_PROVIDED if empty is None else empty.reason


def _text_use(config: ModelConfig, text: "TextFeatures | None") -> TextUse:
    if text is None:
        return TextUse(status="missing", reason=NOT_PROVIDED)
    return TextUse(status="present", tokens=min(text.tokens, config.text.max_tokens), truncated=text.truncated)


def _audio_use(audio: "AudioFeatures | None", empty: EmptyModality | None) -> AudioUse:
    if audio is None:
        return AudioUse(status="missing", reason=_reason(empty))
    return AudioUse(status="present", seconds=round(audio.seconds, 3), frames=audio.frames, truncated=audio.truncated)


def _visual_use(visual: "VisualFeatures | None", track: "FaceTrack | None", empty: EmptyModality | None) -> VisualUse:
    if visual is None or track is None:
        return VisualUse(status="missing", reason=_reason(empty))
    return VisualUse(
        status="present",
        frames=visual.frames,
        skipped=track.skipped_unsuccessful + track.skipped_low_confidence,
        faces=track.faces,
        truncated=visual.truncated,
    )


def _warnings(config: ModelConfig, prepared: Prepared, outcome: Outcome) -> Iterator[Caution]:
    for modality, error in prepared.empty.items():
        yield Caution(code=f"{modality}_{error.reason}", detail=f"The {modality} counts as missing: {error.detail}.")
    text, audio, visual, track = outcome.text, prepared.audio, prepared.visual, prepared.track
    if text is not None and text.truncated:
        limit = config.text.max_tokens
        yield Caution(code="text_truncated", detail=f"The text has {text.tokens} tokens; only {limit} of them count.")
    if audio is not None and audio.truncated:
        yield Caution(code="audio_truncated", detail="Only the beginning of the sound counts.")
    if visual is not None and visual.truncated:
        yield Caution(code="visual_truncated", detail="Only the first frames of the face count.")
    if track is None:
        return
    if track.faces > 1:
        detail = f"The file holds {track.faces} faces; the most confident one was followed."
        yield Caution(code="several_faces", detail=detail)
    unsuccessful, unsure = track.skipped_unsuccessful, track.skipped_low_confidence
    if unsuccessful or unsure:
        detail = f"Frames left out: {unsuccessful} without success, {unsure} with too little confidence."
        yield Caution(code="frames_skipped", detail=detail)
