"""Content of each modality → normalised slots, the network's input; used by training, command line and service.

Shapes: T slots, d features, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from model.config import ModelConfig
from model.errors import EmptyModality
from model.features.audio import SAMPLE_RATE
from model.features.audio.dsp.stft import frame_count
from model.features.audio.raw_features import Voice, extract_voice
from model.features.normalization import Preprocessing, reduce_to_slots
from model.features.text.encoder import TextEncoder, TextFeatures
from model.features.visual.openface import ACTION_UNIT_COLUMNS, FaceTrack
from model.modality import Modality
from model.types import FloatArray

NO_SPEECH: Final = 0.02
"""Below this probability of speech a sound counts as missing, with the reason `no_speech`."""
MIN_CHECKED_SECONDS: Final = 0.7
"""Shorter sounds are always used: single words are mistaken for other sounds more often than sentences."""
UNLIKELY_SPEECH: Final = 0.5
"""Below this probability of speech a sound is used with a warning."""


class SpeechCheck(Protocol):
    """The part of `model.network.reliability.Reliability` that the extractor needs."""

    def speech_probability(self, voice: FloatArray) -> float | None:
        """Return the probability that normalised slots `(T, d)` hold speech; None if it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class AudioFeatures:
    """Features of one clip.

    Args:
        array: `(T, d)` normalised slots.
        seconds: duration of the clip.
        frames: number of acoustic frames described.
        truncated: whether frames were cut.
        spoken, channel: as in `model.features.audio.raw_features.Voice`.
        speech: probability that the clip is speech; None if it is not known.
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
        """Whether no warning is due; True if the probability is not known."""
        return self.speech is None or self.speech >= UNLIKELY_SPEECH


@dataclass(frozen=True, slots=True)
class VisualFeatures:
    """Features of one face track: `array` `(T, d)`, the number of frames used, and whether frames were cut."""

    array: FloatArray
    frames: int
    truncated: bool


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

    def audio(self, waveform: FloatArray) -> AudioFeatures:
        """Compute the features of a mono 16 kHz waveform `(S,)`.

        Raises:
            EmptyModality: `too_short`, `silent` or `no_speech`.
        """
        return self.voice(extract_voice(waveform, **self.config.audio.model_dump()))

    def voice(self, voice: Voice, *, any_sound: bool = False) -> AudioFeatures:
        """Normalise raw features that were computed with the config's audio settings.

        Args:
            voice: the raw features.
            any_sound: whether to use a sound even if its probability of speech is below `NO_SPEECH`.

        Raises:
            EmptyModality: `no_speech`.
        """
        array = self.slots(Modality.AUDIO, voice.features)
        frames = voice.features.shape[0]
        if self.config.audio.encoder != "acoustic":  # one row describes the whole clip
            frames = frame_count(round(voice.spoken * SAMPLE_RATE))
        speech = None if self.reliability is None else self.reliability.speech_probability(array)
        if speech is not None and speech < NO_SPEECH and voice.spoken >= MIN_CHECKED_SECONDS and not any_sound:
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
        """Compute the features of a face track with the config's column set."""
        raw = raw_visual_features(track.values, self.config)
        return VisualFeatures(self.slots(Modality.VISUAL, raw), track.kept, self._cuts(Modality.VISUAL, raw))

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
