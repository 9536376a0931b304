"""Utterances of a recording: the transcript's cues, else stretches with speech, else windows over the face.

Shapes: S samples at `SAMPLE_RATE`, F frames of `FRAME` samples.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from app.recordings.faces import Faces
from app.recordings.sound import Sound
from app.recordings.transcript import Cue
from model.features.audio import SAMPLE_RATE
from model.features.packaged import packaged_file, verify_file
from model.types import FloatArray

PACKAGE: Final = "silero-vad"
PACKAGED_SHA256: Final = "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1"  # 16 kHz, 6.2.3

FRAME: Final = 512  # samples, 32 ms
_CONTEXT: Final = 64  # samples of the frame before
_PAD: Final = 64  # samples reflected at a frame's end
_HOP: Final = 128
_BINS: Final = 129
_STATE: Final = 128  # of the LSTM, and of its input

_LSTM: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

# Of probabilities of speech: those of Silero's own functions.
SPEECH: Final = 0.5
NO_SPEECH: Final = 0.35
MIN_SPEECH: Final = 0.25  # seconds
MARGIN: Final = 0.1  # seconds kept on either side of speech
# Of utterances, in seconds.
PAUSE: Final = 0.5
"""Speech that is interrupted for less is one utterance."""
MAX_UTTERANCE: Final = 15.0
"""Longer speech is cut where it is least likely to be speech."""
MIN_SILENCE: Final = 2.0
"""A stretch without words and speech that is at least this long is reported; a shorter one is a pause."""
MIN_UNCOVERED_SILENCE: Final = 1.0
"""The same for a recording with a transcript, between its cues."""
MIN_UNCOVERED: Final = 0.5
"""Between two cues, shorter stretches are not looked at."""
WINDOW: Final = 5.0
"""Longest window over a face without speech and words."""
STEP: Final = 60.0
"""Sound examined at once."""


class Span(NamedTuple):
    """A stretch of a recording that is answered as one utterance.

    Args:
        start, end: seconds.
        text: None where there are no words.
        speaker: None if it is not known.
        channel: of the sound, from 0; None for all channels.
        silent: whether the sound holds no speech there, so that it is not looked at again.
    """

    start: float
    end: float
    text: str | None = None
    speaker: str | None = None
    channel: int | None = None
    silent: bool = False


class SpeechDetector:
    """Silero's voice activity detection (Silero Team, 2024), for sounds of any length, part by part.

    Own code: the package runs one frame of 32 ms at a time, and its import sets the number of PyTorch's threads. Its
    weights are read from its wheel; the package is located, never imported.

    Raises:
        ConfigError: on construction; the package is not installed.
        CheckpointError: its weights are missing or not the published ones.
    """

    def __init__(self) -> None:
        self._weights, self._lstm = _network()
        self._context = torch.zeros(_CONTEXT)
        self._state = torch.zeros(1, 1, _STATE), torch.zeros(1, 1, _STATE)

    @torch.inference_mode()
    def __call__(self, waveform: FloatArray) -> FloatArray:
        """Return the probability of speech of each frame of the next part of the sound.

        Args:
            waveform: `(S,)` float32 at `SAMPLE_RATE`, S > 0; a multiple of `FRAME`, except in the last part.

        Returns:
            `(F,)` float32, F = ceil(S / FRAME).
        """
        weights = self._weights
        samples = torch.from_numpy(np.ascontiguousarray(waveform))
        frames = functional.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)  # (F, FRAME)
        contexts = torch.cat([self._context[None], frames[:-1, -_CONTEXT:]])  # (F, _CONTEXT)
        self._context = frames[-1, -_CONTEXT:].clone()
        x = functional.pad(torch.cat([contexts, frames], dim=1)[:, None], (0, _PAD), mode="reflect")
        spectrum = functional.conv1d(x, weights["stft_conv.weight"], stride=_HOP)  # (F, 2 _BINS, 4)
        x = torch.hypot(spectrum[:, :_BINS], spectrum[:, _BINS:])
        for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            x = functional.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding=1).relu()
        hidden, self._state = self._lstm(x.transpose(1, 2), self._state)  # (F, 1, _STATE)
        logits = functional.linear(hidden.relu(), weights["final_conv.weight"][:, :, 0], weights["final_conv.bias"])
        probabilities: FloatArray = logits.sigmoid().reshape(-1).numpy()
        return probabilities


@cache
def _network() -> tuple[dict[str, Tensor], torch.nn.LSTM]:
    path = packaged_file(PACKAGE, "silero_vad_16k.safetensors", "voice activity detection", folder="data")
    verify_file(path, PACKAGED_SHA256, "voice activity detection")
    weights = load_file(path)
    lstm = torch.nn.LSTM(_STATE, _STATE)
    lstm.load_state_dict({f"{name}_l0": weights.pop(f"lstm_cell.{name}") for name in _LSTM})
    return weights, lstm.eval()


def speech(sound: Sound, start: float, end: float, channel: int | None = None) -> Iterator[Span]:
    """Yield the stretches with speech between two times, in order and without overlap."""
    detector, segmenter = SpeechDetector(), _Segmenter()
    end = min(end, sound.duration)
    last = position = start
    while position < end:
        part = sound.read_mono(position, min(position + STEP, end), channel)
        if not len(part):
            break
        position += STEP
        found = segmenter.add(detector(part))
        for first, stop in (*found, *(segmenter.finish() if position >= end else ())):
            begin = max(last, start + first * FRAME / SAMPLE_RATE - MARGIN)
            last = min(end, start + stop * FRAME / SAMPLE_RATE + MARGIN)
            yield Span(begin, last, None, None if channel is None else f"channel {channel + 1}", channel)


class _Segmenter:
    """Turns probabilities of speech into stretches of frames."""

    def __init__(self) -> None:
        self._frame = 0
        self._begin: int | None = None
        self._last = 0
        self._probabilities: list[float] = []

    def add(self, probabilities: FloatArray) -> list[tuple[int, int]]:
        """Return first and last frame (exclusive) of the stretches that have ended."""
        found: list[tuple[int, int]] = []
        pause, longest = (math.ceil(seconds * SAMPLE_RATE / FRAME) for seconds in (PAUSE, MAX_UTTERANCE))
        for frame, probability in enumerate(probabilities.tolist(), start=self._frame):
            if self._begin is None:
                if probability < SPEECH:
                    continue
                self._begin, self._probabilities = frame, []
            self._probabilities.append(probability)
            if probability >= NO_SPEECH:
                self._last = frame
            if frame - self._last >= pause:
                found += self.finish()
            elif len(self._probabilities) > longest:
                half = longest // 2
                cut = half + int(np.argmin(self._probabilities[half:]))
                found.append((self._begin, self._begin + cut))
                self._begin, self._probabilities = self._begin + cut, self._probabilities[cut:]
        self._frame += len(probabilities)
        return found

    def finish(self) -> list[tuple[int, int]]:
        """End the stretch that has not ended; return it unless it is too short."""
        begin, self._begin = self._begin, None
        long_enough = begin is not None and (self._last + 1 - begin) * FRAME >= MIN_SPEECH * SAMPLE_RATE
        return [(begin, self._last + 1)] if begin is not None and long_enough else []


class Segmentation:
    """Divides a recording into spans.

    Args:
        duration: of the recording in seconds.
        cues: of the transcript, ordered by start; None without a transcript.
        sound: None without a sound.
        faces: None without an OpenFace file.
        speakers: whether each channel of the sound is a speaker.
    """

    def __init__(
        self, duration: float, cues: Sequence[Cue] | None, sound: Sound | None, faces: Faces | None, *, speakers: bool
    ) -> None:
        self._duration, self._cues, self._sound, self._faces = duration, cues, sound, faces
        self._min_silence = MIN_SILENCE if cues is None else MIN_UNCOVERED_SILENCE
        self._channels = range(sound.channels) if speakers and sound is not None else [None]

    def spans(self) -> Iterator[Span]:
        """Yield the spans, in order of their start. It computes; call it outside the event loop."""
        covered = 0.0
        for cue in self._cues or ():
            if cue.start - covered >= MIN_UNCOVERED:
                yield from self._uncovered(covered, min(cue.start, self._duration))
            yield Span(cue.start, cue.end, cue.text or None, *self._voice(cue))
            covered = max(covered, cue.end)
        yield from self._uncovered(covered, self._duration)

    def _voice(self, cue: Cue) -> tuple[str | None, int | None]:
        """Speaker and channel of a cue: the loudest channel where each is a speaker."""
        if self._sound is None or list(self._channels) == [None]:
            return cue.speaker, None
        samples = self._sound.read(cue.start, cue.end)
        channel = int(np.einsum("sc,sc->c", samples, samples, dtype=np.float64).argmax())
        return cue.speaker or f"channel {channel + 1}", channel

    def _uncovered(self, start: float, end: float) -> Iterator[Span]:
        """Yield the spans between two times that no cue covers.

        With a transcript they leave out no short pause, so that the words are missing exactly where there is no cue.
        """
        joined = self._cues is not None
        pending: Span | None = None
        position = start
        for found in self._speech(start, end):
            span, silence = found, found.start - position
            if joined and 0 < silence < self._min_silence:
                middle = position if pending is None else position + silence / 2
                pending = pending and pending._replace(end=middle)
                span = span._replace(start=middle)
            if pending is not None:
                yield pending
            if silence >= self._min_silence:
                yield from self._without_speech(position, span.start)
            pending, position = span, max(position, span.end)
        if joined and pending is not None and end - position < self._min_silence:
            pending = pending._replace(end=end)
        if pending is not None:
            yield pending
        if end - position >= self._min_silence:
            yield from self._without_speech(position, end)

    def _speech(self, start: float, end: float) -> Iterator[Span]:
        if self._sound is not None:
            channels = (speech(self._sound, start, end, channel) for channel in self._channels)
            yield from heapq.merge(*channels, key=lambda span: span.start)

    def _without_speech(self, start: float, end: float) -> Iterator[Span]:
        """Yield windows of equal length where there is a face, or one span where there is none."""
        faces = self._faces is not None and self._faces.coverage(start, end) > 0
        count = math.ceil((end - start) / WINDOW) if faces else 1
        length = (end - start) / count
        for number in range(count):
            yield Span(start + number * length, start + (number + 1) * length, silent=True)
