"""Synthetic speech, the same on every machine: `speak("Good morning.")`, `speech_of(3.7)`; from eSpeak NG."""

import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import soxr

from model.types import FloatArray

SAMPLE_RATE: Final = 16_000  # Hz
CHILD: Final = Path(__file__).with_name("espeak_child.py")
SENTENCES: Final = (
    "Kids are talking by the door.",
    "I did not expect to like this film, and yet I did!",
    "Well, what a waste of a perfectly good evening.",
    "The train leaves at half past seven.",
)


def speak(text: str, rate: int = 175, voice: str = "en-us") -> FloatArray:
    """Synthesise a sentence.

    Args:
        text: the sentence.
        rate: words per minute.
        voice: an eSpeak NG voice, with a variant after a plus sign (`en+f3`).

    Returns:
        `(S,)` float32 in [-1, 1], mono, 16 kHz; a copy.

    Raises:
        RuntimeError: the voice is unknown or eSpeak NG does not work on this machine.
    """
    return _spoken(text, rate, voice).copy()


def speech_of(seconds: float, voice: str = "en-us") -> FloatArray:
    """Synthesise `SENTENCES`, repeated to this length; `(round(seconds * 16000),)` float32."""
    samples = round(seconds * SAMPLE_RATE)
    round_of_sentences = np.concatenate([_spoken(sentence, 175, voice) for sentence in SENTENCES])
    return np.resize(round_of_sentences, samples)


@cache
def _spoken(text: str, rate: int, voice: str) -> FloatArray:
    child = subprocess.run(
        [sys.executable, str(CHILD), voice, str(rate), text], capture_output=True, check=False, timeout=60
    )
    if child.returncode:
        raise RuntimeError(f"no speech: {child.stderr.decode(errors='replace').strip()}")
    samples, own_rate = np.frombuffer(child.stdout, dtype=np.int16).astype(np.float32) / 32768, int(child.stderr)
    # As librosa.resample, whose import takes seconds: every process of the tests would compile functions of librosa.
    resampled = soxr.resample(samples, own_rate, SAMPLE_RATE, quality="HQ")
    length = math.ceil(samples.size * SAMPLE_RATE / own_rate)
    return np.pad(resampled, (0, length - resampled.size)).clip(-1, 1)
