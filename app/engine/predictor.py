"""The model as the service and the command line use it: features of a request, and decisions on a batch of them."""

# Features are computed on the CPU, on any thread; `Predictor.decide` runs on the workers' threads: several at the same
# time on the CPU, one on an accelerator.

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self

from app.engine.batch_cost import ACCELERATOR, CPU, Rates, encoding_cost, estimate_tokens, group_by_length
from app.settings import Transcribe
from app.transcription.transcription import DETAILS, NOT_TRANSCRIBED, Transcription
from model.errors import CheckpointError, ConfigError, EmptyModality
from model.features.text.language import TextCheck, check_text
from model.modality import Modality, ModalitySet, Utterance

if TYPE_CHECKING:  # PyTorch is imported on load, so that the process listens, and `--help` answers, without it
    from model.checkpoint import Checkpoint
    from model.features.audio.raw_features import AudioFeatures
    from model.features.text.encoder import TextFeatures
    from model.features.visual.openface import FaceTrack
    from model.network.decision import Decision
    from model.pipeline import Pipeline


COMPUTE_NICENESS: Final = 5
"""Of what computes on processors, so that the event loop and the decoders do not wait for those they feed."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a request.

    Args:
        explain: whether to return votes and reconstruction figures.
        threshold: score from which a key missing modality is reported; the weights' own threshold if None.
        face_id: face of the OpenFace file to follow; the most confident one if None.
        any_sound: whether to use a sound that is certainly not speech, such as the warm-up's tone.
        transcribe: whether the words of a voice are transcribed: `auto` where no text is sent and transcription is
            possible; `always` also where text is sent, which then counts, and else the request is refused.
    """

    explain: bool = False
    threshold: float | None = None
    face_id: int | None = None
    any_sound: bool = False
    transcribe: Transcribe = "never"


