"""The verdict in one plain sentence.

For: the answer's `summary`, which the command line's table and the page show as it is.
"""

from typing import Final

from app.api.schemas import KeyMissing

WORDS: Final = {"text": "words", "audio": "voice", "visual": "face"}


def summarise(polarity: str, confidence: float, key: KeyMissing, *, fitted: bool) -> str:
    """Say what the answer is, and how likely what is missing would change it.

    Args:
        polarity: the answer.
        confidence: its probability.
        key: what is missing, and what it would do.
        fitted: whether the weights' probabilities of another answer were fitted; else they are not given.
    """
    said = f"{polarity} ({_percent(confidence)})"
    missing = [WORDS[modality] for modality in key.by_modality]
    if not missing:
        return f"{said}; nothing is missing."
    if not fitted:
        return f"{said}; how likely the missing {' and '.join(missing)} would change this is not known."
    if len(missing) == 1:
        return f"{said}, and the missing {missing[0]} would change this with {_percent(key.score)}."
    likeliest = max(key.by_modality, key=key.by_modality.__getitem__)
    return (
        f"{said}; the missing {' and '.join(missing)} together would change this with {_percent(key.score)}, "
        f"the {WORDS[likeliest]} alone with {_percent(key.by_modality[likeliest])}."
    )


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"
