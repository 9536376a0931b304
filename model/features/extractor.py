"""Content of each modality → normalised slots, the network's input; used by training, command line and service.

Shapes: T slots, d features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from model.config import ModelConfig
from model.errors import EmptyModality
from model.features.audio.raw_features import AudioFeatures
from model.features.normalization import Preprocessing, reduce_to_slots
from model.features.text.encoder import TextEncoder, TextFeatures
from model.features.visual.openface import FaceTrack
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from model.types import FloatArray

NO_SPEECH: Final = 0.02
"""Below this probability of speech a sound counts as missing, with the reason `no_speech`."""
MIN_CHECKED_SECONDS: Final = 0.7
"""Shorter sounds are always used: single words are mistaken for other sounds more often than sentences."""


class SpeechCheck(Protocol):
    """The part of `model.network.reliability.Reliability` that the extractor needs."""

    def speech_probability(self, voice: FloatArray) -> float | None:
        """Return the probability that normalised slots `(T, d)` hold speech; None if it is not known."""
        ...


@dataclass(eq=False)
class FeatureExtractor:
    """Computes the features that one checkpoint expects.

    Args:
        config: of the checkpoint.
        preprocessing: of the checkpoint.
        text_encoder: of the checkpoint.
        reliability: estimates the probability of speech; if None, every sound counts as speech.
    """

    config: ModelConfig
    preprocessing: Preprocessing
    text_encoder: TextEncoder
    reliability: SpeechCheck | None = None

    def text(self, sentences: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences."""
        return [
            TextFeatures(
                self.slots(Modality.TEXT, f.array), f.tokens, f.truncated or self._cuts(Modality.TEXT, f.array)
            )
            for f in self.text_encoder(sentences)
        ]

    def audio(self, raw: AudioFeatures, *, any_sound: bool = False) -> AudioFeatures:
        """Normalise raw features that were computed with the config's audio settings.

        Args:
            raw: of `model.features.audio.raw_features.extract_voice`.
            any_sound: whether to use a sound even if its probability of speech is below `NO_SPEECH`.

        Raises:
            EmptyModality: `no_speech`.
        """
        array = self.slots(Modality.AUDIO, raw.array)
        speech = None if self.reliability is None else self.reliability.speech_probability(array)
        if speech is not None and speech < NO_SPEECH and raw.spoken >= MIN_CHECKED_SECONDS and not any_sound:
            raise EmptyModality(Modality.AUDIO, "no_speech", "the sound holds no speech")
        return replace(raw, array=array, truncated=self._cuts(Modality.AUDIO, raw.array), speech=speech)

    def visual(self, track: FaceTrack) -> FaceTrack:
        """Replace the frames of a face track, read with the config's column set, by slots."""
        raw = raw_visual_features(track.values, self.config)
        return replace(track, values=self.slots(Modality.VISUAL, raw), truncated=self._cuts(Modality.VISUAL, raw))

    def slots(self, modality: Modality, raw: FloatArray) -> FloatArray:
        """Normalise raw features and reduce them to the config's number of slots, `(T', d)` → `(T, d)`."""
        statistics = self.preprocessing.statistics.get(modality)
        normalised = raw if statistics is None else statistics.normalise(raw)
        return reduce_to_slots(normalised, self.config.slots.of(modality), self.config.slots.reduction)

    def _cuts(self, modality: Modality, raw: FloatArray) -> bool:
        slots = self.config.slots
        return slots.reduction == "truncate" and raw.shape[0] > slots.of(modality)


def raw_visual_features(values: FloatArray, config: ModelConfig) -> FloatArray:
    """Features of a face before normalisation: every frame `(T, d)`, or their mean `(1, d)`.

    Args:
        values: `(T, d)`, in the order of the config's column set, which ends with the action units.
        config: selects mean or frames, and whether action units are replaced by their square root.
    """
    raw = values.mean(axis=0, keepdims=True) if config.visual.reduce == "mean" else values
    if not config.visual.root:
        return raw
    others = raw.shape[1] - len(ACTION_UNIT_COLUMNS)
    # OpenFace's intensities and occurrences are not negative; a negative value of another source counts as 0.
    return np.concatenate([raw[:, :others], np.sqrt(np.maximum(raw[:, others:], 0))], axis=1)
