import io
from collections.abc import Callable
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CorruptModality, EmptyModality, ModalityError, ModalityTooLarge, UnsupportedFormat
from model.features.audio import SAMPLE_RATE
from model.features.audio.containers import sniff
from model.features.audio.loading import SoundLimits, _as_floats, read_sound
from model.types import FloatArray
from tests.support.corpus import real_data
from tests.support.sound import CONTAINERS, Container, encode, remuxed, voice_like, wav_header
from tests.support.sound_files import FILES, MAGIC, RATES, file_of, forged_flac, read


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_container_is_detected_and_decoded(container: Container) -> None:
    data = FILES[container]
    assert sniff(data) == (MAGIC[container], 0)
    waveform, warnings = read_sound(io.BytesIO(data))
    assert (str(waveform.dtype), waveform.ndim, warnings) == ("float32", 1, {})
    # AAC and Opus files hold complete frames: up to 64 ms may be added.
    assert SAMPLE_RATE <= waveform.size <= 1.07 * SAMPLE_RATE
    expected = voice_like(1.0) if container != "webm" else read(encode(voice_like(1.0, 48_000), "wav", 48_000))
    likeness = np.corrcoef(expected, waveform[: expected.size])[0, 1]
    assert likeness > (0.9999 if container in {"wav", "flac"} else 0.99)


def test_path_and_file_object_give_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    path.write_bytes(FILES["flac"])
    assert np.array_equal(read_sound(path)[0], read(FILES["flac"]))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_each_accepted_wav_subtype_is_decoded(subtype: str) -> None:
    sound = read(encode(voice_like(0.2), "wav", subtype=subtype))
    assert np.abs(sound - voice_like(0.2)).max() < 0.02


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_equals_librosa(rate: int) -> None:
    original = voice_like(0.5, rate)
    sound = read(encode(original, "wav", rate, "FLOAT"))
    expected = librosa.resample(original, orig_sr=rate, target_sr=SAMPLE_RATE)
    assert abs(sound.size - expected.size) <= 1
    size = min(sound.size, expected.size)
    assert np.abs(sound[:size] - expected[:size]).max() < 1e-5


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"%PDF-1.7 and so on", b"OggZ" + b"\0" * 60, b"RIFF\0\0\0\0AVI LIST"]
)
def test_other_content_is_rejected(data: bytes) -> None:
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


def test_other_containers_are_rejected_by_their_first_bytes() -> None:
    with pytest.raises(UnsupportedFormat, match="Matroska"):
        read(muxed("matroska", "flac"))
    aiff = io.BytesIO()
    soundfile.write(aiff, voice_like(0.1), SAMPLE_RATE, format="AIFF")
    with pytest.raises(UnsupportedFormat, match="AIFF"):
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
def test_accepted_container_with_another_codec_is_rejected(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        read(data)


def test_webm_without_opus_is_rejected() -> None:
    # The same bytes, but for the name of the codec.
    with pytest.raises((UnsupportedFormat, CorruptModality)):
        read(FILES["webm"].replace(b"A_OPUS", b"A_FLAC"))


def test_unknown_codec_is_rejected() -> None:
    with pytest.raises(UnsupportedFormat):
        read(FILES["webm"].replace(b"A_OPUS", b"A_OOPS"))


@pytest.mark.parametrize("container", ["webm", "m4a"])
def test_tag_that_is_not_text_is_ignored(container: Container) -> None:
    data = FILES[container]
    assert b"Lavf" in data
    assert np.array_equal(read(data.replace(b"Lavf", b"\xff\xfe\x80f")), read(data))


@pytest.mark.parametrize("container", CONTAINERS)
def test_truncated_file_is_an_error(container: Container) -> None:
    data = FILES[container]
    cuts = {*range(12, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    for cut in sorted(cuts):
        with pytest.raises((CorruptModality, UnsupportedFormat)):
            read(data[:cut])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("tail", [b"\0\0\0", b"garbage " * 40], ids=["zeros", "garbage"])
def test_trailing_bytes_are_an_error_or_ignored(container: Container, tail: bytes) -> None:
    try:
        sound = read(FILES[container] + tail)
    except CorruptModality:
        assert container in {"vorbis", "opus", "mp3", "webm", "m4a"}
    else:
        assert np.array_equal(sound, read(FILES[container]))


@pytest.mark.parametrize("container", [container for container in CONTAINERS if container != "mp3"])
def test_concatenated_files_are_an_error(container: Container) -> None:
    with pytest.raises(CorruptModality):
        read(FILES[container] + FILES[container])


def warnings_of(waveform: FloatArray, container: Container = "wav") -> list[str]:
    return list(read_sound(io.BytesIO(encode(waveform, container)))[1])


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "vorbis"])
def test_clipping_is_a_warning(container: Container) -> None:
    voice = voice_like(2.0)
    assert warnings_of(voice * np.float32(0.99 / np.abs(voice).max()), container) == []
    assert warnings_of(np.clip(4 * voice, -1, 1), container) == ["clipped"]


def test_clipping_before_attenuation_is_a_warning() -> None:
    assert warnings_of(np.clip(4 * voice_like(2.0), -1, 1) / np.float32(3)) == ["clipped"]


@pytest.mark.parametrize("offset", [0.1, -0.3])
def test_constant_offset_is_a_warning(offset: float) -> None:
    assert warnings_of(0.5 * voice_like(1.0) + np.float32(offset)) == ["dc_offset"]
    assert warnings_of(0.5 * voice_like(1.0) + np.float32(offset / 100)) == []


def test_pictures_beside_the_sound_are_a_warning() -> None:
    file = io.BytesIO()
    with av.open(io.BytesIO(FILES["wav"]), "r") as source, av.open(file, "w", format="mp4") as output:
        sound, pictures = output.add_stream("aac", rate=SAMPLE_RATE), output.add_stream("mpeg4", rate=10)
        assert isinstance(sound, av.AudioStream)
        assert isinstance(pictures, av.VideoStream)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuv420p"
        for picture in range(10):
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts = picture
            output.mux(pictures.encode(frame))
        for frames in source.decode(audio=0):
            output.mux(sound.encode(frames))
        output.mux(sound.encode(None))
        output.mux(pictures.encode(None))
    waveform, warnings = read_sound(io.BytesIO(file.getvalue()))
    assert list(warnings) == ["picture"]
    assert np.array_equal(waveform, read(muxed("mp4", "aac")))


def test_opus_in_mp4_is_decoded() -> None:
    waveform, expected = read(remuxed(FILES["webm"], "mp4")), read(FILES["webm"])
    assert waveform.size == pytest.approx(expected.size, abs=0.03 * SAMPLE_RATE)
    part = waveform[2_000:12_000]  # MP4 counts the coder's delay in whole packets
    assert max(np.corrcoef(part, expected[2_000 + late : 12_000 + late])[0, 1] for late in range(50)) > 0.99


def test_missing_ogg_page_is_an_error() -> None:
    data = file_of("vorbis", 4.0)
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"OggS"]
    assert len(starts) > 4
    with pytest.raises(CorruptModality, match="missing"):
        read(data[: starts[3]] + data[starts[4] :])


