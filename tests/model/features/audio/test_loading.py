import io
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from model.errors import CorruptModality, EmptyModality, ModalityTooLarge, UnsupportedFormat
from model.features.audio import acoustic as audio
from model.features.audio.loading import SAMPLE_RATE, Sound, SoundLimits, _as_floats, read_sound, sniff
from model.types import FloatArray
from tests.support.sound import CONTAINERS, Container, encode, voice_like, wav_header
from tests.support.sound_files import FILES, MAGIC, RATES, file_of, forged_flac, read


def test_sound_and_features_agree_on_the_rate() -> None:
    assert SAMPLE_RATE == audio.SAMPLE_RATE


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_container_is_recognised_and_decoded_to_what_was_recorded(container: Container) -> None:
    data = FILES[container]
    assert sniff(data[:64]) == MAGIC[container]
    sound = read(data)
    assert sound.waveform.dtype == np.float32
    assert sound.waveform.ndim == 1
    assert sound.channels == 1
    assert sound.source_rate == RATES.get(container, SAMPLE_RATE)
    # AAC and Opus frames are whole: up to 64 ms may be added, none lost.
    assert 1.0 <= sound.seconds <= 1.07
    assert sound.waveform.size == pytest.approx(SAMPLE_RATE * sound.seconds, abs=1)
    expected = voice_like(1.0) if container != "webm" else read(encode(voice_like(1.0, 48_000), "wav", 48_000)).waveform
    likeness = np.corrcoef(expected, sound.waveform[: expected.size])[0, 1]
    assert likeness > (0.9999 if container in {"wav", "flac"} else 0.99)


