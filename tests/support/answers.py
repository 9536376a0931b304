"""A prediction, without a model."""

from app.api.schemas import (
    AudioUse,
    BranchWeights,
    Ensemble,
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

MISSING = VisualUse(status="missing", reason="no_face")


def prediction(*, detected: bool) -> Prediction:
    return Prediction(
        request_id="trace-1",
        model=ModelName(name="tiny", version="0123456789ab", classes=["negative", "positive"]),
        polarity="negative",
        confidence=0.75,
        probabilities={"negative": 0.75, "positive": 0.25},
        modalities=Modalities(
            text=TextUse(status="present", tokens=5, truncated=False),
            audio=AudioUse(status="present", familiarity=0.25, seconds=1.0, frames=32, truncated=False),
            visual=MISSING,
        ),
        key_missing=KeyMissing(
            detected=detected,
            modalities=["visual"] if detected else [],
            polarity_full="negative",
            polarity_available="positive" if detected else "negative",
            score=0.5,
            by_modality={"visual": 0.5},
            threshold=0.5,
            rule=Rule(detected=detected, modalities=["visual"] if detected else []),
        ),
        summary="negative (75 %), and the missing face would change this with 50 %.",
        ensemble=Ensemble(used=detected, weights=BranchWeights(transformer=1, autoencoder=0, cascade=0)),
        warnings=[InputWarning(code="frames_skipped", detail="Frames left out: 1.")],
        timings_ms=Timings(parse=0, decode=1, features=2, queue=0, forward=3),
    )
