"""Generated sounds that are not speech, in families: the negative examples of the speech check."""

# Shapes: S samples at `SAMPLE_RATE`, N samples of a note or an event.

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.signal import fftconvolve, lfilter

from model.features.audio import SAMPLE_RATE
from model.training.augmentation import augment
from model.types import DoubleArray, FloatArray

# Ranges are uniform, or log-uniform where they span more than a factor of four, and were chosen by hand to be wide.
SECONDS: Final = (0.35, 8.0)
PEAK_DBFS: Final = (-40.0, 0.0)
AUGMENTED_SHARE: Final = 0.5  # of sounds get the augmentation of speech, so that codecs and rooms mark neither class
PAUSED_SHARE: Final = 0.3  # of sounds have pauses, as sentences do
NYQUIST: Final = SAMPLE_RATE / 2  # Hz
CONCERT_PITCH: Final = 440.0  # Hz
# Semitones of a major, minor, pentatonic, blues and chromatic scale.
SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10), tuple(range(12)))
DTMF_LOW_HZ: Final = (697.0, 770.0, 852.0, 941.0)  # ITU-T Q.23
DTMF_HIGH_HZ: Final = (1209.0, 1336.0, 1477.0, 1633.0)
_FLOOR: Final = 1e-9  # of a peak or a level that is divided by


def nonspeech(rng: np.random.Generator, family: str | None = None) -> FloatArray:
    """A sound without speech.

    Args:
        rng: source of every random choice.
        family: one of `FAMILIES`; a random one when None.

    Returns:
        `(S,)` float32 in [-1, 1], or a little beyond where it was augmented.
    """
    name = family or list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    size = round(_log_uniform(rng, *SECONDS) * SAMPLE_RATE)
    sound = FAMILIES[name](rng, size)
    if rng.random() < PAUSED_SHARE:
        sound = sound * _pauses(rng, size)
    if rng.random() < 0.5:
        sound = sound + 10 ** (-rng.uniform(25, 70) / 20) * float(np.abs(sound).max()) * _coloured(rng, size)
    waveform = (sound / _peak(sound) * 10 ** (rng.uniform(*PEAK_DBFS) / 20)).astype(np.float32)
    return augment(waveform, rng) if rng.random() < AUGMENTED_SHARE else waveform


def _noise(rng: np.random.Generator, size: int) -> DoubleArray:
    """White, pink, brown, band or freely coloured noise, steady or modulated."""
    noise = _coloured(rng, size)
    if rng.random() < 0.4:
        low = _log_uniform(rng, 50, 4_000)
        noise = _banded(noise, low, min(low * _log_uniform(rng, 1.1, 20), NYQUIST))
    return noise * _modulation(rng, size)


def _tones(rng: np.random.Generator, size: int) -> DoubleArray:
    """Pure tones, chords, chirps, sirens, dialling and beeps."""
    kind = rng.integers(6)
    if kind == 0:
        tone = _steady(rng, size, 60, 5_000)
    elif kind == 1:
        tone = np.sum([_steady(rng, size, 80, 2_000) for _ in range(int(rng.integers(2, 6)))], axis=0)
    elif kind == 2:
        low, high = sorted((_log_uniform(rng, 60, 4_000), _log_uniform(rng, 60, 4_000)))
        sweep = np.geomspace(low, high, size) if rng.random() < 0.5 else np.linspace(low, high, size)
        tone = _wave(rng, sweep if rng.random() < 0.5 else sweep[::-1])
    elif kind == 3:
        rate, depth = _log_uniform(rng, 0.2, 8), rng.uniform(0.05, 0.6)
        swing = np.sin(2 * np.pi * rate * _time(size))
        swing = swing if rng.random() < 0.5 else np.sign(swing)
        tone = _wave(rng, _log_uniform(rng, 200, 2_000) * (1 + depth * swing))
    elif kind == 4:
        tone = _dialled(rng, size)
    else:
        tone = _steady(rng, size, 300, 4_000) * _beeping(rng, size)
    return tone * (_modulation(rng, size) if rng.random() < 0.3 else 1.0)


def _music(rng: np.random.Generator, size: int) -> DoubleArray:
    """Melodies, chords, arpeggios, bass and drums, one or several at once."""
    beat = 60 / rng.uniform(50, 190)  # seconds
    scale = SCALES[int(rng.integers(len(SCALES)))]
    root = CONCERT_PITCH * 2 ** (rng.integers(-33, 4) / 12)  # 65 to 523 Hz
    parts: list[DoubleArray] = []
    for part in rng.permutation(["melody", "chords", "arpeggio", "bass", "drums", "melody"])[: rng.integers(1, 5)]:
        level = rng.uniform(0.3, 1)
        drums = part == "drums"
        parts.append(level * (_drums(rng, size, beat) if drums else _played(rng, size, beat, root, scale, str(part))))
    sound = np.sum(parts, axis=0)
    return _with_room(rng, sound) if rng.random() < 0.5 else sound


