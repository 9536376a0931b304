import io

from rich.console import Console

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
from app.offline import render

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


def test_the_tables_show_the_whole_prediction() -> None:
    answer = ExplainedPrediction(
        **dict(prediction(detected=True)),
        votes={"text+audio": {"negative": 0.6, "positive": 0.4}},
        reconstruction={"visual": {"agreement": 0.875}},
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(answer))
    shown = console.export_text()
    for words in (
        "negative (75 %), and the missing face would change this with 50 %.",
        "text+audio",
        "0.600",
        "no_face",
        "tokens 5",
        "familiarity 0.25, seconds 1.0",
        "frames_skipped",
        "0.875",
        "0123456789ab",
    ):
        assert words in shown
