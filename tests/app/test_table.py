import io

import pytest
from rich.console import Console

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
from app.table import render, sentence

PRESENT = VisualUse(status="present", frames=12, skipped=1, faces=1, truncated=False)
MISSING = VisualUse(status="missing", reason="no_face")


def prediction(visual: VisualUse, *, detected: bool) -> Prediction:
    return Prediction(
        request_id="trace-1",
        model=ModelName(name="tiny", version="0123456789ab", classes=["negative", "positive"]),
        polarity="negative",
        confidence=0.75,
        probabilities={"negative": 0.75, "positive": 0.25},
        modalities=Modalities(
            text=TextUse(status="present", tokens=5, truncated=False),
            audio=AudioUse(status="present", seconds=1.0, frames=32, truncated=False),
            visual=visual,
        ),
        key_missing=KeyMissing(
            detected=detected,
            modalities=["visual"] if detected else [],
            polarity_full="positive" if detected else "negative",
            polarity_available="negative",
            score=0.5,
        ),
        ensemble=Ensemble(used=detected, weights=BranchWeights(transformer=1, autoencoder=0, cascade=0)),
        warnings=[Caution(code="frames_skipped", detail="Frames left out: 1.")],
        timings_ms=Timings(parse=0, decode=1, features=2, queue=0, forward=3),
    )


@pytest.mark.parametrize(
    ("visual", "detected", "words"),
    [
        (PRESENT, False, "negative (75%), with nothing missing"),
        (MISSING, False, "negative (75%), and the missing visual would likely not have changed this"),
        (
            MISSING,
            True,
            (
                "negative (75%), and the missing visual would likely have changed this:"
                " negative without, positive with what was recovered"
            ),
        ),
    ],
)
def test_the_answer_is_a_sentence(visual: VisualUse, detected: bool, words: str) -> None:
    assert sentence(prediction(visual, detected=detected)) == words


def test_the_whole_answer_is_shown() -> None:
    answer = ExplainedPrediction(
        **dict(prediction(MISSING, detected=True)),
        votes={"text+audio": {"negative": 0.6, "positive": 0.4}},
        reconstruction={"visual": {"agreement": 0.875}},
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(answer))
    shown = console.export_text()
    for words in (
        "text+audio",
        "0.600",
        "no_face",
        "tokens 5",
        "seconds 1.0",
        "frames_skipped",
        "0.875",
        "0123456789ab",
    ):
        assert words in shown
