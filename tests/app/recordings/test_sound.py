import numpy as np
import pytest
import soundfile

from app.recordings.sound import as_wav, silent_stretches, sounding_share
from tests.support.recordings import make_sound
from tests.support.sound import voice_like

VOICE = voice_like(2.0)


def test_a_stretch_is_read_from_the_file() -> None:
    sound = make_sound(VOICE)
    assert (sound.channels, sound.duration) == (1, 2.0)
    part = sound.read(0.5, 1.0)
    assert part.shape == (8_000, 1)
    assert np.abs(part[:, 0] / 2**15 - VOICE[8_000:16_000]).max() < 1e-4


def test_less_is_read_at_the_end() -> None:
    sound = make_sound(VOICE)
    assert len(sound.read(1.9, 2.5)) == 1_600
    assert len(sound.read(2.5, 3.0)) == len(sound.read_mono(2.5, 3.0)) == 0


def test_a_channel_is_read_alone() -> None:
    sound = make_sound(np.stack([VOICE, 0 * VOICE], axis=1))
    assert np.any(sound.read(0.0, 1.0, channel=0))
    assert not np.any(sound.read(0.0, 1.0, channel=1))


def test_channels_that_cancel_are_not_mixed() -> None:
    mono = make_sound(np.stack([VOICE, -VOICE], axis=1)).read_mono(0.0, 2.0)
    assert np.abs(mono - VOICE).max() < 1e-4


def test_a_closed_sound_cannot_be_read() -> None:
    sound = make_sound(VOICE)
    sound.close()
    with pytest.raises(ValueError, match="closed") as caught:
        sound.read(0.0, 1.0)
    assert caught.value.args


def test_samples_become_a_wav_file() -> None:
    samples = make_sound(VOICE).read(0.0, 1.0)
    read, rate = soundfile.read(as_wav(samples), dtype="int16")
    assert rate == 16_000
    assert np.array_equal(read, samples[:, 0])


def test_the_sounding_share_leaves_out_silence_and_the_time_after_the_end() -> None:
    half = np.concatenate([np.full(16_000, 0.1), np.zeros(16_000)]).astype(np.float32)
    samples = make_sound(half).read(0.0, 2.0)
    assert sounding_share(samples, 2.0, -60.0) == pytest.approx(0.5, abs=0.01)
    assert sounding_share(samples, 4.0, -60.0) == pytest.approx(0.25, abs=0.01)
    assert sounding_share(samples[:10], 4.0, -60.0) == 0.0


def test_silent_stretches_are_listed() -> None:
    parts = [np.zeros(24_000), 0.1 * np.ones(980_000), np.zeros(8_000), 0.1 * np.ones(8_000), np.zeros(20_000)]
    sound = make_sound(np.concatenate(parts).astype(np.float32))
    found = silent_stretches(sound, -60.0, 1.0)
    assert np.array(found) == pytest.approx(np.array([[0.0, 1.5], [63.75, sound.duration]]), abs=0.03)
