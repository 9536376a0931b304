import io

import av
import numpy as np
import pytest
import soundfile

from model.errors import CorruptModality, ModalityTooLarge
from model.features.audio import SAMPLE_RATE
from model.features.audio.containers import check_whole
from model.features.audio.loading import SoundLimits, read_sound
from tests.support.sound import voice_like
from tests.support.sound_files import FILES, file_of, read


def mp3(seconds: float = 3.0, rate: int = 44_100, *, quality: int | None = None, xing: bool = True) -> bytes:
    """Frames by FFmpeg's muxer: of constant rate, or of variable rate if a quality is given."""
    file, options = io.BytesIO(), {"write_xing": str(int(xing)), "id3v2_version": "0"}
    waveform = np.concatenate([voice_like(seconds / 2, rate), np.zeros(round(seconds / 2 * rate), dtype=np.float32)])
    with av.open(file, "w", format="mp3", container_options=options) as output:
        stream = output.add_stream("libmp3lame", rate=rate, layout="mono", format="fltp")
        assert isinstance(stream, av.AudioStream)
        if quality is None:
            stream.bit_rate = 64_000
        else:
            stream.codec_context.global_quality = quality * 118  # FF_QP2LAMBDA
            stream.codec_context.qscale = True
        whole = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        whole.sample_rate, whole.pts = rate, 0
        resampler = av.AudioResampler(frame_size=1152)
        for frame in (*resampler.resample(whole), *resampler.resample(None), None):
            output.mux(stream.encode(frame))
    return file.getvalue()


CODER_DELAY = 0.06  # seconds that a coder may add, in which no header counts them


@pytest.mark.parametrize("quality", [None, 4], ids=["constant rate", "variable rate"])
def test_mp3_without_a_count_of_frames_is_decoded_to_its_end(quality: int | None) -> None:
    data = mp3(quality=quality, xing=False)
    assert not any(mark in data for mark in (b"Xing", b"Info"))
    waveform = read(data)
    assert 3.0 <= waveform.size / SAMPLE_RATE <= 3.0 + CODER_DELAY
    counted = read(mp3(quality=quality))
    assert counted.size == 3 * SAMPLE_RATE
    delay = (576 + 529) * SAMPLE_RATE // 44_100  # of encoder and decoder
    assert np.corrcoef(counted[:20_000], waveform[delay : delay + 20_000])[0, 1] > 0.99


def test_mp3_with_more_frames_than_counted_is_decoded_to_its_end() -> None:
    once, twice = read(FILES["mp3"]), read(FILES["mp3"] * 2)
    assert 2 * once.size <= twice.size <= 2 * (once.size + 0.15 * SAMPLE_RATE)


def test_mp3_with_fewer_frames_than_counted_is_an_error() -> None:
    data = mp3()
    last = data.rindex(data[data.index(b"\xff\xfb") :][:2])
    for end in (last, last + 1, len(data) - 1):
        with pytest.raises(CorruptModality, match="ends before"):
            read(data[:end])


def test_mp3_cut_within_its_last_frame_is_an_error() -> None:
    data = mp3(xing=False)
    for cut in (1, 100, 207):
        with pytest.raises(CorruptModality, match="ends before"):
            read(data[:-cut])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"ID3\x04\0\0\0\0\0\x05hello", b"TAG" + b"\0" * 125),
        (b"\0" * 1000, b"\0" * 100),
        (b"", b"APETAGEX" + b"\0" * 24 + b"name" + b"APETAGEX" + b"\0" * 24),
        (b"", b"LYRICSBEGIN la la 000020LYRICS200TAG" + b"\0" * 125),
    ],
    ids=["ID3", "zeros", "APE", "Lyrics3"],
)
def test_mp3_may_have_tags_and_zeros_at_either_end(before: bytes, after: bytes) -> None:
    assert np.array_equal(read(before + FILES["mp3"] + after), read(FILES["mp3"]))


@pytest.mark.parametrize("into", [1, 50, 200])
def test_mp3_may_begin_within_a_frame(into: int) -> None:
    data = mp3(xing=False)
    waveform = read(data[into:])
    assert read(data).size - 1152 <= waveform.size <= read(data).size


