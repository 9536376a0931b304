"""Variants of a recorded waveform with the same words and emotion, in another voice, room and recording.

Speed perturbation as in Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
Shapes: S samples; S' of a variant, which may be a part of the clip, faster, with silence around it.
"""

import hashlib
import io
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve

from model.features.audio import SAMPLE_RATE
from model.features.audio.conditioning import FRAME, condition
from model.types import DoubleArray, FloatArray

# A `..._SHARE` is the share of variants. Ranges are uniform, and chosen by hand to cover phones and laptops.
CROP_SHARE: Final = 0.5  # parts of an utterance carry its emotion, and real clips are cut anywhere
CROP: Final = (0.25, 0.9)  # share of the speech that is kept
LEAST_CROP: Final = round(0.35 * SAMPLE_RATE)  # samples; about two syllables
SPEED: Final = (0.85, 1.18)  # factor on speed and pitch together: roughly a larger or a smaller speaker
TILT: Final = (-0.5, 0.5)  # coefficient of a one-tap filter: below 0 amplifies high frequencies, above 0 low ones
REVERBERATION_SHARE: Final = 0.4
DECAY_SECONDS: Final = (0.1, 0.6)  # T60, from a furnished room to a small hall
DIRECT_TO_REVERBERANT_DB: Final = (0.0, 12.0)
TELEPHONE_SHARE: Final = 0.3
TELEPHONE_RATE: Final = 8_000  # Hz
TELEPHONE_LOW_HZ: Final = (100.0, 400.0)  # around the 300 Hz of ITU-T G.712
TELEPHONE_HIGH_HZ: Final = (3_000.0, 3_800.0)  # around its 3,400 Hz
COMPANDED_SHARE: Final = 0.5  # of telephone variants: mu-law of 8 bits, as ITU-T G.711 has it
MU: Final = 255.0
LOWPASS_SHARE: Final = 0.4  # of the other variants
LOWPASS_HZ: Final = (4_500.0, 8_000.0)
SURROUNDED_SHARE: Final = 0.5
SURROUNDING_SECONDS: Final = (0.0, 1.0)  # of digital silence on either side; noise is added after it
SNR_DB: Final = (10.0, 50.0)  # of the active frames over the noise
BROWN_NOISE_WINDOW: Final = 400  # samples, 25 ms: drift slower than about 40 Hz is removed from brown noise
CODED_SHARE: Final = 0.25  # through Ogg Vorbis or MP3, equally often
VORBIS_COMPRESSION: Final = (0.5, 1.0)  # libsndfile's scale, 1 the smallest file: 51 to 27 kbit/s, measured on speech
MP3_COMPRESSION: Final = (0.6, 0.999)  # the same: 48 to 27 kbit/s; libsndfile refuses 1
CODED_PEAK: Final = 0.9  # of full scale, as coding raises peaks, which must not clip
CODED_BLOCK: Final = 2**14  # samples a call; libsndfile's Vorbis encoder copies them to the stack
GAIN_DB: Final = (-15.0, 10.0)
ACTIVE_RANGE_DB: Final = 30.0  # frames this much below the loudest are pauses
_POWER_FLOOR: Final = 1e-12  # keeps the level of silence finite
_PEAK_FLOOR: Final[float] = np.sqrt(_POWER_FLOOR)


def variant(waveform: FloatArray, index: int) -> FloatArray:
    """A numbered variant of a waveform, determined by content and number alone.

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
    """Change speed, tilt, noise and gain; and by chance crop, reverberate, limit the band, pad, or code with losses.

    Args:
        waveform: `(S,)` float32, mono, at `SAMPLE_RATE`.
        rng: source of every random choice.

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
    """A random part of the speech; all of it where it is shorter than `LEAST_CROP`."""
    speech = condition(waveform)
    size = max(LEAST_CROP, int(speech.size * rng.uniform(*CROP)))
    first = int(rng.integers(max(1, speech.size - size + 1)))
    return speech[first : first + size]


