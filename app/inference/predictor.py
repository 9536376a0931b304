"""Decoded modalities → features → decision: the model as the service and the command line use it.

For: the two halves of a prediction, `prepare` (CPU, any thread) and `decide` (the device's thread, a batch at once).
Does not know: HTTP, queues, files or limits. What an answer looks like is `app.inference.answer`'s.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.inference.errors import NothingUsable
from model.errors import ConfigError, EmptyModality
from model.modality import Modality, Presence, Utterance

if TYPE_CHECKING:  # imported on load: the process listens, and `--help` answers, before PyTorch is there
    from model.emmr.decision import Decision
    from model.features.extraction import AudioFeatures, VisualFeatures
    from model.features.openface import FaceTrack
    from model.features.sound import Sound
    from model.features.text import TextFeatures
    from model.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was sent, decoded.

    Args:
        text, sound, track: each None where it was not sent or was found empty.
        empty: what was found empty while decoding.
        explain: whether votes and reconstruction figures are wanted.
    """

    text: str | None = None
    sound: "Sound | None" = None
    track: "FaceTrack | None" = None
    empty: Mapping[Modality, EmptyModality] = field(default_factory=dict)
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the device's thread needs of one request, and what the answer will say of its modalities.

    Args:
        text: the sentence; it is encoded together with those of the batch.
        audio, visual: features.
        track: where the visual features come from.
        empty: every modality that was sent and counts as missing.
        explain: whether votes and reconstruction figures are wanted.
        seconds: time taken to prepare it.
    """

    text: str | None
    audio: "AudioFeatures | None"
    visual: "VisualFeatures | None"
    track: "FaceTrack | None"
    empty: Mapping[Modality, EmptyModality]
    explain: bool
    seconds: float

    @property
    def presence(self) -> Presence:
        """Which modalities are there."""
        there = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.visual}
        return Presence(frozenset(m for m, value in there.items() if value is not None))

    @property
    def slots(self) -> tuple[int, int]:
        """Audio and visual slots."""
        return (
            0 if self.audio is None else len(self.audio.array),
            0 if self.visual is None else len(self.visual.array),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one prepared request.

    Args:
        decision: the network's.
        text: what was used of the sentence.
        encoding: seconds its batch took to encode sentences.
        forward: seconds its batch took in the network.
    """

    decision: "Decision"
    text: "TextFeatures | None"
    encoding: float
    forward: float


class Predictor:
    """A loaded pipeline.

    Args:
        pipeline: `decide` uses it from one thread at a time; `prepare` may run beside that on others.
    """

    def __init__(self, pipeline: "Pipeline") -> None:
        self.pipeline = pipeline
        self._known_good: tuple[Prepared, ...] = ()

    @classmethod
    def load(cls, weights: Path, device: str) -> Self:
        """Load a weights folder, its hashes verified first.

        Raises:
            CheckpointError: it is missing, altered or does not fit.
            ConfigError: its text encoder cannot be loaded, or there is no such device.
        """
        import torch

        from model.pipeline import Pipeline, choose_device

        import_module("transformers.utils.logging").disable_progress_bar()  # standard error is for log lines
        try:
            chosen = choose_device(device)
        except RuntimeError as error:
            raise ConfigError(f"{device!r} is not a device: {error}") from error
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"{device!r} was asked for, and there is no CUDA device")
        return cls(Pipeline.load(weights, chosen))

    def prepare(self, inputs: Inputs) -> Prepared:
        """Compute the features of sound and face.

        Raises:
            NothingUsable: every modality that was sent is empty.
            ModalityError: one of them is wrong in a way that only shows here.
        """
        began = time.perf_counter()
        extractor = self.pipeline.extractor
        empty = dict(inputs.empty)
        audio, visual = None, None
        if inputs.sound is not None:
            try:
                audio = extractor.audio(inputs.sound.waveform)
            except EmptyModality as error:
                empty[Modality.AUDIO] = error
        if inputs.track is not None:
            try:
                visual = extractor.visual(inputs.track)
            except EmptyModality as error:
                empty[Modality.VISUAL] = error
        if inputs.text is None and audio is None and visual is None:
            raise NothingUsable(empty)
        seconds = time.perf_counter() - began
        return Prepared(inputs.text, audio, visual, inputs.track, empty, inputs.explain, seconds)

    def decide(self, batch: Sequence[Prepared]) -> list[Outcome]:
        """Encode the sentences and run the network, the plain requests together and the explained ones together."""
        outcomes: dict[int, Outcome] = {}
        for explain in (False, True):
            chosen = [index for index, prepared in enumerate(batch) if prepared.explain is explain]
            if chosen:
                outcomes.update(zip(chosen, self._decide([batch[i] for i in chosen], explain), strict=True))
        return [outcomes[index] for index in range(len(batch))]

    def _decide(self, batch: Sequence[Prepared], explain: bool) -> list[Outcome]:
        began = time.perf_counter()
        sentences = [prepared.text for prepared in batch if prepared.text is not None]
        encoded = iter(self.pipeline.extractor.text(sentences) if sentences else ())
        texts = [None if prepared.text is None else next(encoded) for prepared in batch]
        encoded_at = time.perf_counter()
        utterances = [_utterance(prepared, text) for prepared, text in zip(batch, texts, strict=True)]
        decisions = self.pipeline.decide(utterances, explain=explain)
        encoding, forward = encoded_at - began, time.perf_counter() - encoded_at
        return [Outcome(decision, text, encoding, forward) for decision, text in zip(decisions, texts, strict=True)]

    def remember(self, known_good: Sequence[Prepared]) -> None:
        """Keep requests that are known to work, for `check`."""
        self._known_good = tuple(known_good)

    def check(self) -> None:
        """Run what is known to work. Raises whatever the device or the model raises."""
        self.decide(self._known_good)

    @property
    def device(self) -> str:
        """Where the network computes."""
        return str(self.pipeline.device)

    def device_memory(self) -> int:
        """Bytes allocated on an accelerator; 0 on a CPU."""
        import torch

        device = self.pipeline.device
        return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _utterance(prepared: Prepared, text: "TextFeatures | None") -> Utterance:
    found = {Modality.TEXT: text, Modality.AUDIO: prepared.audio, Modality.VISUAL: prepared.visual}
    return Utterance({m: features.array for m, features in found.items() if features is not None})
