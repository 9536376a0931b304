import pytest

from app.api.schemas import KeyMissing, Rule
from app.api.summary import summarise


def key(score: float = 0.0, *, detected: bool = False, **by_modality: float) -> KeyMissing:
    return KeyMissing(
        detected=detected,
        modalities=[],
        polarity_full="positive",
        polarity_available="positive",
        score=score,
        by_modality=by_modality,
        threshold=0.5,
        rule=Rule(detected=False, modalities=[]),
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (key(), "positive (81 %); nothing is missing."),
        (
            key(0.614, detected=True, visual=0.614),
            "positive (81 %), and the missing face would change this with 61 %.",
        ),
        (key(0.004, text=0.004), "positive (81 %), and the missing words would change this with 0 %."),
        (
            key(0.34, audio=0.11, visual=0.3),
            (
                "positive (81 %); the missing voice and face together would change this with 34 %, "
                "the face alone with 30 %."
            ),
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(given: KeyMissing, words: str) -> None:
    assert summarise("positive", 0.806, given, fitted=True) == words


@pytest.mark.parametrize("detected", [False, True])
def test_probabilities_that_were_not_fitted_are_not_given(detected: bool) -> None:
    said = summarise("negative", 0.55, key(0.45, detected=detected, text=0.45, visual=0.45), fitted=False)
    assert said == "negative (55 %); how likely the missing words and face would change this is not known."
    assert summarise("negative", 0.55, key(), fitted=False) == "negative (55 %); nothing is missing."
