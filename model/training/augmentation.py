"""Variants of a recorded waveform that keep what is said and felt, and change who says it and where.

For: training on few speakers and few rooms without learning them by heart.
Does not know: features, files or labels.
Source: speed perturbation as in Ko et al., "Audio augmentation for speech recognition", Interspeech 2015; the rest are
the usual recording conditions.

Shapes: S samples; a variant has another S, as it may be a part of the clip, spoken faster, with silence around it.
"""

import hashlib
import io
from collections.abc import Callable
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve

from model.features.audio.acoustic import SAMPLE_RATE
from model.features.audio.conditioning import FRAME, condition
from model.types import DoubleArray, FloatArray

# Where nothing else is said, ranges are uniform and were chosen by hand to cover what phones and laptops record.
CROP_SHARE: Final = 0.5  # of variants: the emotion of an utterance shows in its parts, and clips are cut anywhere
CROP: Final = (0.25, 0.9)  # share of the speech that is kept
LEAST_CROP: Final = round(0.35 * SAMPLE_RATE)  # samples; about two syllables
SPEED: Final = (0.85, 1.18)
"""Factor on speed and pitch together, as resampling changes both: roughly a larger or a smaller speaker."""
TILT: Final = (-0.5, 0.5)
"""Coefficient of a one-tap filter: negative brightens, positive dulls."""
REVERBERATION_SHARE: Final = 0.4  # of variants
DECAY_SECONDS: Final = (0.1, 0.6)  # T60, from a furnished room to a small hall
DIRECT_TO_REVERBERANT_DB: Final = (0.0, 12.0)
TELEPHONE_SHARE: Final = 0.3  # of variants
TELEPHONE_RATE: Final = 8_000  # Hz
TELEPHONE_LOW_HZ: Final = (100.0, 400.0)  # around the 300 Hz of ITU-T G.712
TELEPHONE_HIGH_HZ: Final = (3_000.0, 3_800.0)  # around its 3,400 Hz
COMPANDED_SHARE: Final = 0.5  # of telephone variants: mu-law of 8 bits, as ITU-T G.711 has it
MU: Final = 255.0
LOWPASS_SHARE: Final = 0.4  # of variants that are no telephone's
LOWPASS_HZ: Final = (4_500.0, 8_000.0)
SURROUNDED_SHARE: Final = 0.5  # of variants
SURROUNDING_SECONDS: Final = (0.0, 1.0)  # of digital silence on either side; noise is added after it
SNR_DB: Final = (10.0, 50.0)  # of the active frames over the noise
BROWN_NOISE_WINDOW: Final = 400  # samples, 25 ms: drift slower than about 40 Hz is taken out of brown noise
CODED_SHARE: Final = 0.25  # of variants: through Ogg Vorbis or MP3, at equal odds
VORBIS_COMPRESSION: Final = (0.5, 1.0)  # libsndfile's scale, 1 the smallest file: 51 to 27 kbit/s, measured on speech
MP3_COMPRESSION: Final = (0.6, 0.999)  # the same: 48 to 27 kbit/s; libsndfile refuses 1
CODED_PEAK: Final = 0.9  # of full scale: what a coder adds must not clip
CODED_BLOCK: Final = 2**14  # samples; libsndfile's Vorbis encoder keeps what it is given on the stack
GAIN_DB: Final = (-15.0, 10.0)
ACTIVE_RANGE_DB: Final = 30.0  # frames this much below the loudest are pauses
_POWER_FLOOR: Final = 1e-12  # keeps the level of silence finite


def variant(waveform: FloatArray, index: int) -> FloatArray:
    """The waveform's variant of a given number: the same for the same content and number, on every run.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        index: 0 for the waveform itself, k > 0 for its k-th variant.

    Returns:
        `(S',)` float32.
    """
    if index == 0:
        return waveform
    content = np.ascontiguousarray(waveform, dtype="<f4").tobytes() + index.to_bytes(8, "little")
    seed = int.from_bytes(hashlib.sha256(content).digest()[:16], "little")
    return augment(waveform, np.random.default_rng(seed))


