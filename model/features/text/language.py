"""Check of a sentence: is it English, does it hold a word at all, and is it one sentence or subtitles?

py3langid estimates the language of Latin, Cyrillic and Arabic text; each other script has one language.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from threading import Lock
from typing import Any, Final

import numpy as np

ENGLISH: Final = "en"
UNDETERMINED: Final = "und"  # ISO 639-2's code for it; ISO 639-1 has none
MAX_CHARACTERS: Final = 2_000  # checked at the beginning of a text; more do not change the result
# Odds of another language against English from which on a text is foreign. Chosen on MELD's training split with
# py3langid 0.4.0: 9 of its 9,989 sentences are foreign then, 0 of 1,109 in MELD dev, 1 of 2,199 in MOSI.
FOREIGN_ODDS: Final = 16.0
# A text of one distinct word ("Chandler.", "Go, go, go!", "naïve") is never foreign: it may be a name or a loanword,
# and in MELD's training split such texts score as high as foreign sentences.
MIN_WORDS: Final = 2
# Candidates for text in Latin script. Another language is usually taken for a related one, so it is foreign as well.
# Each language takes 200 kB of memory.
LATIN: Final = (
    *("af", "ca", "cs", "cy", "da", "de", ENGLISH, "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id", "is", "it"),
    *("lt", "lv", "nl", "no", "pl", "pt", "ro", "sk", "sl", "sq", "sv", "sw", "tl", "tr", "vi"),
)
KANA: Final = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"})
OTHER_SCRIPTS: Final[dict[str, tuple[str, ...]]] = {  # by the first word of a letter's Unicode name
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
    "KANNADA": ("kn",),
    "KHMER": ("km",),
    "LAO": ("lo",),
    "MALAYALAM": ("ml",),
    "MYANMAR": ("my",),
    "SINHALA": ("si",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
    **dict.fromkeys(KANA, ("ja",)),
}
ONE_LETTER_WORDS: Final = frozenset({"CJK", "HANGUL"})  # scripts in which one character is a syllable or a word
# One cue of SRT ("00:00:00,000 --> 00:00:02,000") or WebVTT, which has points and may lack hours.
_SUBTITLE_TIMES: Final = re.compile(r"\d\d:\d\d[,.]\d{3}[ \t]*-->[ \t]*(?:\d\d+:)?\d\d:\d\d[,.]\d{3}", re.ASCII)
_lock = Lock()  # two threads that load the model would take 100 MB each


@dataclass(frozen=True, slots=True)
class TextCheck:
    """Result of the language check.

    Args:
        language: ISO 639-1 code: `en` if English is the likeliest, another code only if `foreign`, otherwise `und`.
        english: probability in [0, 1] of English against the likeliest other language; 0 for another script, 0.5
            without a word, at least 0.5 for a single Latin word.
        low_information: whether there is no word: only emoji, punctuation, digits or single letters.
        subtitles: whether there are times as in SRT and WebVTT files.
    """

    language: str
    english: float
    low_information: bool
    subtitles: bool = False

    @property
    def foreign(self) -> bool:
        """Whether the text is not English, to be reported by a warning."""
        return self.english * (1.0 + FOREIGN_ODDS) < 1.0


def check_text(text: str) -> TextCheck:
    """Check the first `MAX_CHARACTERS` characters of a text; thread-safe.

    The first call on Latin, Cyrillic or Arabic letters loads the model, so a service calls it once at start-up.
    """
    # NFKC replaces styled letters (full width, mathematical script) by plain ones. It may lengthen the text.
    text = unicodedata.normalize("NFKC", text.lstrip()[:MAX_CHARACTERS])[:MAX_CHARACTERS]
    return replace(_check_language(text), subtitles=_SUBTITLE_TIMES.search(text) is not None)


def _check_language(text: str) -> TextCheck:
    text = " ".join(word for word in text.split() if not re.search("@|://|^www[.]", word))  # without addresses
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
    if len({word.casefold() for word in words}) < MIN_WORDS:
        share = max(share, 0.5)
    check = TextCheck(rival, share, low_information=False)
    if check.foreign:
        return check
    return replace(check, language=ENGLISH if english >= probabilities[rival] else UNDETERMINED)


def _words(text: str) -> list[str]:
    """Words of letters and combining marks, with apostrophes and hyphens inside.

    Single letters are excluded, and with them emoticons (":D", "ಠ_ಠ").
    """
    kept = "".join(c if c.isalpha() or c in "'’-" or unicodedata.category(c) in {"Mn", "Mc"} else " " for c in text)
    words = (word.strip("'’-") for word in kept.split() if any(map(str.isalpha, word)))
    return [word for word in words if len(word) > 1 or _script(word) in ONE_LETTER_WORDS]


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").partition(" ")[0]
    return "LATIN" if first == "MODIFIER" else first  # modifier letters occur in text of any script


def _language_of_script(text: str, scripts: Counter[str]) -> str:
    """Likeliest language of a text whose letters are mostly not Latin."""
    script = max(scripts, key=lambda name: 0 if name == "LATIN" else scripts[name])
    if script == "CJK" and not KANA.isdisjoint(scripts):  # Japanese mixes both, Chinese has no kana
        return "ja"
    languages = OTHER_SCRIPTS.get(script, (UNDETERMINED,))
    if len(languages) == 1:
        return languages[0]
    probabilities = _probabilities(text, languages)
    return max(probabilities, key=probabilities.__getitem__)


def _probabilities(text: str, languages: Iterable[str]) -> dict[str, float]:
    try:
        with _lock:
            identifier = _load()
        ranked: dict[str, float] = dict(identifier.rank(text))
    except OSError:  # the library unpacks its model into a temporary file; without disk space nothing is known
        return dict.fromkeys(languages, 0.0)
    return {language: ranked[language] for language in languages}


@cache
def _load() -> Any:
    """Return the model, which threads may share."""
    from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier
    from py3langid.modelio import load_model

    table, prior, classes, following, row, output = load_model(MODEL_DIR / MODEL_FILE)
    wanted = {*LATIN, *(name for names in OTHER_SCRIPTS.values() if len(names) > 1 for name in names)}
    columns = [at for at, name in enumerate(classes) if name in wanted]
    # Copied to free the columns of the other hundred languages, 20 MB.
    return LanguageIdentifier(
        np.ascontiguousarray(table[:, columns]),
        prior[columns],
        [classes[at] for at in columns],
        following,
        output,
        norm_probs=True,
        tk_row=row,
    )
