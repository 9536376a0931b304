"""Speaker normalisation: features of an utterance relative to the speaker's own level over the recording so far.

Shapes: T slots, d features.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from app.engine.predictor import PreparedRequest
from model.modality import Modality
from model.types import DoubleArray, FloatArray

SHARE: Final = 0.5
"""Of the level, which is subtracted; all of it would remove an emotion that a speaker shows throughout. It was chosen,
with `PRIOR`, on the validation part of composite2: `python -m benchmarks.speaker_levels`."""
PRIOR: Final = 5.0
"""Utterances at the mean of the training data that a level begins with, so that a few utterances change little."""
MAX_SPEAKERS: Final = 64
"""Speakers whose level is kept; the features of further ones stay as they are."""


class SpeakerLevels:
    """The mean features of each speaker, by modality; utterances are added in their order.

    Source: Busso et al., "Iterative Feature Normalization Scheme for Automatic Emotion Detection from Speech", IEEE
    Transactions on Affective Computing 4(4), 2013, whose level is that of neutral utterances.

    Args:
        share: of the level, which is subtracted.
        prior: utterances at the mean of the training data that a level begins with.
    """

    def __init__(self, share: float = SHARE, prior: float = PRIOR) -> None:
        self._share, self._prior = share, prior
        self._sums: dict[str, dict[Modality, tuple[int, DoubleArray]]] = {}

    def relative(self, speaker: str, modality: Modality, slots: FloatArray) -> FloatArray:
        """Add an utterance to the speaker's level; return its features relative to that level.

        Args:
            speaker: one of at most `MAX_SPEAKERS`; `normalize` leaves out the others.
            modality: of the features.
            slots: `(T, d)` normalised features, T > 0: 0 is the mean of the training data.

        Returns:
            `(T, d)` float32.
        """
        sums = self._sums.setdefault(speaker, {})
        count, total = sums.get(modality, (0, np.zeros(slots.shape[1])))
        count, total = count + 1, total + slots.mean(axis=0, dtype=np.float64)
        sums[modality] = count, total
        relative: FloatArray = (slots - self._share * total / (count + self._prior)).astype(np.float32)
        return relative

    def normalize(self, request: PreparedRequest, speaker: str | None) -> frozenset[Modality]:
        """Make the voice and the face of the speaker's next utterance relative to their level.

        A modality is left as it is where the speaker is not known, where its content is of another kind than the
        training data, and where the weights have no statistics to normalise its features by.

        Args:
            request: is changed.
            speaker: of the utterance; None if it is not known.

        Returns:
            The modalities that were changed.
        """
        if speaker is None or (speaker not in self._sums and len(self._sums) >= MAX_SPEAKERS):
            return frozenset()
        normalized = frozenset(_normalizable(request))
        if (audio := request.audio) is not None and Modality.AUDIO in normalized:
            request.audio = replace(audio, array=self.relative(speaker, Modality.AUDIO, audio.array))
        if (face := request.visual) is not None and Modality.VISUAL in normalized:
            request.visual = replace(face, values=self.relative(speaker, Modality.VISUAL, face.values))
        return normalized


def _normalizable(request: PreparedRequest) -> Iterator[Modality]:
    statistics = request.predictor.pipeline.extractor.preprocessing.statistics
    for modality in (Modality.AUDIO, Modality.VISUAL):
        if modality in request.presence.present and modality in statistics and modality not in request.doubtful:
            yield modality
