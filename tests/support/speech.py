"""Generated speech, the same on every machine: `speak("Good morning.")`, `speech_of(3.7)`.

For: tests and examples that need a voice without a recording of anybody.
Does not know: files; write what comes back with `soundfile` where a file is wanted.
Source: eSpeak NG, from the `espeakng-loader` package: nothing needs to be installed beside the Python packages.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import librosa
import numpy as np

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
    """Say a sentence.

    Args:
        text: what to say.
        rate: words per minute.
        voice: an eSpeak NG voice, with a variant after a plus sign (`en+f3`).

    Returns:
        `(S,)` float32 in [-1, 1], mono, 16 kHz; the caller's own to change.

    Raises:
        RuntimeError: the voice is unknown or eSpeak NG does not work here.
    """
    return _spoken(text, rate, voice).copy()


def speech_of(seconds: float, voice: str = "en-us") -> FloatArray:
    """Say the stock sentences, over and over, for exactly so long; `(round(seconds * 16000),)` float32."""
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
    samples = np.frombuffer(child.stdout, dtype=np.int16).astype(np.float32) / 32768
    spoken = librosa.resample(samples, orig_sr=int(child.stderr), target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return spoken.astype(np.float32).clip(-1, 1)
