"""Content of each modality → normalised slots: the one way from a sentence, a waveform or a face track to `Utterance`.

For: training, the command line and serving alike.
Does not know: files (`sound`, `openface`), uploads, the network.

Shapes: T slots, d features, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig
from model.features.openface import ACTION_UNIT_COLUMNS, FaceTrack
from model.features.preprocessing import Preprocessing, reduce_to_slots
from model.features.text import TextEncoder, TextFeatures
from model.features.voice import Voice, listen
from model.modality import Modality

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """One clip: `array` `(T, d)`, its length in seconds, its frames, and whether frames were cut."""

    array: FloatArray
    seconds: float
    frames: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """One face track: `array` `(T, d)`, the frames used, and whether frames were cut."""

    array: FloatArray
    frames: int
    truncated: bool


class FeatureExtractor:
    """Features as one checkpoint wants them."""

    def __init__(self, config: ModelConfig, preprocessing: Preprocessing, text_encoder: TextEncoder) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.text_encoder = text_encoder

    def text(self, sentences: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences."""
        return [
            TextFeatures(
                self.slots(Modality.TEXT, f.array), f.tokens, f.truncated or self._cuts(Modality.TEXT, f.array)
            )
            for f in self.text_encoder(sentences)
        ]

    def audio(self, waveform: FloatArray) -> AudioFeatures:
        """Describe a mono 16 kHz waveform `(S,)`.

        Raises:
            EmptyModality: `too_short` or `silent`.
        """
        audio = self.config.audio
        return self.voice(listen(waveform, dynamics=audio.dynamics, silence_dbfs=audio.silence_dbfs))

    def voice(self, voice: Voice) -> AudioFeatures:
        """Describe a voice that was listened to as the config says."""
        return AudioFeatures(
            array=self.slots(Modality.AUDIO, voice.features),
            seconds=voice.seconds,
            frames=voice.features.shape[0],
            truncated=self._cuts(Modality.AUDIO, voice.features),
        )

    def visual(self, track: FaceTrack) -> VisualFeatures:
        """Describe a face track of the config's column set."""
        raw = raw_visual_features(track.values, self.config)
        return VisualFeatures(
            array=self.slots(Modality.VISUAL, raw), frames=track.kept, truncated=self._cuts(Modality.VISUAL, raw)
        )

    def slots(self, modality: Modality, raw: FloatArray) -> FloatArray:
        """Raw features `(T, d)` → normalised slots."""
        statistics = self.preprocessing.statistics.get(modality)
        normalised = raw if statistics is None else statistics.normalise(raw)
        return reduce_to_slots(normalised, self.config.slots.of(modality), self.config.slots.reduction)

    def _cuts(self, modality: Modality, raw: FloatArray) -> bool:
        slots = self.config.slots
        return slots.reduction == "truncate" and raw.shape[0] > slots.of(modality)


def raw_visual_features(values: FloatArray, config: ModelConfig) -> FloatArray:
    """Face features before normalisation: every frame `(T, d)`, or their mean `(1, d)`.

    Args:
        values: `(T, d)`, in the order of the config's column set, which ends with the action units.
        config: says what is done with them.
    """
    raw = values.mean(axis=0, keepdims=True) if config.visual.reduce == "mean" else values
    if not config.visual.root:
        return raw
    others = raw.shape[1] - len(ACTION_UNIT_COLUMNS)
    # OpenFace's intensities and occurrences are not negative; a file that holds one all the same counts it as none.
    return np.concatenate([raw[:, :others], np.sqrt(np.maximum(raw[:, others:], 0))], axis=1)