def augment(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Say part of it, in another voice, in another room, over another line, with noise.

    Every variant changes speed, tilt, noise and gain; cropping, reverberation, a telephone's band, a low-pass, silence
    around it and a lossy codec come at their odds.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        rng: where every choice is drawn from.

    Returns:
        `(S',)` float32; its peak may pass 1.

    Raises:
        ValueError: the waveform is not one-dimensional.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one-dimensional, got shape {waveform.shape}")
    if waveform.size == 0:
        return waveform
    varied = crop(waveform, rng) if rng.random() < CROP_SHARE else waveform
    varied = change_speed(varied, float(rng.uniform(*SPEED)))
    varied = tilt(varied, float(rng.uniform(*TILT)))
    if rng.random() < REVERBERATION_SHARE:
        varied = reverberate(varied, rng)
    if rng.random() < TELEPHONE_SHARE:
        varied = telephone(varied, rng)
    elif rng.random() < LOWPASS_SHARE:
        varied = lowpass(varied, float(rng.uniform(*LOWPASS_HZ)))
    if rng.random() < SURROUNDED_SHARE:
        before, after = (int(rng.uniform(*SURROUNDING_SECONDS) * SAMPLE_RATE) for _ in range(2))
        varied = np.pad(varied, (before, after))
    varied = add_noise(varied, float(rng.uniform(*SNR_DB)), rng)
    if rng.random() < CODED_SHARE:
        varied = code(varied, rng)
    return varied * np.float32(10 ** (rng.uniform(*GAIN_DB) / 20))


def crop(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A stretch of the speech, from anywhere in it; all of it where it is shorter than `LEAST_CROP`."""
    speech = condition(waveform).waveform
    size = max(LEAST_CROP, int(speech.size * rng.uniform(*CROP)))
    first = int(rng.integers(max(1, speech.size - size + 1)))
    return speech[first : first + size]


def change_speed(waveform: FloatArray, factor: float) -> FloatArray:
    """Play it faster, and so higher, by a factor."""
    return _resampled(waveform, SAMPLE_RATE, int(SAMPLE_RATE / factor), "MQ")


def tilt(waveform: FloatArray, coefficient: float) -> FloatArray:
    """Add to each sample a share of the one before."""
    tilted = waveform.copy()
    tilted[1:] += np.float32(coefficient) * waveform[:-1]
    return tilted


def reverberate(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Add the tail of a room: noise that decays exponentially, a quarter of it kept past the clip's end."""
    seconds = float(rng.uniform(*DECAY_SECONDS))
    size = int(SAMPLE_RATE * seconds)
    tail = rng.standard_normal(size) * 10.0 ** (-3.0 * np.arange(size) / size)  # -60 dB at its end
    tail[0] = 0.0
    tail *= 10 ** (-float(rng.uniform(*DIRECT_TO_REVERBERANT_DB)) / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0  # the direct sound
    reverberant = fftconvolve(waveform.astype(np.float64), tail)[: waveform.size + size // 4]
    return cast(FloatArray, reverberant.astype(np.float32))


def telephone(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Narrow the band to a telephone's, half the time with its mu-law quantisation."""
    narrow = _resampled(waveform, SAMPLE_RATE, TELEPHONE_RATE, "HQ")
    if narrow.size == 0:
        return waveform
    low, high = float(rng.uniform(*TELEPHONE_LOW_HZ)), float(rng.uniform(*TELEPHONE_HIGH_HZ))
    narrow = _filtered(
        narrow, TELEPHONE_RATE, lambda hz: 1 / (1 + (low / np.maximum(hz, 1.0)) ** 6) / (1 + (hz / high) ** 12)
    )
    if rng.random() < COMPANDED_SHARE:
        peak = max(float(np.abs(narrow).max()), np.sqrt(_POWER_FLOOR))
        companded = np.sign(narrow) * np.log1p(MU * np.abs(narrow) / peak) / np.log1p(MU)
        companded = np.round(companded * 127) / 127
        narrow = (np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU * peak).astype(np.float32)
    return _resampled(narrow, TELEPHONE_RATE, SAMPLE_RATE, "HQ")


def lowpass(waveform: FloatArray, cutoff: float) -> FloatArray:
    """Take out what lies above a frequency in Hz."""
    return _filtered(waveform, SAMPLE_RATE, lambda hz: 1 / (1 + (hz / cutoff) ** 16))


def add_noise(waveform: FloatArray, snr_db: float, rng: np.random.Generator) -> FloatArray:
    """Add white, brown or pink noise, so many dB below the speech without its pauses."""
    colour = rng.integers(3)
    noise: DoubleArray = rng.standard_normal(waveform.size)
    if colour == 1:
        noise = np.cumsum(noise)
        noise -= uniform_filter1d(noise, BROWN_NOISE_WINDOW, mode="constant")
    elif colour == 2:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1)), waveform.size)
    level = active_level(waveform) / _root_mean_square(noise) * 10 ** (-snr_db / 20)
    return (waveform + level * noise).astype(np.float32)


def code(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Write it as Ogg Vorbis or MP3 and read it back."""
    vorbis = rng.random() < 0.5
    compression = float(rng.uniform(*(VORBIS_COMPRESSION if vorbis else MP3_COMPRESSION)))
    form, subtype = ("OGG", "VORBIS") if vorbis else ("MP3", "MPEG_LAYER_III")
    scale = np.float32(CODED_PEAK / max(float(np.abs(waveform).max()), np.sqrt(_POWER_FLOOR)))
    coded = io.BytesIO()
    with soundfile.SoundFile(
        coded, "w", SAMPLE_RATE, 1, subtype=subtype, format=form, compression_level=compression
    ) as file:
        for first in range(0, waveform.size, CODED_BLOCK):
            file.write(waveform[first : first + CODED_BLOCK] * scale)
    coded.seek(0)
    decoded, _ = soundfile.read(coded, dtype="float32")
    return cast(FloatArray, decoded / scale)


def active_level(waveform: FloatArray) -> float:
    """Root mean square of the 10 ms frames within `ACTIVE_RANGE_DB` of the loudest."""
    whole = waveform[: waveform.size // FRAME * FRAME].reshape(-1, FRAME)
    if not len(whole):
        return _root_mean_square(waveform)
    power = np.square(whole, dtype=np.float64).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 10 ** (-ACTIVE_RANGE_DB / 10)].mean() + _POWER_FLOOR))


def _resampled(waveform: FloatArray, source: int, target: int, quality: str) -> FloatArray:
    resampled = soxr.resample(waveform, source, target, quality=quality)
    return cast(FloatArray, resampled.astype(np.float32, copy=False))


def _filtered(waveform: FloatArray, rate: int, response: Callable[[DoubleArray], DoubleArray]) -> FloatArray:
    """Weigh frequencies, given in Hz, without changing their phase."""
    spectrum = np.fft.rfft(waveform) * response(cast(DoubleArray, np.fft.rfftfreq(waveform.size, 1 / rate)))
    return np.fft.irfft(spectrum, waveform.size).astype(np.float32)


def _root_mean_square(waveform: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) + _POWER_FLOOR))