def _hum(rng: np.random.Generator, size: int) -> DoubleArray:
    """Mains hum, motors and engines."""
    if rng.random() < 0.5:
        pitch = np.full(size, float(rng.choice([50.0, 60.0, 100.0, 120.0])) * rng.uniform(0.995, 1.005))
    else:
        revolutions = np.exp(_wander(rng, size, _log_uniform(rng, 0.2, 3)) * rng.uniform(0, 0.4))
        pitch = _log_uniform(rng, 15, 250) * revolutions
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    falloff, most = rng.uniform(0.3, 2), int(rng.integers(3, 60))
    hum = np.zeros(size)
    for k in range(1, most + 1):
        if k * float(pitch.max()) < NYQUIST:
            hum += rng.uniform(0, 1) * k**-falloff * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:
        throb = np.maximum(0, np.sin(phase / rng.integers(1, 5))) ** rng.uniform(0.5, 4)
        hum = _standardised(hum) + rng.uniform(0, 1) * _coloured(rng, size) * throb
    if rng.random() < 0.5:
        hum = _equalised(rng, hum, rng.uniform(3, 15))
    return hum * (_modulation(rng, size) if rng.random() < 0.3 else 1.0)


def _clicks(rng: np.random.Generator, size: int) -> DoubleArray:
    """Typing, knocks, crackle and rain: short decaying events, few or many."""
    events = _log_uniform(rng, 1, 2_000) * size / SAMPLE_RATE
    count = max(1, int(rng.poisson(events)))
    if rng.random() < 0.3 and count < 200:  # as regular as a clock
        places = np.linspace(0, size - 1, count, endpoint=False).astype(int)
    else:
        places = rng.integers(0, size, count)
    strength, spread = rng.uniform(0.1, 2), np.zeros(size)
    np.add.at(spread, places, np.exp(strength * rng.standard_normal(count)) * rng.choice([-1, 1], count))
    sound = np.zeros(size)
    for _ in range(int(rng.integers(1, 5))):
        decay = _log_uniform(rng, 0.0005, 0.08)  # seconds
        length = int(min(6 * decay, 0.5) * SAMPLE_RATE) + 1
        ring = np.exp(-np.arange(length) / (decay * SAMPLE_RATE))
        tonal = np.sin(2 * np.pi * _log_uniform(rng, 80, 6_000) * np.arange(length) / SAMPLE_RATE)
        sound += fftconvolve(spread, ring * (tonal if rng.random() < 0.6 else rng.standard_normal(length)))[:size]
    return sound


def _ventilation(rng: np.random.Generator, size: int) -> DoubleArray:
    """A fan's, a stream's or a road's steady noise, with a blade's tone at times."""
    noise = _equalised(rng, _banded(rng.standard_normal(size), 20, _log_uniform(rng, 300, 8_000)), rng.uniform(0, 8))
    noise = _standardised(noise) * (1 + rng.uniform(0, 0.3) * _wander(rng, size, 1.0))
    if rng.random() < 0.5:
        noise += rng.uniform(0.05, 1) * _steady(rng, size, 40, 1_500)
    if rng.random() < 0.3:
        blade = _log_uniform(rng, 2, 40)
        noise *= 1 + rng.uniform(0, 0.5) * np.sin(2 * np.pi * blade * np.arange(size) / SAMPLE_RATE)
    return noise


_GENERATORS = (_noise, _tones, _music, _hum, _clicks, _ventilation)  # of `(S,)` samples of any level
FAMILIES: Final = {generator.__name__.lstrip("_"): generator for generator in _GENERATORS}


