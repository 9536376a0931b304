"""Audio: from a sound file to the features of a voice."""

from typing import Final

SAMPLE_RATE: Final = 16_000  # Hz; every waveform in this package is mono at this rate
