"""Waveform → the same speech without the habits of its recording: trimmed, and levelled.

Applied before the acoustic recipe (`model.features.audio.acoustic`) in training and serving alike. Without it a second of
digital silence at both ends, which every RAVDESS clip has and no other recording, is the strongest cue there is.

Shapes: S samples, F frames of `FRAME` samples.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from model.features.audio.dsp.stft import SAMPLE_RATE
from model.types import DoubleArray, FloatArray

FRAME: Final = 160  # samples, 10 ms
MARGIN: Final = 5  # frames kept on either side of the speech, 50 ms
RECORDED_DB: Final = 60.0  # below the loudest frames: quieter ones carry no recording and say nothing of its noise
RANGE_DB: Final = 38.0  # below the loudest frames: quieter than this is not speech
NOISE_MARGIN_DB: Final = 9.0  # above the recording's own noise: quieter than this is not speech either
LEAST_RANGE_DB: Final = 15.0  # a threshold is never nearer to the loudest frames than this
SMOOTHING: Final = 5  # frames, 50 ms: a click, which is loud in fewer than half of them, is not speech
LEVEL_DBFS: Final = -26.0  # of the active frames after levelling, near the level of ITU-T P.56 test material
MAX_GAIN_DB: Final = 50.0
POWER_FLOOR: Final = 1e-12  # -120 dBFS, keeps the level of silence finite


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A conditioned clip.

    Args:
        waveform: `(S',)` float32 at `SAMPLE_RATE`; all of the clip where no frame is louder than another.
        start: first sample kept of the original.
        active: share of the kept frames that are active, in [0, 1].
    """

    waveform: FloatArray
    start: int
    active: float


def condition(waveform: FloatArray) -> Conditioned:
    """Trim leading and trailing non-speech and bring the rest to `LEVEL_DBFS`.

    A frame is active where its level, the median of 50 ms, is within `RANGE_DB` of the loudest frames and at least
    `NOISE_MARGIN_DB` above the quietest ones that are not digital silence. Both are independent of the gain of the
    recording and of how much silence surrounds the speech.

    Args:
        waveform: `(S,)` float32 at `SAMPLE_RATE`.

    Returns:
        At least `MARGIN + 1` frames of the clip, or all of a shorter one.
    """
    if waveform.size == 0:
        return Conditioned(waveform, 0, 0.0)
    levels = _frame_levels(waveform)  # (F,) dBFS
    active = levels >= _threshold(levels)
    first, last = int(active.argmax()), len(active) - int(active[::-1].argmax())  # [first, last)
    begin = max(0, first - MARGIN) * FRAME
    end = min(waveform.size, (last + MARGIN) * FRAME)
    power = 10.0 ** (levels[active] / 10)
    gain_db = min(LEVEL_DBFS - 10 * float(np.log10(power.mean())), MAX_GAIN_DB)
    levelled = waveform[begin:end] * np.float32(10 ** (gain_db / 20))
    return Conditioned(levelled, begin, float(active[first:last].mean()))


def _frame_levels(waveform: FloatArray) -> DoubleArray:
    """Level of each 10 ms frame in dBFS, the median of it and its neighbours, `(F,)`."""
    frames = max(1, waveform.size // FRAME)
    whole = waveform[: frames * FRAME].reshape(frames, -1)
    levels = 10.0 * np.log10(np.square(whole, dtype=np.float64).mean(axis=1) + POWER_FLOOR)
    padded = np.pad(levels, SMOOTHING // 2, mode="symmetric")  # a click in the first frame stays a minority
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING), axis=1))


def _threshold(levels: DoubleArray) -> float:
    recorded = levels[levels > levels.max() - RECORDED_DB]
    loudest = float(np.percentile(recorded, 97))
    noise = float(np.percentile(recorded, 3))
    return max(loudest - RANGE_DB, min(noise + NOISE_MARGIN_DB, loudest - LEAST_RANGE_DB))


assert SAMPLE_RATE == 16_000, "FRAME is 10 ms at this rate"