def test_a_path_reads_as_a_file_does(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    path.write_bytes(FILES["flac"])
    assert np.array_equal(read_sound(path).waveform, read(FILES["flac"]).waveform)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_each_accepted_wav_subtype_is_decoded(subtype: str) -> None:
    sound = read(encode(voice_like(0.2), "wav", subtype=subtype))
    assert np.abs(sound.waveform - voice_like(0.2)).max() < 0.02


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_other_rates_are_resampled_as_librosa_does(rate: int) -> None:
    original = voice_like(0.5, rate)
    sound = read(encode(original, "wav", rate, "FLOAT"))
    expected = librosa.resample(original, orig_sr=rate, target_sr=SAMPLE_RATE)
    assert abs(sound.waveform.size - expected.size) <= 1
    size = min(sound.waveform.size, expected.size)
    assert np.abs(sound.waveform[:size] - expected[:size]).max() < 1e-5
    assert sound.seconds == original.size / rate


def test_channels_are_averaged() -> None:
    left, right = voice_like(0.3), voice_like(0.3, seed=1)
    sound = read(encode(np.stack([left, right], axis=1), "wav", subtype="FLOAT"))
    assert (sound.channels, sound.channel) == (2, None)
    assert np.allclose(sound.waveform, (left + right) / 2, atol=1e-6)


def stereo(*channels: FloatArray) -> Sound:
    return read(encode(np.stack(channels, axis=1), "wav", subtype="FLOAT"))


@pytest.mark.parametrize("gain", [-0.8, -1.0, -1.25])
def test_where_one_channel_is_inverted_the_louder_is_taken_alone(gain: float) -> None:
    left = voice_like(0.3)
    sound = stereo(left, left * np.float32(gain))
    assert sound.channel == (1 if gain < -1 else 0)
    assert np.array_equal(sound.waveform, left if sound.channel == 0 else left * np.float32(gain))


def test_channels_that_cancel_only_in_places_are_averaged() -> None:
    # Decided over the whole file: the first of its blocks cancels, and the rest does not.
    left = voice_like(9.0)
    right = left.copy()
    right[:40_000] *= -1
    sound = stereo(left, right)
    assert sound.channel is None
    assert np.allclose(sound.waveform, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("delay", [1, 20, 40, 60, 80, 150, 400])
def test_one_voice_at_two_microphones_is_averaged(delay: int) -> None:
    voice = voice_like(2.0)
    assert stereo(voice[:-delay], voice[delay:]).channel is None


def test_voices_at_microphones_of_their_own_are_all_heard() -> None:
    voices = [voice_like(0.5, seed=seed) * np.float32(gain) for seed, gain in enumerate((1, 0.1, 0.1, 0.1, 0.1, 0.1))]
    voices = [np.roll(voice, 1000 * place) for place, voice in enumerate(voices)]
    assert stereo(*voices).channel is None


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("silent", [0, 1])
def test_a_silent_channel_does_not_count(silent: int, noise: float) -> None:
    channels = [voice_like(0.3), voice_like(0.3)]
    channels[silent] = (noise * np.random.default_rng(0).standard_normal(channels[silent].size)).astype(np.float32)
    sound = stereo(*channels)
    assert sound.channel == 1 - silent
    assert np.array_equal(sound.waveform, channels[1 - silent])


def test_of_more_channels_those_with_sound_are_averaged() -> None:
    voices = [voice_like(0.3, seed=seed) for seed in range(2)]
    nothing = np.zeros_like(voices[0])
    sound = stereo(nothing, voices[0], nothing, voices[1], nothing)
    assert (sound.channels, sound.channel) == (5, None)
    assert np.allclose(sound.waveform, (voices[0] + voices[1]) / 2, atol=1e-6)


def test_digital_silence_in_every_channel_stays_that() -> None:
    sound = stereo(*np.zeros((2, 800), dtype=np.float32))
    assert sound.channel is None
    assert not sound.waveform.any()


@pytest.mark.parametrize("container", ["m4a", "webm"])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_the_only_channel_of_a_compressed_file_with_sound_is_heard(container: Container, channels: int) -> None:
    # One of several may be for low frequencies, so the voice is a hum.
    time = np.arange(16_000, dtype=np.float32) / 48_000
    samples = np.zeros((len(time), channels), dtype=np.float32)
    samples[:, -1] = 0.5 * np.sin(2 * np.pi * 300 * time)
    sound = read(encode(samples, container, 48_000))
    assert sound.channels == channels
    assert (sound.channel is None) == (channels == 1)
    middle = slice(2_000, 4_000)  # past what a coder adds at the ends
    assert abs(sound.waveform[middle]).max() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("container", ["m4a", "webm"])
@pytest.mark.parametrize("channels", [2, 6, 8])
def test_every_channel_of_a_compressed_file_counts_and_nothing_else(container: Container, channels: int) -> None:
    time = np.arange(16_000, dtype=np.float32) / 48_000
    samples = np.full((len(time), channels), 0.02, dtype=np.float32)
    samples[:, -1] = 0.5
    sound = read(encode(samples * np.sin(2 * np.pi * 300 * time)[:, None], container, 48_000))
    assert sound.channel is None
    middle = slice(2_000, 4_000)
    assert abs(sound.waveform[middle]).max() == pytest.approx((0.5 + 0.02 * (channels - 1)) / channels, rel=0.2)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"%PDF-1.7 and so on", b"OggZ" + b"\0" * 60, b"RIFF\0\0\0\0AVI LIST"]
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat if data else CorruptModality):
        read(data)


def muxed(muxer: str, codec: str) -> bytes:
    """The sound in another container or codec."""
    file = io.BytesIO()
    with av.open(io.BytesIO(FILES["wav"]), "r") as source, av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=SAMPLE_RATE)
        assert isinstance(stream, av.AudioStream)
        for frame in source.decode(source.streams.audio[0]):
            assert isinstance(frame, av.AudioFrame)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_a_container_that_is_not_accepted_is_refused_by_its_first_bytes() -> None:
    assert sniff(muxed("matroska", "flac")[:64]) is None
    aiff = io.BytesIO()
    soundfile.write(aiff, voice_like(0.1), SAMPLE_RATE, format="AIFF")
    with pytest.raises(UnsupportedFormat):
        read(aiff.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        encode(voice_like(0.2), "wav", subtype="IMA_ADPCM"),
        encode(voice_like(0.2), "wav", subtype="GSM610", rate=8_000),
        muxed("mp4", "alac"),
        muxed("mp4", "flac"),
    ],
    ids=["wav-ima-adpcm", "wav-gsm", "mp4-alac", "mp4-flac"],
)
def test_an_accepted_container_with_another_codec_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        read(data)