@pytest.mark.parametrize("container", ["flac", "vorbis", "opus"])
def test_flipped_bit_in_a_container_with_checksums_is_an_error(container: Container) -> None:
    data = bytearray(FILES[container])
    data[len(data) // 2] ^= 0x10
    with pytest.raises(CorruptModality):
        read(bytes(data))


def test_error_of_damage_between_mp3_frames_names_the_byte() -> None:
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
def test_limits_of_rate_and_channels_apply_to_the_header(rate: int, channels: int, accepted: bool) -> None:
    data = wav_header(rate, channels, 4 * channels * 1000) + b"\1\0" * channels * 2000
    if accepted:
        assert read(data).size == pytest.approx(2000 * SAMPLE_RATE / rate, abs=1)
    else:
        with pytest.raises(CorruptModality):
            read(data)


@pytest.mark.parametrize("container", ["wav", "vorbis", "webm"])
def test_limit_of_seconds_is_exact_to_the_sample(container: Container) -> None:
    sample = 1 / RATES.get(container, SAMPLE_RATE)
    seconds = round(read(FILES[container]).size / SAMPLE_RATE / sample) * sample
    for accepted in (seconds, seconds + sample):
        assert read(FILES[container], SoundLimits(max_seconds=accepted)).size
    with pytest.raises(ModalityTooLarge):
        read(FILES[container], SoundLimits(max_seconds=seconds - sample))


@pytest.mark.parametrize("channels", [1, 2])
def test_limit_of_decoded_bytes_counts_all_channels(channels: int) -> None:
    samples = np.zeros((1000, channels), dtype=np.float32)
    data = encode(samples, "wav")
    size = 1000 * channels * 4
    assert read(data, SoundLimits(max_decoded_bytes=size)).size == 1000
    assert read(data, SoundLimits(max_decoded_bytes=size + 1)).size == 1000
    with pytest.raises(ModalityTooLarge):
        read(data, SoundLimits(max_decoded_bytes=size - 1))


def test_compressed_hour_of_silence_is_too_large() -> None:
    hour = io.BytesIO()
    with soundfile.SoundFile(hour, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * SAMPLE_RATE, dtype=np.int16))
    assert len(hour.getvalue()) < 256 * 1024
    with pytest.raises(ModalityTooLarge, match="300 seconds"):
        read(hour.getvalue())


@pytest.mark.parametrize("samples", [0, 1, SAMPLE_RATE, 2**36 - 1])
def test_flac_header_with_forged_length_is_an_error(samples: int) -> None:
    assert len(forged_flac(samples)) == 132
    with pytest.raises(CorruptModality):
        read(forged_flac(samples))