def change_speed(waveform: FloatArray, factor: float) -> FloatArray:
    """Resample, which multiplies speed and pitch by a factor."""
    return _resampled(waveform, SAMPLE_RATE, int(SAMPLE_RATE / factor), "MQ")


def tilt(waveform: FloatArray, coefficient: float) -> FloatArray:
    """Add to each sample `coefficient` times the one before."""
    tilted = waveform.copy()
    tilted[1:] += np.float32(coefficient) * waveform[:-1]
    return tilted


def reverberate(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Convolve with a room: exponentially decaying noise, a quarter of which is kept past the clip's end."""
    seconds = float(rng.uniform(*DECAY_SECONDS))
    size = int(SAMPLE_RATE * seconds)
    tail = rng.standard_normal(size) * 10.0 ** (-3.0 * np.arange(size) / size)  # -60 dB at its end
    tail[0] = 0.0
    tail *= 10 ** (-float(rng.uniform(*DIRECT_TO_REVERBERANT_DB)) / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0  # the direct sound
    reverberant = fftconvolve(waveform.astype(np.float64), tail)[: waveform.size + size // 4]
    return cast(FloatArray, reverberant.astype(np.float32))


def telephone(waveform: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Limit the band to a telephone's, by chance with its mu-law quantisation."""
    narrow = _resampled(waveform, SAMPLE_RATE, TELEPHONE_RATE, "HQ")
    if narrow.size == 0:
        return waveform
    low, high = float(rng.uniform(*TELEPHONE_LOW_HZ)), float(rng.uniform(*TELEPHONE_HIGH_HZ))
    hz = np.fft.rfftfreq(narrow.size, 1 / TELEPHONE_RATE)
    narrow = _filtered(narrow, 1 / (1 + (low / np.maximum(hz, 1.0)) ** 6) / (1 + (hz / high) ** 12))
    if rng.random() < COMPANDED_SHARE:
        peak = _peak(narrow)
        companded = np.sign(narrow) * np.log1p(MU * np.abs(narrow) / peak) / np.log1p(MU)
        companded = np.round(companded * 127) / 127
        narrow = (np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU * peak).astype(np.float32)
    return _resampled(narrow, TELEPHONE_RATE, SAMPLE_RATE, "HQ")


def lowpass(waveform: FloatArray, cutoff: float) -> FloatArray:
    """Attenuate frequencies above a cutoff in Hz."""
    return _filtered(waveform, 1 / (1 + (np.fft.rfftfreq(waveform.size, 1 / SAMPLE_RATE) / cutoff) ** 16))


def add_noise(waveform: FloatArray, snr_db: float, rng: np.random.Generator) -> FloatArray:
    """Add white, brown or pink noise, `snr_db` below the level of the speech without its pauses."""
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
    """Encode as Ogg Vorbis or MP3 and decode again."""
    vorbis = rng.random() < 0.5
    compression = float(rng.uniform(*(VORBIS_COMPRESSION if vorbis else MP3_COMPRESSION)))
    form, subtype = ("OGG", "VORBIS") if vorbis else ("MP3", "MPEG_LAYER_III")
    scale = np.float32(CODED_PEAK / _peak(waveform))
    coded, options = io.BytesIO(), {"format": form, "subtype": subtype, "compression_level": compression}
    with soundfile.SoundFile(coded, "w", SAMPLE_RATE, 1, **options) as file:
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


def _filtered(waveform: FloatArray, response: DoubleArray) -> FloatArray:
    """Multiply the spectrum by a real response, which does not change the phase."""
    return np.fft.irfft(np.fft.rfft(waveform) * response, waveform.size).astype(np.float32)


def _peak(waveform: FloatArray) -> float:
    return max(float(np.abs(waveform).max()), _PEAK_FLOOR)


def _root_mean_square(waveform: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) + _POWER_FLOOR))