def test_a_webm_file_that_does_not_hold_opus_is_refused() -> None:
    # The same bytes, but for the name of the codec.
    with pytest.raises((UnsupportedFormat, CorruptModality)):
        read(FILES["webm"].replace(b"A_OPUS", b"A_FLAC"))


def test_a_codec_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedFormat):
        read(FILES["webm"].replace(b"A_OPUS", b"A_OOPS"))


@pytest.mark.parametrize("container", ["webm", "m4a"])
def test_a_tag_that_is_no_text_is_no_matter(container: Container) -> None:
    data = FILES[container]
    assert b"Lavf" in data
    assert np.array_equal(read(data.replace(b"Lavf", b"\xff\xfe\x80f")).waveform, read(data).waveform)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_cut_anywhere_is_an_error(container: Container) -> None:
    data = FILES[container]
    cuts = {*range(12, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    for cut in sorted(cuts):
        with pytest.raises((CorruptModality, UnsupportedFormat)):
            read(data[:cut])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("tail", [b"\0\0\0", b"garbage " * 40], ids=["zeros", "garbage"])
def test_what_follows_the_end_is_an_error_or_changes_nothing(container: Container, tail: bytes) -> None:
    try:
        sound = read(FILES[container] + tail)
    except CorruptModality:
        assert container in {"vorbis", "opus", "mp3", "webm", "m4a"}
    else:
        assert np.array_equal(sound.waveform, read(FILES[container]).waveform)


@pytest.mark.parametrize("container", CONTAINERS)
def test_two_files_in_one_are_an_error_not_the_first_alone(container: Container) -> None:
    with pytest.raises(CorruptModality):
        read(FILES[container] + FILES[container])


def test_an_mp3_may_carry_tags_at_either_end() -> None:
    plain = read(FILES["mp3"]).waveform
    tagged = b"ID3\x04\0\0\0\0\0\x05hello" + FILES["mp3"] + b"TAG" + b"\0" * 125
    assert sniff(tagged) == "mp3"
    assert np.array_equal(read(tagged).waveform, plain)


def test_a_hole_in_an_ogg_file_is_an_error() -> None:
    data = file_of("vorbis", 4.0)
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"OggS"]
    assert len(starts) > 4
    with pytest.raises(CorruptModality, match="missing"):
        read(data[: starts[3]] + data[starts[4] :])


@pytest.mark.parametrize("container", ["flac", "vorbis", "opus"])
def test_a_flipped_bit_in_a_container_with_checksums_is_an_error(container: Container) -> None:
    data = bytearray(FILES[container])
    data[len(data) // 2] ^= 0x10
    with pytest.raises(CorruptModality):
        read(bytes(data))


def test_damage_between_mp3_frames_is_an_error_naming_the_byte() -> None:
    data = FILES["mp3"]
    with pytest.raises(CorruptModality) as caught:
        read(data[:2000] + b"\0" + data[2000:])
    assert caught.value.place is not None
    assert caught.value.place.startswith("byte ")


@pytest.mark.parametrize(
    ("rate", "channels", "accepted"),
    [
        (1, 1, False),
        (7_999, 1, False),
        (8_000, 1, True),
        (8_001, 1, True),
        (191_999, 1, True),
        (192_000, 1, True),
        (192_001, 1, False),
        (16_000, 7, True),
        (16_000, 8, True),
        (16_000, 9, False),
        (16_000, 1_024, False),
    ],
)
def test_a_wav_header_is_held_to_the_limits_of_rate_and_channels(rate: int, channels: int, accepted: bool) -> None:
    data = wav_header(rate, channels, 4 * channels * 1000) + b"\1\0" * channels * 2000
    if accepted:
        assert read(data).channels == channels
    else:
        with pytest.raises(CorruptModality):
            read(data)


@pytest.mark.parametrize("container", ["wav", "vorbis", "webm"])
def test_the_limit_of_seconds_holds_to_the_sample(container: Container) -> None:
    seconds = read(FILES[container]).seconds
    sample = 1 / RATES.get(container, SAMPLE_RATE)
    assert read(FILES[container], SoundLimits(max_seconds=seconds)).seconds == seconds
    assert read(FILES[container], SoundLimits(max_seconds=seconds + sample)).seconds == seconds
    with pytest.raises(ModalityTooLarge):
        read(FILES[container], SoundLimits(max_seconds=seconds - sample))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_limit_of_decoded_bytes_counts_float_samples_of_all_channels(channels: int) -> None:
    samples = np.zeros((1000, channels), dtype=np.float32)
    data = encode(samples, "wav")
    size = 1000 * channels * 4
    assert read(data, SoundLimits(max_decoded_bytes=size)).seconds == 1000 / SAMPLE_RATE
    assert read(data, SoundLimits(max_decoded_bytes=size + 1)).seconds == 1000 / SAMPLE_RATE
    with pytest.raises(ModalityTooLarge):
        read(data, SoundLimits(max_decoded_bytes=size - 1))


def test_a_silent_hour_of_flac_is_refused_while_it_is_decoded() -> None:
    hour = io.BytesIO()
    with soundfile.SoundFile(hour, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * SAMPLE_RATE, dtype=np.int16))
    assert len(hour.getvalue()) < 256 * 1024
    with pytest.raises(ModalityTooLarge, match="300 seconds"):
        read(hour.getvalue())


@pytest.mark.parametrize("samples", [0, 1, SAMPLE_RATE, 2**36 - 1])
def test_a_flac_of_132_bytes_with_a_forged_header_is_an_error(samples: int) -> None:
    assert len(forged_flac(samples)) == 132
    with pytest.raises(CorruptModality):
        read(forged_flac(samples))


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 20])
def test_a_wav_that_claims_more_than_it_holds_is_an_error(claimed: int) -> None:
    with pytest.raises(CorruptModality):
        read(wav_header(SAMPLE_RATE, 1, claimed) + b"\0\0" * 1000)