@pytest.mark.parametrize("claimed", [0x7FFFEFFF, 1 << 20, 2002])
def test_wav_with_fewer_samples_than_declared_is_an_error(claimed: int) -> None:
    with pytest.raises(CorruptModality):
        read(wav_header(SAMPLE_RATE, 1, claimed) + b"\0\0" * 1000)


def test_flac_with_fewer_samples_than_declared_is_an_error() -> None:
    data = bytearray(FILES["flac"])
    data[22:26] = (SAMPLE_RATE + 1).to_bytes(4, "big")
    with pytest.raises(CorruptModality):
        read(bytes(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 65.0])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_error_of_an_invalid_sample_names_the_time(value: float, subtype: str) -> None:
    waveform = voice_like(1.0)
    waveform[SAMPLE_RATE // 2] = value
    with pytest.raises(CorruptModality) as caught:
        read(encode(waveform, "wav", subtype=subtype))
    assert caught.value.place == "sample 8000, 0.500 s"


def test_float_samples_may_exceed_full_scale() -> None:
    waveform = voice_like(0.1)
    waveform[7] = 1.5
    assert read(encode(waveform, "wav", subtype="FLOAT"))[7] == 1.5


@pytest.mark.parametrize("samples", [0, 1], ids=["none", "less than one at the rate of the waveform"])
def test_well_formed_file_without_samples_is_empty(samples: int) -> None:
    with pytest.raises(EmptyModality) as caught:
        read(encode(np.zeros(samples, dtype=np.float32), "wav", 96_000))
    assert caught.value.reason == "too_short"


def test_silence_is_decoded() -> None:
    sound = read(encode(np.zeros(SAMPLE_RATE, dtype=np.float32), "flac"))
    assert sound.size == SAMPLE_RATE
    assert not sound.any()


def test_file_much_larger_than_its_samples_is_too_large() -> None:
    with pytest.raises(ModalityTooLarge):
        read(FILES["wav"] + b"\0" * 2**21, SoundLimits(max_decoded_bytes=2**17))


def test_change_of_the_sampling_rate_is_an_error() -> None:
    # Two logical streams, one after the other, as written by Internet radio.
    with pytest.raises(CorruptModality):
        read(FILES["vorbis"] + encode(voice_like(1.0, 8_000), "vorbis", 8_000))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("sample_format", ["fltp", "flt", "s16", "s16p", "s32", "dblp"])
def test_every_sample_format_is_converted(sample_format: str, layout: str) -> None:
    frame = av.AudioFrame(format="fltp", layout=layout, samples=64)
    channels = frame.layout.nb_channels
    samples = np.stack([voice_like(64 / SAMPLE_RATE, seed=c) for c in range(channels)])
    source = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    source.sample_rate = SAMPLE_RATE
    (converted,) = av.AudioResampler(format=sample_format, layout=layout, rate=SAMPLE_RATE).resample(source)
    assert np.abs(_as_floats(converted) - samples.T).max() < 1e-4


def arbitrary_sounds() -> st.SearchStrategy[bytes]:
    """Bytes that begin like a sound file, and damaged sound files."""
    heads = st.sampled_from(
        [
            b"RIFF\0\0\0\0WAVE",
            b"fLaC",
            b"OggS",
            b"ID3",
            b"\xff\xfb\x90\x64",
            b"\x1a\x45\xdf\xa3",
            b"\0\0\0\x18ftypM4A ",
            b"",
        ]
    )

    @st.composite
    def damaged(draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
        data = bytearray(FILES[CONTAINERS[draw(st.integers(0, len(CONTAINERS) - 1))]])
        for _ in range(draw(st.integers(1, 4))):
            # Half of the damage is in the header.
            end = len(data) if draw(st.integers(0, 1)) else 200
            start = draw(st.integers(0, end - 1))
            data[start : start + draw(st.integers(0, 4))] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "big")
        return bytes(data)

    return st.one_of(st.tuples(heads, st.binary(max_size=300)).map(b"".join), damaged())


@given(data=arbitrary_sounds())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_any_bytes_give_a_sound_or_a_modality_error(data: bytes) -> None:
    try:
        sound = read(data, SoundLimits(max_seconds=5.0, max_decoded_bytes=2**21))
    except ModalityError:
        return
    assert np.isfinite(sound).all()
    assert sound.size <= 5 * SAMPLE_RATE + 1


def test_real_recording_is_read_completely() -> None:
    samples = sorted(real_data().glob("openface_samples/*.wav"))
    if not samples:
        pytest.skip("no recording here")
    waveform, _ = read_sound(samples[0])
    assert waveform.size == pytest.approx(soundfile.info(samples[0]).duration * SAMPLE_RATE, abs=1)
