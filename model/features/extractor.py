"""Content of each modality → normalised slots: the one way from a sentence, a waveform or a face track to `Utterance`.

For: training, the command line and serving alike.
Does not know: files (`sound`, `openface`), uploads, the network.

Shapes: T slots, d features, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from model.config import ModelConfig
from model.errors import EmptyModality
from model.features.audio.dsp.stft import SAMPLE_RATE, frame_count
from model.features.audio.raw_features import Voice, listen
from model.features.normalization import Preprocessing, reduce_to_slots
from model.features.text.encoder import TextEncoder, TextFeatures
from model.features.visual.openface import ACTION_UNIT_COLUMNS, FaceTrack
from model.modality import Modality
from model.types import FloatArray

SURE: Final = 0.02
"""Below this probability of speech a sound counts as missing, with the reason `no_speech`."""
SURE_SECONDS: Final = 0.7
"""Shorter sounds are never sure: single words were taken for other sounds more often than sentences."""
WARN: Final = 0.5
"""Below this one it is used with a warning: it may be no speech."""


class SpeechCheck(Protocol):
    """What the extractor needs of `model.network.reliability.Reliability`."""

    def speech_probability(self, voice: FloatArray) -> float | None:
        """Probability that normalised slots `(T, d)` hold speech; None where that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """One clip: `array` `(T, d)`, its length in seconds, its frames, and whether frames were cut.

    `spoken` and `channel` are `model.features.audio.raw_features.Voice`'s; `speech` is the probability that it is speech, None where
    that is not known.
    """

    array: FloatArray
    seconds: float
    frames: int
    truncated: bool
    spoken: float
    channel: int | None = None
    speech: float | None = None

    @property
    def likely_speech(self) -> bool:
        """Whether it is to be taken for speech, as it is where nothing is known."""
        return self.speech is None or self.speech >= WARN


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """One face track: `array` `(T, d)`, the frames used, and whether frames were cut."""

    array: FloatArray
    frames: int
    truncated: bool


class FeatureExtractor:
    """Features as one checkpoint wants them.

    Args:
        config: the checkpoint's.
        preprocessing: the same.
        text_encoder: the same.
        reliability: tells speech from other sounds; without it every sound is taken for speech.
    """

    def __init__(
        self,
        config: ModelConfig,
        preprocessing: Preprocessing,
        text_encoder: TextEncoder,
        reliability: SpeechCheck | None = None,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.text_encoder = text_encoder
        self.reliability = reliability

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
            EmptyModality: `too_short`, `silent` or `no_speech`.
        """
        audio = self.config.audio
        return self.voice(
            listen(
                waveform,
                dynamics=audio.dynamics,
                silence_dbfs=audio.silence_dbfs,
                conditioned=audio.conditioned,
                encoder=audio.encoder,
            )
        )

    def voice(self, voice: Voice, *, any_sound: bool = False) -> AudioFeatures:
        """Describe a voice that was listened to as the config says.

        Args:
            voice: what was heard.
            any_sound: describe it even if it is surely no speech.

        Raises:
            EmptyModality: `no_speech`.
        """
        array = self.slots(Modality.AUDIO, voice.features)
        frames = voice.features.shape[0]
        if self.config.audio.encoder != "acoustic":  # one row stands for the whole clip
            frames = frame_count(round(voice.spoken * SAMPLE_RATE))
        speech = None if self.reliability is None else self.reliability.speech_probability(array)
        if speech is not None and speech < SURE and voice.spoken >= SURE_SECONDS and not any_sound:
            raise EmptyModality(Modality.AUDIO, "no_speech", "the sound holds no speech")
        return AudioFeatures(
            array=array,
            seconds=voice.seconds,
            frames=frames,
            truncated=self._cuts(Modality.AUDIO, voice.features),
            spoken=voice.spoken,
            channel=voice.channel,
            speech=speech,
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
