"""Whether a sentence is written in English, and whether it holds any word at all.

The warnings `language` and `low_information` are given by it.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import numpy as np

ENGLISH: Final = "en"
UNDETERMINED: Final = "und"  # ISO 639-2's code for it; ISO 639-1 has none
LOOKED_AT: Final = 2_000  # characters: the verdict on a text of usual words is settled long before
# How many times likelier than English another language must be. Chosen on MELD's training split with py3langid 0.4.0,
# where 9 of 9,989 sentences are then called foreign; in MELD dev it is 0 of 1,109, in MOSI 1 of 2,199.
OUTWEIGHED: Final = 16.0
# One distinct word ("Chandler.", "Go, go, go!", "naïve") may be a name or a loan: in MELD's training split such texts
# score as high as foreign sentences do.
FEWEST_WORDS: Final = 2
# The languages told apart in Latin script. A language that is not here is usually taken for a relative that is, so that
# it is foreign all the same; each one more costs 200 kB of memory.
LATIN: Final = (
    *("af", "ca", "cs", "cy", "da", "de", ENGLISH, "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id", "is", "it"),
    *("lt", "lv", "nl", "no", "pl", "pt", "ro", "sk", "sl", "sq", "sv", "sw", "tl", "tr", "vi"),
)
OTHER_SCRIPTS: Final[dict[str, tuple[str, ...]]] = {  # keyed by the first word of a letter's Unicode name
    "ARABIC": ("ar", "fa", "ur"),
    "ARMENIAN": ("hy",),
    "BENGALI": ("bn",),
    "CJK": ("zh",),
    "CYRILLIC": ("bg", "ru", "sr", "uk"),
    "DEVANAGARI": ("hi",),
    "GEORGIAN": ("ka",),
    "GREEK": ("el",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "HANGUL": ("ko",),
    "HEBREW": ("he",),
    "HIRAGANA": ("ja",),
    "KANNADA": ("kn",),
    "KATAKANA": ("ja",),
    "KATAKANA-HIRAGANA": ("ja",),
    "KHMER": ("km",),
    "LAO": ("lo",),
    "MALAYALAM": ("ml",),
    "MYANMAR": ("my",),
    "SINHALA": ("si",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
}
KANA: Final = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"})
ONE_LETTER_WORDS: Final = frozenset({"CJK", "HANGUL"})  # scripts of which one character is a syllable or a word


@dataclass(frozen=True, slots=True)
class TextCheck:
    """What the letters of a text say.

    Args:
        language: ISO 639-1 code of the likeliest language, "und" where undetermined. "en" where English leads; another
            code only where `foreign`.
        english: probability in [0, 1] of English, as against the likeliest other language; 0 for a text in another
            script, 0.5 where there is no word. At least 0.5 for one Latin word, which is too little to tell.
        low_information: no word of letters: emoji, punctuation, digits or single letters only.
    """

    language: str
    english: float
    low_information: bool

    @property
    def foreign(self) -> bool:
        """Whether a warning is due that the text is not English."""
        return self.english * (1.0 + OUTWEIGHED) < 1.0


def check_text(text: str) -> TextCheck:
    """Look at the first `LOOKED_AT` characters of a text.

    The first call on Latin, Cyrillic or Arabic letters loads the model: call it once at warm-up. Safe from any thread.
    """
    # NFKC makes styled letters (full width, mathematical script) plain. It may lengthen the text: hence the second cut.
    text = unicodedata.normalize("NFKC", text.lstrip()[:LOOKED_AT])[:LOOKED_AT]
    text = " ".join(token for token in text.split() if not _is_address(token))
    words = _words(text)
    scripts = Counter(_script(letter) for word in words for letter in word if letter.isalpha())
    if not scripts:
        return TextCheck(UNDETERMINED, 0.5, low_information=True)
    if 2 * scripts["LATIN"] < scripts.total():
        return TextCheck(_language_of_script(text, scripts), 0.0, low_information=False)
    probabilities = _probabilities(text, LATIN)
    english = probabilities.pop(ENGLISH)
    rival = max(probabilities, key=probabilities.__getitem__)
    total = english + probabilities[rival]
    share = english / total if total > 0.0 else 0.5
    if len({word.casefold() for word in words}) < FEWEST_WORDS:
        share = max(share, 0.5)
    outweighed = TextCheck(rival, share, low_information=False)
    if outweighed.foreign:
        return outweighed
    leading = ENGLISH if english >= probabilities[rival] else UNDETERMINED
    return TextCheck(leading, share, low_information=False)


def _is_address(token: str) -> bool:
    return "@" in token or "://" in token or token.startswith("www.")


def _words(text: str) -> list[str]:
    """Stretches of letters and their marks, apostrophes and hyphens within.

    Single letters are left out, and with them faces drawn with one (":D", "ಠ_ಠ").
    """
    kept = "".join(c if c.isalpha() or c in "'’-" or unicodedata.category(c) in {"Mn", "Mc"} else " " for c in text)
    words = (word.strip("'’-") for word in kept.split())
    return [
        word for word in words if any(map(str.isalpha, word)) and (len(word) > 1 or _script(word) in ONE_LETTER_WORDS)
    ]


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").partition(" ")[0]
    return "LATIN" if first == "MODIFIER" else first  # such letters stand among those of any script


def _language_of_script(text: str, scripts: Counter[str]) -> str:
    """The likeliest language of a text most letters of which are not Latin."""
    scripts = Counter({script: count for script, count in scripts.items() if script != "LATIN"})
    script = scripts.most_common(1)[0][0]
    if script == "CJK" and not KANA.isdisjoint(scripts):  # Japanese mixes both, Chinese has no kana
        return "ja"
    languages = OTHER_SCRIPTS.get(script, (UNDETERMINED,))
    if len(languages) == 1:
        return languages[0]
    probabilities = _probabilities(text, languages)
    return max(probabilities, key=probabilities.__getitem__)


def _probabilities(text: str, languages: Iterable[str]) -> dict[str, float]:
    try:
        ranked: dict[str, float] = dict(_identifier().rank(text))
    except OSError:  # the library unpacks its model into a temporary file: without room for it nothing is known
        return dict.fromkeys(languages, 0.0)
    return {language: ranked[language] for language in languages}


_loading = Lock()
_loaded: list[Any] = []


def _identifier() -> Any:
    """The model, loaded once. Reading it does not change it, so that threads may share it."""
    if not _loaded:
        with _loading:  # takes 100 MB for a moment, 63 MB after: never two side by side
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> Any:
    from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier
    from py3langid.modelio import load_model

    table, prior, classes, following, row, output = load_model(MODEL_DIR / MODEL_FILE)
    wanted = {*LATIN, *(name for names in OTHER_SCRIPTS.values() if len(names) > 1 for name in names)}
    columns = [at for at, name in enumerate(classes) if name in wanted]
    # Copied, so that the columns of the other hundred languages (20 MB) can go.
    return LanguageIdentifier(
        np.ascontiguousarray(table[:, columns]),
        prior[columns],
        [classes[at] for at in columns],
        following,
        output,
        norm_probs=True,
        tk_row=row,
    )
