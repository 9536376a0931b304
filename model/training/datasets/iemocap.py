"""IEMOCAP: acted dialogues of ten speakers in five sessions, read from the folder of the release.

Busso et al., "IEMOCAP: Interactive Emotional Dyadic Motion Capture Database", LREV 42(4), 2008.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from model.errors import CorpusError
from model.modality import Modality
from model.training.datasets.base import Example, FixedCorpus, OpenFaceSource, SoundSource, Source, Split, TextSource
from model.training.datasets.tables import AS_WINDOWS_1252, read_content, repair

SESSIONS: Final[Mapping[int, Split]] = {1: "train", 2: "train", 3: "train", 4: "val", 5: "test"}
"""Session → part. Each session has two speakers of its own."""
MAPS: Final[Mapping[int, Mapping[str, str]]] = {
    2: dict.fromkeys(("fru", "ang", "sad", "fea", "dis"), "negative") | dict.fromkeys(("hap", "exc"), "positive"),
    4: {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"},
    7: {
        "ang": "angry",
        "exc": "excited",
        "fru": "frustrated",
        "hap": "happy",
        "neu": "neutral",
        "sad": "sad",
        "sur": "surprised",
    },
}
"""Number of classes → emotion code → class (paper, 4.1 and Table 6); utterances with another code are left out."""
CODES: Final = frozenset({"ang", "dis", "exc", "fea", "fru", "hap", "neu", "oth", "sad", "sur", "xxx"})

_LABEL: Final = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\t(Ses\w+)\t(\w+)\t\[.*\]")
_SENTENCE: Final = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]: ?(.*)")


class IemocapCorpus(FixedCorpus):
    """Utterances of `Session<N>/dialog/EmoEvaluation/*.txt`, in the session-wise split of `SESSIONS`.

    Sentences are those of `Session<N>/dialog/transcriptions/<dialogue>.txt`, sounds
    `Session<N>/sentences/wav/<dialogue>/<utterance>.wav`, faces `openface/<utterance>.csv`. A face that does not exist
    is a missing modality.

    Args:
        folder: of the release, with `Session1/` to `Session5/`.
        classes: a key of `MAPS`.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
    """

    def __init__(self, folder: Path, *, classes: int) -> None:
        self.name, self._folder, self._map = f"iemocap-{classes}", folder, MAPS[classes]
        self.classes = tuple(sorted(set(self._map.values())))
        splits: dict[Split, list[Example]] = {"train": [], "val": [], "test": []}
        for session, split in SESSIONS.items():
            splits[split] += self._session(folder / f"Session{session}")
        super().__init__(splits)

    def _session(self, session: Path) -> Iterator[Example]:
        # Not `*.txt`: the release holds files of macOS beside the others, named `._Ses…`.
        evaluations = sorted((session / "dialog" / "EmoEvaluation").glob("Ses*.txt"))
        if not evaluations:
            raise CorpusError(session / "dialog" / "EmoEvaluation", None, "holds no file Ses*.txt")
        for evaluation in evaluations:
            sentences = _sentences(session / "dialog" / "transcriptions" / evaluation.name)
            for line, id_, code in _labels(evaluation):
                if code not in self._map:
                    continue
                if id_ not in sentences:
                    raise CorpusError(evaluation, line, f"{id_} has no sentence in transcriptions/{evaluation.name}")
                sound = session / "sentences" / "wav" / evaluation.stem / f"{id_}.wav"
                if not sound.is_file():
                    raise CorpusError(evaluation, line, f"{id_} has no sound {sound}")
                sources: dict[Modality, Source] = {Modality.AUDIO: SoundSource(sound)}
                if sentences[id_].strip():
                    sources[Modality.TEXT] = TextSource(sentences[id_])
                if (face := self._folder / "openface" / f"{id_}.csv").is_file():
                    sources[Modality.VISUAL] = OpenFaceSource(face)
                yield Example(id_, self._map[code], sources)


def _labels(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, utterance and emotion code of every utterance of an evaluation; other lines are single annotators'."""
    found: set[str] = set()
    for line, text in _lines(path):
        if not text.startswith("["):
            continue
        match = _LABEL.fullmatch(text)
        if match is None:
            raise CorpusError(path, line, "is no line '[start - end] utterance emotion [ratings]'")
        id_, code = match.groups()
        if code not in CODES:
            raise CorpusError(path, line, f"unknown emotion {code!r}")
        if id_ in found:
            raise CorpusError(path, line, f"{id_} is there twice")
        found.add(id_)
        yield line, id_, code


def _sentences(path: Path) -> Mapping[str, str]:
    """Utterance → sentence. Lines that do not begin with an utterance are interjections of nobody's turn."""
    sentences: dict[str, str] = {}
    for line, text in _lines(path):
        if not text.startswith("Ses"):
            continue
        match = _SENTENCE.fullmatch(text)
        if match is None:
            raise CorpusError(path, line, "is no line 'utterance [start-end]: sentence'")
        sentences[match[1]] = repair(match[2])
    return sentences


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of every line, without blanks at its ends."""
    content = read_content(path).decode("utf-8-sig", errors=AS_WINDOWS_1252)
    for number, line in enumerate(content.split("\n"), start=1):
        yield number, line.strip()
