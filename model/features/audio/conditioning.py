"""Trims non-speech at the ends of a clip and normalises its loudness, before features are computed.

Without it, a corpus whose clips all begin and end with silence (RAVDESS) is recognised by that silence.
Shapes: S samples, F frames of `FRAME` samples.
"""

from typing import Final

import numpy as np

from model.features.audio import SAMPLE_RATE
from model.types import BoolArray, DoubleArray, FloatArray

FRAME: Final = 160  # samples, 10 ms
MARGIN: Final = 5  # frames kept on either side of the speech, 50 ms
RECORDED_DB: Final = 60.0  # below the maximum: quieter frames (digital silence) are excluded from the percentiles
RANGE_DB: Final = 38.0  # below the loudest frames: quieter frames are not speech
NOISE_MARGIN_DB: Final = 9.0  # above the noise floor: quieter frames are not speech
MIN_RANGE_DB: Final = 15.0  # least distance of the threshold from the loudest frames
SMOOTHING: Final = 5  # frames of the running median, 50 ms: a click is shorter than half of it
LEVEL_DBFS: Final = -26.0  # of the active frames after normalisation, close to ITU-T P.56 test material
MAX_GAIN_DB: Final = 50.0
POWER_FLOOR: Final = 1e-12  # -120 dBFS, keeps the level of silence finite

assert SAMPLE_RATE == 16_000, "FRAME is 10 ms at this rate"


def condition(waveform: FloatArray) -> FloatArray:
    """Trim a `(S,)` waveform to `speech_span` and scale its active frames to `LEVEL_DBFS`; `(S',)` float32."""
    if waveform.size == 0:
        return waveform
    levels, active = _activity(waveform)
    begin, end = _span(active, waveform.size)
    power = 10.0 ** (levels[active] / 10)
    gain_db = min(LEVEL_DBFS - 10 * float(np.log10(power.mean())), MAX_GAIN_DB)
    return waveform[begin:end] * np.float32(10 ** (gain_db / 20))


def speech_span(waveform: FloatArray) -> tuple[int, int]:
    """Return first and last sample (exclusive) of the speech with `MARGIN` frames around it.

    The result does not depend on the recording's gain or on the amount of silence around the speech. It covers at least
    `MARGIN + 1` frames, or the whole of a shorter clip, and the whole clip if no frame is louder than another.

    Args:
        waveform: `(S,)` float32 at `SAMPLE_RATE`, S at least 1.
    """
    return _span(_activity(waveform)[1], waveform.size)


def _span(active: BoolArray, samples: int) -> tuple[int, int]:
    frames = np.flatnonzero(active)
    return max(0, int(frames[0]) - MARGIN) * FRAME, min(samples, (int(frames[-1]) + 1 + MARGIN) * FRAME)


def _activity(waveform: FloatArray) -> tuple[DoubleArray, BoolArray]:
    """Level of each frame in dBFS, the median over `SMOOTHING` frames, and whether it is active; `(F,)` each."""
    frames = max(1, waveform.size // FRAME)
    whole = waveform[: frames * FRAME].reshape(frames, -1)
    raw = 10.0 * np.log10(np.square(whole, dtype=np.float64).mean(axis=1) + POWER_FLOOR)
    padded = np.pad(raw, SMOOTHING // 2, mode="symmetric")  # a click in the first frame stays a minority
    levels = np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING), axis=1))
    noise, loudest = np.percentile(levels[levels > levels.max() - RECORDED_DB], (3, 97))
    return levels, levels >= max(loudest - RANGE_DB, min(noise + NOISE_MARGIN_DB, loudest - MIN_RANGE_DB))
