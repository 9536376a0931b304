"""Decoded modalities → features → decision: the model as the service and the command line use it.

For: the two halves of a prediction, features (`hear` and `see`, put together by `join`, or all by `prepare`: CPU, any
thread) and `decide` (the device's thread, a batch at once).
Does not know: HTTP, queues, files or limits. What an answer looks like is `app.api.response`'s.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.engine.batch_cost import ACCELERATOR, CPU, Rates, by_length, encoding_cost, estimate_tokens
from app.engine.errors import NothingUsable
from model.errors import ConfigError, EmptyModality
from model.features.text.language import TextCheck, check_text
from model.modality import Modality, ModalitySet, Utterance

if TYPE_CHECKING:  # imported on load: the process listens, and `--help` answers, before PyTorch is there
    from model.features.audio.loading import Sound
    from model.features.audio.raw_features import Voice
    from model.features.extractor import AudioFeatures, VisualFeatures
    from model.features.text.encoder import TextFeatures
    from model.features.visual.openface import FaceTrack
    from model.network.decision import Decision
    from model.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Options:
    """How a request wants to be answered.

    Args:
        explain: whether votes and reconstruction figures are wanted.
        threshold: score at and above which a key missing modality is reported; the weights' own where None.
        any_sound: whether a sound is used even if it is surely no speech, as a warm-up's is.
    """

    explain: bool = False
    threshold: float | None = None
    any_sound: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was sent, decoded.

    Args:
        text, sound, track: each None where it was not sent or was found empty.
        empty: what was found empty while decoding.
        options: how it is to be answered.
    """

    text: str | None = None
    sound: "Sound | None" = None
    track: "FaceTrack | None" = None
    empty: Mapping[Modality, EmptyModality] = field(default_factory=dict)
    options: Options = Options()


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound's features, and the seconds they took."""

    features: "AudioFeatures"
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A face's features, the track they come from without its frames, and the seconds they took."""

    features: "VisualFeatures"
    track: "FaceTrack"
    seconds: float


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What the device's thread needs of one request, and what the answer will say of its modalities.

    It waits in a queue, so it holds no more of the upload than that: neither the waveform nor the face's frames.

    Args:
        predictor: whose features these are: no other can decide on them.
        text: the sentence; it is encoded together with those of the batch.
        check: what its letters say; None where there is none.
        tokens: of the sentence, estimated; 0 where there is none.
        audio, visual: features.
        track: where the visual features come from, without its frames.
        empty: every modality that was sent and counts as missing.
        options: how it is to be answered.
        seconds: of computing its features, summed over threads.
    """

    predictor: "Predictor"
    text: str | None
    check: TextCheck | None
    tokens: int
    audio: "AudioFeatures | None"
    visual: "VisualFeatures | None"
    track: "FaceTrack | None"
    empty: Mapping[Modality, EmptyModality]
    options: Options
    seconds: float

    @property
    def presence(self) -> ModalitySet:
        """Which modalities are there."""
        there = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.visual}
        return ModalitySet(frozenset(m for m, value in there.items() if value is not None))

    @property
    def doubtful(self) -> frozenset[Modality]:
        """Modalities that are there, but hold something else than what the weights were trained on."""
        known = {
            Modality.TEXT: self.check is None or not (self.check.foreign or self.check.low_information),
            Modality.AUDIO: self.audio is None or self.audio.likely_speech,
            Modality.VISUAL: self.track is None or not self.track.all_zero,
        }
        return frozenset(modality for modality, is_known in known.items() if not is_known)

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
        pipeline: `decide` uses it from one thread at a time; everything else may run beside that on others.
    """

    def __init__(self, pipeline: "Pipeline") -> None:
        self.pipeline = pipeline
        self._known_good: tuple[PreparedRequest, ...] = ()

    @classmethod
    def load(cls, weights: Path, device: str, threads: int | None = None) -> Self:
        """Load a weights folder, its hashes verified first.

        Args:
            weights: the folder.
            device: `auto`, or as `torch.device` takes it.
            threads: that one computation on the CPU may use, from now on and in the whole process; PyTorch's own choice
                when None.

        Raises:
            CheckpointError: it is missing, altered or does not fit.
            ConfigError: its text encoder cannot be loaded, or there is no such device.
        """
        import torch

        from model.pipeline import Pipeline, choose_device

        if threads is not None:
            torch.set_num_threads(threads)
        try:
            chosen = choose_device(device)
        except RuntimeError as error:
            raise ConfigError(f"{device!r} is not a device: {error}") from error
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"{device!r} was asked for, and there is no CUDA device")
        pipeline = Pipeline.load(weights, chosen)
        pipeline.record()
        return cls(pipeline)

    def audio_features(self, voice: "Voice", *, any_sound: bool = False) -> Heard:
        """Complete the features of a voice that was listened to as this pipeline's config says.

        Raises:
            EmptyModality: it is surely no speech, unless `any_sound`.
        """
        began = time.perf_counter()
        features = self.pipeline.extractor.voice(voice, any_sound=any_sound)
        return Heard(features, voice.spent + time.perf_counter() - began)

    def visual_features(self, track: "FaceTrack") -> Seen:
        """Compute a face's features.

        Raises:
            EmptyModality: there is nothing to see.
            ModalityError: it is wrong in a way that only shows here.
        """
        began = time.perf_counter()
        features = self.pipeline.extractor.visual(track)
        return Seen(features, replace(track, values=track.values[:0].copy()), time.perf_counter() - began)

    def assemble(
        self,
        text: str | None,
        heard: Heard | None,
        seen: Seen | None,
        empty: Mapping[Modality, EmptyModality],
        options: Options,
    ) -> PreparedRequest:
        """Put together what was made of one request, and look at the text's letters.

        It takes a fraction of a millisecond, except that the first text waits for the model of languages to be loaded.

        Raises:
            NothingUsable: every modality that was sent is empty.
        """
        if text is None and heard is None and seen is None:
            raise NothingUsable(empty)
        limit = self.pipeline.config.text.max_tokens
        began = time.perf_counter()
        check = None if text is None else check_text(text)
        checking = time.perf_counter() - began
        return PreparedRequest(
            predictor=self,
            text=text,
            check=check,
            tokens=0 if text is None else estimate_tokens(text, limit),
            audio=None if heard is None else heard.features,
            visual=None if seen is None else seen.features,
            track=None if seen is None else seen.track,
            empty=empty,
            options=options,
            seconds=checking + sum(part.seconds for part in (heard, seen) if part is not None),
        )

    def prepare(self, inputs: Inputs) -> PreparedRequest:
        """Compute the features of sound and face, one after the other.

        Raises:
            NothingUsable: every modality that was sent is empty.
            ModalityError: one of them is wrong in a way that only shows here.
        """
        from model.features.audio.raw_features import listen

        empty = dict(inputs.empty)
        heard, seen = None, None
        if inputs.sound is not None:
            audio = self.pipeline.config.audio
            try:
                voice = listen(
                    inputs.sound.waveform,
                    dynamics=audio.dynamics,
                    silence_dbfs=audio.silence_dbfs,
                    conditioned=audio.conditioned,
                    encoder=audio.encoder,
                    channel=inputs.sound.channel,
                )
                heard = self.audio_features(voice, any_sound=inputs.options.any_sound)
            except EmptyModality as error:
                empty[error.modality] = error
        if inputs.track is not None:
            try:
                seen = self.visual_features(inputs.track)
            except EmptyModality as error:
                empty[error.modality] = error
        return self.assemble(inputs.text, heard, seen, empty, inputs.options)

    def decide(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        """Encode the sentences and run the network, the plain requests together and the explained ones together.

        Raises:
            ArithmeticError: probabilities come out that are no numbers.
        """
        began = time.perf_counter()
        texts = self._encode(batch)
        encoding = time.perf_counter() - began
        outcomes: dict[int, Outcome] = {}
        for explain in (False, True):
            chosen = [index for index, prepared in enumerate(batch) if prepared.options.explain is explain]
            if not chosen:
                continue
            began = time.perf_counter()
            utterances = [_utterance(batch[index], texts.get(index)) for index in chosen]
            decisions = self.pipeline.decide(
                utterances,
                explain=explain,
                doubtful=[batch[index].doubtful for index in chosen],
                thresholds=[batch[index].options.threshold for index in chosen],
            )
            forward = time.perf_counter() - began
            if not all(math.isfinite(p) for decision in decisions for p in decision.probabilities):
                raise ArithmeticError("the probabilities are not finite")
            for index, decision in zip(chosen, decisions, strict=True):
                outcomes[index] = Outcome(decision, texts.get(index), encoding, forward)
        return [outcomes[index] for index in range(len(batch))]

    def _encode(self, batch: Sequence[PreparedRequest]) -> dict[int, "TextFeatures"]:
        """Each sentence's features by its position, sentences of like length encoded together."""
        texts = {index: prepared.text for index, prepared in enumerate(batch) if prepared.text is not None}
        positions = list(texts)
        encoded: dict[int, TextFeatures] = {}
        for group in by_length([batch[index].tokens for index in positions], self.rates.call):
            members = [positions[i] for i in group]
            features = self.pipeline.extractor.text([texts[index] for index in members])
            encoded.update(zip(members, features, strict=True))
        return encoded

    def cost(self, batch: Sequence[PreparedRequest]) -> float:
        """What `decide` costs, in padded tokens (see `app.engine.batch_cost`)."""
        rates, sentences = self.rates, [prepared for prepared in batch if prepared.text is not None]
        splitting = sum(len(prepared.text or "") for prepared in sentences) / rates.characters
        explained = sum(prepared.options.explain for prepared in batch) * rates.explained
        encoding = encoding_cost([prepared.tokens for prepared in sentences], rates.call)
        return encoding + splitting + len(batch) * rates.utterance + explained

    @property
    def rates(self) -> Rates:
        """What things cost where the network computes."""
        return CPU if self.pipeline.device.type == "cpu" else ACCELERATOR

    def remember(self, known_good: Sequence[PreparedRequest]) -> None:
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


def _utterance(prepared: PreparedRequest, text: "TextFeatures | None") -> Utterance:
    found = {Modality.TEXT: text, Modality.AUDIO: prepared.audio, Modality.VISUAL: prepared.visual}
    return Utterance({m: features.array for m, features in found.items() if features is not None})


def load_languages() -> None:
    """Load what tells languages apart, so that no request waits for it; half a second of a processor."""
    check_text("Any two words of Latin letters load it.")


def short_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, the device's or the machine's."""
    # PyTorch has a type of its own for a device's memory, and only a message for the machine's.
    kind, message = type(error), str(error)
    return (
        isinstance(error, MemoryError)
        or kind.__name__ == "OutOfMemoryError"
        or (kind is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in message)
    )
