"""The composite corpus with emotions as classes: sentences of MELD with the acted voices and faces of RAVDESS.

Sources: see `model.training.datasets.composite`; numbers of classes: the paper's Table 4.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from model.errors import ConfigError
from model.modality import Modality
from model.training.datasets import ravdess
from model.training.datasets.base import SPLITS, Example, FixedCorpus, Signal, Split, example_of
from model.training.datasets.composite import CARRIERS, NATIVE, CompositeCorpus

NEUTRAL: Final = "neutral"
_FOUR: Final = {emotion: emotion for emotion in ("angry", "happy", "sad")} | dict.fromkeys(("neutral", "calm"), NEUTRAL)
EMOTION_MAPS: Final[Mapping[int, Mapping[str, str]]] = {
    2: dict.fromkeys(("sad", "angry", "fearful", "disgust"), "negative") | {"happy": "positive"},
    4: _FOUR,
    7: _FOUR | {emotion: emotion for emotion in ("disgust", "fearful", "surprised")},
}
"""Number of classes → emotion → class. Sentences and clips with another emotion are left out, but neutral ones still
stand in for the modalities that do not carry the label."""

_Option = TypeVar("_Option")


class EmotionCompositeCorpus(FixedCorpus):
    """The sentences of `composite` that have an emotion, each paired anew with a voice and a face of RAVDESS.

    The rule is that of `composite`, with classes of emotions in place of polarities: a sentence that is not neutral
    carries its class alone or together with voice and face; with a neutral one, the label is carried by none, by voice
    and face, or by one of them, and modalities that do not carry it are neutral. How often each occurs is counted in
    `composite/train.csv`; a label that the sentence does not carry is drawn uniformly. Voice and face are of one actor,
    and of one clip if both have the same class. The parts are those of `composite`, sentences and actors alike, and are
    drawn with a fixed seed.

    Args:
        data: the folder that holds `composite/`, `ravdess/`, `meld/` and `mosi/`.
        classes: a key of `EMOTION_MAPS`. With two, a neutral modality has no class of its own.

    Raises:
        CorpusError: a file is missing or has an error; names it and the line.
        ConfigError: a class has no clip in a part, or the training part lacks a kind of sentence to count.
    """

    def __init__(self, data: Path, *, classes: int) -> None:
        self.name, self._map = f"composite-{classes}", EMOTION_MAPS[classes]
        self.classes = tuple(sorted(set(self._map.values())))
        composite = CompositeCorpus(data)
        training = [e for e in composite.examples("train") if Modality.TEXT in e.emotions and e.decided_by != NATIVE]
        self._kinds: dict[bool, list[str]] = {True: [], False: []}  # whether the sentence is neutral → `decided_by`
        for example in training:
            neutral = example.modality_labels[Modality.TEXT] == NEUTRAL
            assert example.decided_by is not None
            if not neutral or NEUTRAL in self.classes or Modality.TEXT not in CARRIERS[example.decided_by]:
                self._kinds[neutral].append(example.decided_by)
        if not all(self._kinds.values()):
            raise ConfigError("composite/train.csv lacks pairings of neutral sentences of MELD, or of other ones")
        self._clips = _Clips(ravdess.read_clips(data / "ravdess").values(), self._class_of)
        self._sentences = {split: list(self._texts(composite.examples(split))) for split in SPLITS[:3]}
        super().__init__(
            {split: self._draw(split, np.random.default_rng([0, n])) for n, split in enumerate(SPLITS[:3])}
        )

    def redraw(self, rng: np.random.Generator) -> Sequence[Example]:
        """Pair every training sentence anew, by the same rule."""
        return self._draw("train", rng)

    def _class_of(self, emotion: str | None) -> str | None:
        """The class of an emotion, `NEUTRAL` for a neutral one in any case, or None where it is left out."""
        return NEUTRAL if emotion in ("neutral", "calm") else self._map.get(emotion or "")

    def _texts(self, examples: Iterable[Example]) -> Iterator[tuple[str, Signal]]:
        for example in examples:
            text = Signal.of(example, Modality.TEXT)
            if self._class_of(text.emotion) is not None:
                yield example.id, text

    def _draw(self, split: Split, rng: np.random.Generator) -> tuple[Example, ...]:
        return tuple(self._pair(example_id, text, split, rng) for example_id, text in self._sentences[split])

    def _pair(self, example_id: str, text: Signal, split: Split, rng: np.random.Generator) -> Example:
        own = self._class_of(text.emotion)
        kind = _choose(self._kinds[own == NEUTRAL], rng)
        carriers = CARRIERS[kind]
        label = own if Modality.TEXT in carriers else _choose([c for c in self.classes if c != NEUTRAL], rng)
        assert label is not None
        voice, face = (label if modality in carriers else NEUTRAL for modality in (Modality.AUDIO, Modality.VISUAL))
        signals = (text, *self._clips.draw(split, voice, face, rng))
        return example_of(example_id, label, [self._classed(signal) for signal in signals], kind)

    def _classed(self, signal: Signal) -> Signal:
        """A signal with its class in place of its polarity."""
        own = self._class_of(signal.emotion)
        return replace(signal, polarity=own if own in self.classes else None)


class _Clips:
    """The clips of each part, by actor and class."""

    def __init__(self, clips: Iterable[ravdess.Clip], class_of: Callable[[str | None], str | None]) -> None:
        self._clips: dict[Split, dict[int, dict[str, list[ravdess.Clip]]]] = {split: {} for split in SPLITS}
        for clip in clips:
            own = class_of(clip.voice.emotion)
            if clip.name.split is not None and own is not None:
                actors = self._clips[clip.name.split]
                actors.setdefault(clip.name.actor, defaultdict(list))[own].append(clip)

    def draw(self, split: Split, voice: str, face: str, rng: np.random.Generator) -> tuple[Signal, Signal]:
        """Draw an actor of a part, then a clip for the voice and, if its class is another, one for the face.

        Raises:
            ConfigError: no actor of the part has clips of both classes.
        """
        able = [clips for clips in self._clips[split].values() if clips.keys() >= {voice, face}]
        if not able:
            raise ConfigError(f"no actor of the {split} part has clips that are {' and '.join(sorted({voice, face}))}")
        clips = _choose(able, rng)
        chosen = _choose(clips[voice], rng)
        return chosen.voice, (chosen if face == voice else _choose(clips[face], rng)).face


def _choose(options: Sequence[_Option], rng: np.random.Generator) -> _Option:
    return options[int(rng.integers(len(options)))]
