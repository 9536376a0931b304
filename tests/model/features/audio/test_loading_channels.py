import io
import re
from collections.abc import Mapping

import numpy as np
import pytest

from model.features.audio.loading import read_sound
from model.types import FloatArray
from tests.support.sound import Container, encode, voice_like


def test_channels_are_averaged() -> None:
    left, right = voice_like(0.3), voice_like(0.3, seed=1)
    waveform, channel = mix(left, right)
    assert channel is None
    assert np.allclose(waveform, (left + right) / 2, atol=1e-6)


def mix(*channels: FloatArray) -> tuple[FloatArray, str | None]:
    """The waveform, and the name of the only channel used."""
    data = encode(np.stack(channels, axis=1), "wav", subtype="FLOAT")
    waveform, warnings = read_sound(io.BytesIO(data))
    return waveform, only_channel(warnings)


def only_channel(warnings: Mapping[str, str]) -> str | None:
    found = re.search(r"channel \d", warnings.get("channel", ""))
    return None if found is None else found[0]


@pytest.mark.parametrize("gain", [-0.8, -1.0, -1.25])
def test_loudest_channel_is_used_if_one_is_inverted(gain: float) -> None:
    left = voice_like(0.3)
    waveform, channel = mix(left, left * np.float32(gain))
    assert channel == ("channel 2" if gain < -1 else "channel 1")
    assert np.array_equal(waveform, left * np.float32(gain) if gain < -1 else left)


def test_channels_that_cancel_only_partly_are_averaged() -> None:
    # The decision covers the whole file: its first block cancels, the others do not.
    left = voice_like(9.0)
    right = left.copy()
    right[:40_000] *= -1
    waveform, channel = mix(left, right)
    assert channel is None
    assert np.allclose(waveform, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("delay", [1, 20, 40, 60, 80, 150, 400])
def test_delayed_copies_of_a_voice_are_averaged(delay: int) -> None:
    voice = voice_like(2.0)
    assert mix(voice[:-delay], voice[delay:])[1] is None


def test_unrelated_channels_are_averaged() -> None:
    voices = [voice_like(0.5, seed=seed) * np.float32(gain) for seed, gain in enumerate((1, 0.1, 0.1, 0.1, 0.1, 0.1))]
    voices = [np.roll(voice, 1000 * place) for place, voice in enumerate(voices)]
    assert mix(*voices)[1] is None


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("silent", [0, 1])
def test_silent_channel_is_not_used(silent: int, noise: float) -> None:
    channels = [voice_like(0.3), voice_like(0.3)]
    channels[silent] = (noise * np.random.default_rng(0).standard_normal(channels[silent].size)).astype(np.float32)
    waveform, channel = mix(*channels)
    assert channel == f"channel {2 - silent}"
    assert np.array_equal(waveform, channels[1 - silent])


def test_only_channels_with_sound_are_averaged() -> None:
    voices = [voice_like(0.3, seed=seed) for seed in range(2)]
    nothing = np.zeros_like(voices[0])
    waveform, channel = mix(nothing, voices[0], nothing, voices[1], nothing)
    assert channel is None
    assert np.allclose(waveform, (voices[0] + voices[1]) / 2, atol=1e-6)


def test_digital_silence_in_every_channel_is_averaged() -> None:
    waveform, channel = mix(*np.zeros((2, 800), dtype=np.float32))
    assert channel is None
    assert not waveform.any()


@pytest.mark.parametrize("container", ["m4a", "webm"])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_only_channel_with_sound_of_a_compressed_file_is_used(container: Container, channels: int) -> None:
    # One of several channels may be for low frequencies, so a low tone is used.
    time = np.arange(16_000, dtype=np.float32) / 48_000
    samples = np.zeros((len(time), channels), dtype=np.float32)
    samples[:, -1] = 0.5 * np.sin(2 * np.pi * 300 * time)
    waveform, warnings = read_sound(io.BytesIO(encode(samples, container, 48_000)))
    assert only_channel(warnings) == (None if channels == 1 else f"channel {channels}")
    middle = slice(2_000, 4_000)  # past what a coder adds at the ends
    assert abs(waveform[middle]).max() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("container", ["m4a", "webm"])
@pytest.mark.parametrize("channels", [2, 6, 8])
def test_every_channel_of_a_compressed_file_is_averaged(container: Container, channels: int) -> None:
    time = np.arange(16_000, dtype=np.float32) / 48_000
    samples = np.full((len(time), channels), 0.02, dtype=np.float32)
    samples[:, -1] = 0.5
    data = encode(samples * np.sin(2 * np.pi * 300 * time)[:, None], container, 48_000)
    waveform, warnings = read_sound(io.BytesIO(data))
    assert not warnings
    middle = slice(2_000, 4_000)
    assert abs(waveform[middle]).max() == pytest.approx((0.5 + 0.02 * (channels - 1)) / channels, rel=0.2)