@dataclass(eq=False, slots=True)
class PreparedRequest:
    """Collects the features of one request, part by part. The parts may be added from different threads.

    It waits in a queue, so it holds neither the waveform nor the frames of the face.

    Args:
        predictor: computes the features; another predictor cannot decide on them.
        options: of the request.
        text: the sentence, sent or transcribed; it is encoded together with those of the batch.
        transcription: the words of the voice.
        check: result of the text's language check.
        tokens: estimated number of tokens of the sentence.
        audio, visual: features.
        empty: modalities that were sent but count as missing.
        decode_seconds: until every part was decoded.
        feature_seconds: of computing features, by modality.
        transcribe_seconds: of the transcription, waiting included.
    """

    predictor: "Predictor"
    options: Options = Options()
    text: str | None = None
    transcription: Transcription | None = None
    check: TextCheck | None = None
    tokens: int = 0
    audio: "AudioFeatures | None" = None
    visual: "FaceTrack | None" = None
    empty: dict[Modality, EmptyModality] = field(default_factory=dict)
    decode_seconds: float = 0.0
    feature_seconds: dict[Modality, float] = field(default_factory=dict)
    transcribe_seconds: float = 0.0

    def add_text(self, text: str) -> None:
        """Add the sentence. The first call in a process loads the language model, which takes half a second."""
        with self._collect(Modality.TEXT):
            check = check_text(text)
            if check.low_information and not self.predictor.pipeline.extractor.text_encoder.has_tokens(text):
                raise EmptyModality(Modality.TEXT, "no_tokens", "the text encoder knows none of its characters")
            self.text, self.check = text, check
            self.tokens = estimate_tokens(text, self.predictor.pipeline.config.text.max_tokens)

    def add_transcription(self, transcription: Transcription) -> None:
        """Add the words of the voice. They become the sentence unless it was sent, or they are refused."""
        self.transcription = transcription
        if self.text is not None or Modality.TEXT in self.empty:
            return
        if transcription.refused is None:
            self.add_text(transcription.text)
        else:
            self.empty[Modality.TEXT] = EmptyModality(
                Modality.TEXT, transcription.refused, DETAILS[transcription.refused]
            )

    @property
    def transcribed(self) -> bool:
        """Whether the sentence is the transcription."""
        return self.transcription is not None and self.text is self.transcription.text

    @property
    def transcription_outcome(self) -> str | None:
        """`transcribed`, or why the words of the voice do not count; None if none were to be transcribed."""
        if self.transcription is not None:
            return self.transcription.refused or "transcribed"
        return NOT_TRANSCRIBED if self.transcribe_seconds else None

    def add_audio(self, raw: "AudioFeatures") -> None:
        """Add the raw features of a clip; it counts as missing if it is certainly not speech."""
        with self._collect(Modality.AUDIO, raw.compute_seconds):
            self.audio = self.predictor.pipeline.extractor.audio(raw, any_sound=self.options.any_sound)

    def add_visual(self, track: "FaceTrack") -> None:
        """Add the visual features of a face.

        Raises:
            ModalityError: the track does not fit the config.
        """
        with self._collect(Modality.VISUAL):
            self.visual = self.predictor.pipeline.extractor.visual(track)

    @contextmanager
    def _collect(self, modality: Modality, seconds: float = 0.0) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except EmptyModality as error:
            self.empty[modality] = error
        self.feature_seconds[modality] = seconds + time.perf_counter() - began

    @property
    def presence(self) -> ModalitySet:
        """The modalities that are present."""
        parts = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.visual}
        return ModalitySet(frozenset(modality for modality, part in parts.items() if part is not None))

    @property
    def doubtful(self) -> frozenset[Modality]:
        """Present modalities whose content is of another kind than the training data."""
        usual = {
            Modality.TEXT: self.check is None or not (self.check.foreign or self.check.low_information),
            Modality.AUDIO: self.audio is None or self.audio.likely_speech,
            Modality.VISUAL: self.visual is None or not self.visual.all_zero,
        }
        return frozenset(modality for modality, is_usual in usual.items() if not is_usual)

    @property
    def slots(self) -> tuple[int, int]:
        """Number of audio and of visual slots."""
        return (
            0 if self.audio is None else len(self.audio.array),
            0 if self.visual is None else len(self.visual.values),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The model's result for one request.

    Args:
        request: the request.
        decision: the network's decision.
        text: features of the sentence.
        timings: seconds by stage: `decode`, `features` (including the batch's text encoding), `queue`, `forward`, and
            `transcribe` where there was a transcription.
    """

    request: PreparedRequest
    decision: "Decision"
    text: "TextFeatures | None"
    timings: dict[str, float]

    @property
    def checkpoint(self) -> "Checkpoint":
        """The weights that were used; after a reload they differ from those being served."""
        return self.request.predictor.pipeline.checkpoint


class Predictor:
    """A loaded pipeline.

    Args:
        pipeline: its extractor is used from any thread, its network too on the CPU, else from one thread at a time.
    """

    computes_here: ClassVar = True
    """Whether `decide` computes in this process."""
    processes_started: int = 0
    """Processes that compute, those that were replaced included."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self.pipeline = pipeline
        self.known_good: Sequence[PreparedRequest] = ()
        """Requests that were answered before; see `check`."""

    @classmethod
    def load(cls, weights: Path, device: str, threads: int | None = None, *, voices: bool = True) -> Self:
        """Verify and load a weights folder.

        Args:
            weights: the folder.
            device: `auto`, or any name that `torch.device` accepts.
            threads: of one computation on the CPU, for the whole process; PyTorch's default if None.
            voices: as for `model.checkpoint.load_checkpoint`.

        Raises:
            CheckpointError: the folder is missing, altered or does not fit its config, or expects feature vectors that
                cannot be computed from uploads.
            ConfigError: the text encoder cannot be loaded, or the device does not exist.
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
        pipeline = Pipeline.load(weights, chosen, voices=voices)
        if precomputed := pipeline.config.precomputed.model_dump(exclude_none=True):
            raise CheckpointError(
                f"{weights} expects precomputed {' and '.join(precomputed)} features, which cannot be computed from "
                "uploads; `emmr evaluate` can use these weights"
            )
        pipeline.record()
        return cls(pipeline)

    def decide(self, batch: Sequence[PreparedRequest]) -> list[Result]:
        """Encode the sentences and run the network, once for the plain requests and once for the explained ones.

        Raises:
            ArithmeticError: a probability is not finite.
        """
        began = time.perf_counter()
        texts = self._encode(batch)
        encoding = time.perf_counter() - began
        results: dict[int, Result] = {}
        for explain in (False, True):
            chosen = {i: request for i, request in enumerate(batch) if request.options.explain is explain}
            if not chosen:
                continue
            began = time.perf_counter()
            decisions = self.pipeline.decide(
                [_utterance(request, texts.get(i)) for i, request in chosen.items()],
                explain=explain,
                doubtful=[request.doubtful for request in chosen.values()],
                thresholds=[request.options.threshold for request in chosen.values()],
            )
            forward = time.perf_counter() - began
            if not all(math.isfinite(p) for decision in decisions for p in decision.probabilities):
                raise ArithmeticError("the probabilities are not finite")
            for (i, request), decision in zip(chosen.items(), decisions, strict=True):
                timings = {
                    "decode": request.decode_seconds,
                    "features": sum(request.feature_seconds.values()) + encoding,
                    "queue": 0.0,
                    "forward": forward,
                }
                if request.transcribe_seconds:
                    timings["transcribe"] = request.transcribe_seconds
                results[i] = Result(request, decision, texts.get(i), timings)
        return [results[i] for i in range(len(batch))]

    def _encode(self, batch: Sequence[PreparedRequest]) -> dict[int, "TextFeatures"]:
        """Encode the sentences in groups of similar length; returns their features by index in the batch."""
        texts = [(i, request.text) for i, request in enumerate(batch) if request.text is not None]
        encoded: dict[int, TextFeatures] = {}
        for group in group_by_length([batch[i].tokens for i, _ in texts], self.rates.call):
            features = self.pipeline.extractor.text([texts[member][1] for member in group])
            encoded.update(zip((texts[member][0] for member in group), features, strict=True))
        return encoded

    def cost(self, batch: Sequence[PreparedRequest]) -> float:
        """Cost of `decide` in padded tokens; see `app.engine.batch_cost`."""
        rates, sentences = self.rates, [request for request in batch if request.text is not None]
        splitting = sum(len(request.text or "") for request in sentences) / rates.characters
        explained = sum(request.options.explain for request in batch) * rates.explained
        encoding = encoding_cost([request.tokens for request in sentences], rates.call)
        return encoding + splitting + len(batch) * rates.utterance + explained

    @property
    def rates(self) -> Rates:
        """Costs on the device."""
        return CPU if self.on_cpu else ACCELERATOR

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs on the CPU."""
        return self.pipeline.device.type == "cpu"

    def close(self) -> None:
        """Free what is held outside of this process: nothing."""

    def check(self) -> None:
        """Run the known-good requests; raises whatever the device or the model raises."""
        self.decide(self.known_good)

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self.pipeline.device)

    def device_memory(self) -> int:
        """Bytes allocated on an accelerator; 0 on a CPU."""
        import torch

        device = self.pipeline.device
        return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _utterance(request: PreparedRequest, text: "TextFeatures | None") -> Utterance:
    features = {m: found.array for m, found in ((Modality.TEXT, text), (Modality.AUDIO, request.audio)) if found}
    return Utterance(features | ({Modality.VISUAL: request.visual.values} if request.visual else {}))


def load_languages() -> None:
    """Load the language identification model, so that no request waits for it; half a second of processor time."""
    check_text("Any two words of Latin letters load it.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine has run out of memory."""
    # PyTorch has an exception type for device memory, but only a message for host memory.
    kind, message = type(error), str(error)
    return (
        isinstance(error, MemoryError)
        or kind.__name__ == "OutOfMemoryError"
        or (kind is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in message)
    )