def test_a_flac_that_holds_less_than_its_header_counts_is_an_error() -> None:
    data = bytearray(FILES["flac"])
    data[22:26] = (SAMPLE_RATE + 1).to_bytes(4, "big")
    with pytest.raises(CorruptModality):
        read(bytes(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 65.0])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_a_sample_that_is_no_sound_is_an_error_naming_the_time(value: float, subtype: str) -> None:
    waveform = voice_like(1.0)
    waveform[SAMPLE_RATE // 2] = value
    with pytest.raises(CorruptModality) as caught:
        read(encode(waveform, "wav", subtype=subtype))
    assert caught.value.place == "0.500 s"


def test_a_float_file_may_overshoot_full_scale() -> None:
    waveform = voice_like(0.1)
    waveform[7] = 1.5
    assert read(encode(waveform, "wav", subtype="FLOAT")).waveform[7] == 1.5


def test_a_well_formed_file_without_a_sample_is_empty_not_corrupt() -> None:
    with pytest.raises(EmptyModality) as caught:
        read(encode(np.zeros(0, dtype=np.float32), "wav"))
    assert caught.value.reason == "too_short"


def test_silence_is_a_sound_like_any_other_here() -> None:
    sound = read(encode(np.zeros(SAMPLE_RATE, dtype=np.float32), "flac"))
    assert sound.seconds == 1.0
    assert not sound.waveform.any()


def test_a_file_far_larger_than_its_samples_could_be_is_not_read_to_its_end() -> None:
    with pytest.raises(ModalityTooLarge):
        read(FILES["wav"] + b"\0" * 2**21, SoundLimits(max_decoded_bytes=2**17))


def test_a_file_may_not_change_its_rate_along_the_way() -> None:
    # Two logical streams, one after the other, as an Internet radio writes them.
    with pytest.raises(CorruptModality):
        read(FILES["vorbis"] + encode(voice_like(1.0, 8_000), "vorbis", 8_000))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("sample_format", ["fltp", "flt", "s16", "s16p", "s32", "dblp"])
def test_every_way_a_decoder_may_lay_samples_out_is_understood(sample_format: str, layout: str) -> None:
    frame = av.AudioFrame(format="fltp", layout=layout, samples=64)
    channels = frame.layout.nb_channels
    samples = np.stack([voice_like(64 / SAMPLE_RATE, seed=c) for c in range(channels)])
    source = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    source.sample_rate = SAMPLE_RATE
    (converted,) = av.AudioResampler(format=sample_format, layout=layout, rate=SAMPLE_RATE).resample(source)
    assert np.abs(_as_floats(converted) - samples.T).max() < 1e-4