def _played(
    rng: np.random.Generator, size: int, beat: float, root: float, scale: tuple[int, ...], part: str
) -> DoubleArray:
    """One instrument's part."""
    sound = np.zeros(size)
    note_of = _instrument(rng)
    octave = {"melody": rng.integers(0, 3), "chords": rng.integers(0, 2), "arpeggio": rng.integers(0, 3)}.get(part, -1)
    rest, degree, place = rng.uniform(0, 0.3), int(rng.integers(0, 7)), 0.0
    lengths = rng.choice([0.25, 0.5, 1, 1, 2, 4], 3) if part != "chords" else rng.choice([1, 2, 4], 2)
    while place < size:
        length = max(0.05, float(rng.choice(lengths)) * beat) * SAMPLE_RATE
        held = int(length * rng.uniform(0.5, 1.2)) + 1
        degree = int(np.clip(degree + rng.integers(-3, 4), -4, 10)) if part != "arpeggio" else (degree + 2) % 9
        notes = (degree, degree + 2, degree + 4) if part == "chords" else (degree,)
        if rng.random() >= rest:
            for note in notes:
                steps = 12 * (note // len(scale) + int(octave)) + scale[note % len(scale)]
                first = int(place)
                sound[first : first + held] += note_of(root * 2 ** (steps / 12), held)[: size - first]
        place += length
    return sound


def _instrument(rng: np.random.Generator) -> Callable[[float, int], DoubleArray]:
    """Draw a timbre, an envelope and a vibrato; return a function from pitch in Hz and N to the samples of a note."""
    partials = int(rng.integers(1, 20))
    amplitudes = rng.uniform(0.1, 1, partials) * np.arange(1, partials + 1) ** -rng.uniform(0.3, 2.5)
    if rng.random() < 0.25:
        amplitudes[1::2] *= 0.05  # mostly odd partials, as a clarinet
    stretch = rng.uniform(0, 0.002) if rng.random() < 0.3 else 0.0  # inharmonicity of a stiff string or a bell
    plucked = rng.random() < 0.5
    decay, attack = _log_uniform(rng, 0.05, 2), _log_uniform(rng, 0.002, 0.2)  # seconds
    vibrato_rate = rng.uniform(4, 7.5)  # Hz
    vibrato = rng.uniform(0, 0.03) if rng.random() < 0.5 else 0.0  # up to half a semitone
    glide = rng.uniform(0, 0.06) if rng.random() < 0.2 else 0.0

    def note(pitch: float, size: int) -> DoubleArray:
        time = _time(size)
        curve = 1 + vibrato * np.sin(2 * np.pi * vibrato_rate * time) - glide * np.exp(-time / 0.05)
        phase = 2 * np.pi * pitch * np.cumsum(curve) / SAMPLE_RATE
        tone = np.zeros(size)
        for k, amplitude in enumerate(amplitudes, start=1):
            ratio = k * float(np.sqrt(1 + stretch * k * k))
            if ratio * pitch * 1.1 < NYQUIST:
                tone += amplitude * (np.exp(-time * k / decay / 3) if plucked else 1.0) * np.sin(ratio * phase)
        rise = np.minimum(1, time / attack)
        fall = np.minimum(1, (size - np.arange(size)) / (0.02 * SAMPLE_RATE))
        return tone * rise * fall * rng.uniform(0.5, 1)

    return note


def _drums(rng: np.random.Generator, size: int, beat: float) -> DoubleArray:
    sound = np.zeros(size)
    step = max(1, int(beat * SAMPLE_RATE / float(rng.choice([1, 2, 4]))))
    time = _time(int(0.3 * SAMPLE_RATE))
    kick = np.sin(2 * np.pi * (rng.uniform(40, 70) * time + rng.uniform(1, 4) * (1 - np.exp(-time * 40))))
    kick *= np.exp(-time * rng.uniform(8, 25))
    snare = rng.standard_normal(time.size) * np.exp(-time * rng.uniform(12, 40))
    hat = _banded(rng.standard_normal(time.size), rng.uniform(3_000, 6_000), NYQUIST)
    hat *= np.exp(-time * rng.uniform(30, 120))
    pattern = rng.random((3, 8)) < rng.uniform(0.2, 0.7, (3, 1))
    for index, first in enumerate(range(0, size, step)):
        for drum, hits in zip((kick, snare, hat), pattern, strict=True):
            if hits[index % 8]:
                sound[first : first + drum.size] += drum[: size - first]
    return sound


def _dialled(rng: np.random.Generator, size: int) -> DoubleArray:
    time, sound = _time(size), np.zeros(size)
    length = int(rng.uniform(0.06, 0.4) * SAMPLE_RATE)
    for first in range(0, size, int(length * rng.uniform(1.2, 3))):
        span = slice(first, first + length)
        for pitch in (rng.choice(DTMF_LOW_HZ), rng.choice(DTMF_HIGH_HZ)):
            sound[span] += np.sin(2 * np.pi * pitch * time[span])
    return sound


def _beeping(rng: np.random.Generator, size: int) -> DoubleArray:
    period = _log_uniform(rng, 0.08, 2) * SAMPLE_RATE
    return np.asarray((np.arange(size) % period < rng.uniform(0.2, 0.8) * period), dtype=np.float64)


def _steady(rng: np.random.Generator, size: int, low: float, high: float) -> DoubleArray:
    """A wave of one pitch between two frequencies in Hz."""
    return _wave(rng, np.full(size, _log_uniform(rng, low, high)))


def _wave(rng: np.random.Generator, pitch: DoubleArray) -> DoubleArray:
    """A sine, triangle, square or saw of a given pitch in Hz at each sample; the corners are not band-limited."""
    phase = np.cumsum(pitch) / SAMPLE_RATE + rng.random()
    shape = rng.integers(6)
    if shape == 0:
        return np.asarray(np.sign(np.sin(2 * np.pi * phase)))
    if shape == 1:
        return 2 * (phase % 1) - 1
    if shape == 2:
        return 4 * np.abs(phase % 1 - 0.5) - 1
    return np.sin(2 * np.pi * phase)


def _coloured(rng: np.random.Generator, size: int) -> DoubleArray:
    """Noise of unit variance whose power falls with frequency at up to 6 dB an octave, at times freely coloured."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    exponent = float(rng.choice([0, 0.5, rng.random()]))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(spectrum.size), size / SAMPLE_RATE * 20) ** exponent, size)
    if rng.random() < 0.4:
        noise = _equalised(rng, noise, rng.uniform(3, 15))
    return _standardised(noise)


def _equalised(rng: np.random.Generator, sound: DoubleArray, deviation_db: float) -> DoubleArray:
    """Amplify octaves at random."""
    frequencies = np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE)
    bands = np.geomspace(50, NYQUIST, int(rng.integers(3, 12)))
    gains_db = deviation_db * rng.standard_normal(bands.size)
    gain_db = np.interp(np.log(np.maximum(frequencies, 1)), np.log(bands), gains_db)
    return np.fft.irfft(np.fft.rfft(sound) * 10 ** (gain_db / 20), sound.size)


def _banded(sound: DoubleArray, low: float, high: float) -> DoubleArray:
    """Band-pass between two frequencies in Hz, without a change of phase."""
    frequencies = np.maximum(np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE), 1.0)
    spectrum = np.fft.rfft(sound) / (1 + (low / frequencies) ** 8) / (1 + (frequencies / high) ** 8)
    return np.fft.irfft(spectrum, sound.size)


def _wander(rng: np.random.Generator, size: int, rate: float) -> DoubleArray:
    """A random curve that changes at about a rate in Hz, of unit variance."""
    knots = rng.standard_normal(max(2, int(size / SAMPLE_RATE * rate * 2) + 2))
    return np.interp(np.linspace(0, knots.size - 1, size), np.arange(knots.size), knots)


def _modulation(rng: np.random.Generator, size: int) -> DoubleArray:
    """An envelope: none, periodic, wandering, rising or falling, or of decaying beeps."""
    kind = rng.integers(5)
    if kind == 0:
        return np.ones(size)
    if kind == 1:
        return 1 + rng.uniform(0.1, 1) * np.sin(2 * np.pi * _log_uniform(rng, 0.2, 20) * _time(size))
    if kind == 2:
        return np.exp(rng.uniform(0.1, 1.5) * _wander(rng, size, _log_uniform(rng, 0.5, 15)))
    if kind == 3:
        return np.geomspace(1, 10 ** rng.uniform(-2, 2), size)
    return np.asarray(lfilter([1], [1, -0.999], _beeping(rng, size)), dtype=np.float64)


def _pauses(rng: np.random.Generator, size: int) -> DoubleArray:
    """On and off for 0.1 to 1.5 s at a time, with edges of 10 ms."""
    gate, place, on = np.zeros(size), 0, True
    while place < size:
        length = int(_log_uniform(rng, 0.1, 1.5) * SAMPLE_RATE)
        gate[place : place + length] = on
        place, on = place + length, not on
    edge = SAMPLE_RATE // 100
    return np.convolve(gate, np.full(edge, 1 / edge), mode="same")


def _with_room(rng: np.random.Generator, sound: DoubleArray) -> DoubleArray:
    """Add a decaying noise tail of 0.2 to 2.5 s."""
    size = int(_log_uniform(rng, 0.2, 2.5) * SAMPLE_RATE)
    tail = rng.standard_normal(size) * 10.0 ** (-3.0 * np.arange(size) / size)
    wet = fftconvolve(sound, tail)[: sound.size]
    return np.asarray(sound + rng.uniform(0.05, 0.7) * float(np.abs(sound).max()) / _peak(wet) * wet)


def _time(size: int) -> DoubleArray:
    """Seconds at each sample."""
    return np.arange(size) / SAMPLE_RATE


def _peak(sound: DoubleArray) -> float:
    return max(float(np.abs(sound).max()), _FLOOR)


def _standardised(sound: DoubleArray) -> DoubleArray:
    return sound / max(float(sound.std()), _FLOOR)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