def flac_of_unknown_length() -> bytes:
    """As a program writes it that cannot return to the header."""
    data = bytearray(file_of("flac", 2.0))
    data[21] &= 0xF0
    data[22:42] = bytes(20)  # the count of samples and the MD5 sum
    return bytes(data)


def test_flac_of_unknown_length_is_decoded_to_its_end() -> None:
    assert np.array_equal(read(flac_of_unknown_length()), read(file_of("flac", 2.0)))


def counting(data: bytes, samples: int) -> bytes:
    """A FLAC file with another count of samples in its header."""
    changed = bytearray(data)
    changed[21] = data[21] & 0xF0 | samples >> 32
    changed[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("before", [b"", b"ID3\x04\0\0\0\0\0\x05hello"], ids=["plain", "after a tag"])
@pytest.mark.parametrize("left_out", [1, 700, 9_000, 31_999])
def test_flac_that_counts_too_few_samples_is_decoded_to_its_end(left_out: int, before: bytes) -> None:
    data = file_of("flac", 2.0)
    changed = before + counting(data, 32_000 - left_out)
    waveform, warnings = read_sound(io.BytesIO(changed))
    assert np.array_equal(waveform, read(data))
    assert warnings == {
        "unfinished_header": f"The FLAC header counts {32_000 - left_out} samples, and more follow; the file was read "
        "to its end."
    }
    with pytest.raises(ModalityTooLarge) as error:
        read(changed, SoundLimits(max_seconds=1.9))
    assert "1.9 seconds" in str(error.value)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16_000, 1, 0.01), (44_100, 2, 1.0), (12_345, 3, 12.0)])
def test_whole_flac_has_no_warning_of_its_header(subtype: str, rate: int, channels: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (int(rate * seconds), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format="FLAC")
    warnings: dict[str, str] = {}
    assert check_whole("flac", buffer.getvalue(), 0, warnings).head == b""
    assert not warnings
    assert check_whole("flac", counting(buffer.getvalue(), len(samples) - 1), 0, warnings).head
    assert list(warnings) == ["unfinished_header"]


def test_flac_that_counts_too_many_samples_is_an_error() -> None:
    with pytest.raises(CorruptModality) as error:
        read(counting(file_of("flac", 2.0), 32_001))
    assert "cannot be decoded to its end" in str(error.value)


@pytest.mark.parametrize("size_mask", [0xFF, 0x0F], ids=["no valid checksum", "reserved block size"])
def test_bytes_that_only_resemble_a_last_frame_are_ignored(size_mask: int) -> None:
    data = file_of("flac", 2.0)
    first = data.index(b"\xff\xf8")
    size = data[first + 2] & size_mask
    resembling = data[first : first + 2] + bytes([size, data[first + 3]]) + b"\xf5\x80\x80\x80\x80\0"  # a later number
    assert np.array_equal(read(data + resembling * 20), read(data))


def test_damaged_flac_of_unknown_length_is_an_error() -> None:
    data = flac_of_unknown_length()
    for cut in (1, 100, 1000, len(data) - 42):
        with pytest.raises(CorruptModality):
            read(data[:-cut])
    for position in range(10_000, len(data), 997):
        with pytest.raises(CorruptModality):
            read(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])


def test_flac_may_follow_an_id3_tag() -> None:
    assert np.array_equal(read(b"ID3\x04\0\0\0\0\0\x05hello" + FILES["flac"]), read(FILES["flac"]))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_wav_of_unknown_length_is_decoded_to_its_end(size: int) -> None:
    data = bytearray(FILES["wav"])
    data[40:44] = size.to_bytes(4, "little")
    waveform, warnings = read_sound(io.BytesIO(data))
    assert np.array_equal(waveform, read(FILES["wav"]))
    assert list(warnings) == ([] if size else ["unfinished_header"])


def test_limits_apply_to_sounds_of_unknown_length() -> None:
    wav = FILES["wav"][:40] + b"\xff" * 4 + FILES["wav"][44:]
    for data in (wav, flac_of_unknown_length(), mp3(xing=False)):
        with pytest.raises(ModalityTooLarge):
            read(data, SoundLimits(max_seconds=0.9))
        with pytest.raises(ModalityTooLarge):
            read(data, SoundLimits(max_decoded_bytes=2**15))
