"""Files built field by field; `test_loading` has complete ones."""

import struct
from collections.abc import Callable

import pytest

from model.errors import CorruptModality, UnsupportedFormat
from model.features.audio.containers import _ogg_crc, check_whole, sniff
from tests.support.sound import encode, voice_like, wav_header

MP3_FRAME = b"\xff\xfb\x90\xc4" + b"\0" * 413  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono: 417 bytes
ID3 = b"ID3\x04\0\0\0\0\0\x02xy"
EBML = b"\x1a\x45\xdf\xa3\x88\x42\x82\x84webm\0"
SEGMENT = b"\x18\x53\x80\x67"
UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
VOID = b"\xec\x82\0\0"


def xing(frames: int, encoder: bytes = b"old ", flags: int = 1) -> bytes:
    """A first frame that counts the others."""
    header = b"Xing" + struct.pack(">II", flags, frames) + bytes(108) + encoder
    return (MP3_FRAME[:21] + header).ljust(len(MP3_FRAME), b"\0")


def box(name: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    """An MP4 box."""
    return struct.pack(">I", 8 + len(content) if size is None else size) + name + content


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", ("wav", 0)),
        (b"fLaC\0\0\0\x22", ("flac", 0)),
        (ID3 + b"fLaC\0\0\0\x22", ("flac", 12)),
        (b"OggS\0\x02", ("ogg", 0)),
        (ID3, ("mp3", 12)),
        (ID3 * 2 + MP3_FRAME, ("mp3", 24)),
        (MP3_FRAME, ("mp3", 0)),
        (b"\0" * 500 + MP3_FRAME, ("mp3", 500)),
        (ID3 + b"\0" * 5 + MP3_FRAME, ("mp3", 17)),
        (MP3_FRAME[10:] + MP3_FRAME * 3, ("mp3", 407)),
        (b"\0\0" + b"x" * 1440 + MP3_FRAME * 3, ("mp3", 1442)),
        (EBML, ("webm", 0)),
        (b"\0\0\0\x20ftypM4A ", ("m4a", 0)),
    ],
)
def test_container_and_its_start_are_detected(data: bytes, expected: tuple[str, int]) -> None:
    assert sniff(data) == expected


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"RIFF\x24\0\0\0AVI LIST", "RIFF without WAVE is not accepted; accepted are WAV"),
        (b"RIFX\0\0\0\x24WAVEfmt ", "RIFX"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "RF64"),
        (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", "Wave64"),
        (b"FORM\0\0\0\x24AIFF", "AIFF"),
        (b"\xff\xf1\x50\x80", "AAC in ADTS"),
        (EBML.replace(b"\x84webm", b"\x88matroska"), "Matroska"),
        (b"\xff\xfd\x90\xc4", "accepted are"),
        (b"\xff\xfb\xf0\xc4", "accepted are"),
        (b"\xff\xfb\x00\xc4", "accepted are"),
        (b"\xff\xeb\x90\xc4", "accepted are"),
        (b"\xff\xfb\x9c\xc4", "accepted are"),
        (b"\xff\xfb", "accepted are"),
        (b"x" * 1442 + MP3_FRAME * 3, "accepted are"),
        (b"x" + MP3_FRAME * 2, "accepted are"),
        (b"\0\0\0\x20moov", "accepted are"),
        (b"\0" * 100, "accepted are"),
        (b"", "accepted are"),
    ],
)
def test_another_format_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name):
        sniff(data)


def whole(container: str, data: bytes) -> bool:
    try:
        check_whole(container, data, sniff(data)[1] if container == "mp3" else 0, {})
    except CorruptModality as error:
        place = error.place or ""
    else:
        return True
    assert place.startswith("byte ")
    return False


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (wav_header(8_000, 1, 4) + b"\0" * 4, True),
        (wav_header(8_000, 1, 4) + b"\0" * 4 + b"LIST\x04\0\0\0abcd", True),
        (wav_header(8_000, 1, 4) + b"\0" * 3, False),
        (wav_header(8_000, 1, 4)[:36], False),
        (wav_header(8_000, 1, 4) + b"\0" * 4 + wav_header(8_000, 1, 4) + b"\0" * 4, False),
        (wav_header(8_000, 1, 0x7FFFEFFF) + b"\0" * 4, False),
        (wav_header(8_000, 1, 4)[:12] + b"junk\x01\0\0\0x\0" + wav_header(8_000, 1, 4)[12:] + b"\0" * 4, True),
        (wav_header(8_000, 1, 4)[:12] + b"junk\xff\xff\xff\xff" + wav_header(8_000, 1, 4)[12:] + b"\0" * 4, False),
        (b"RIFF\0\0\0\0WAVE", False),
    ],
)
def test_wav_file_holds_all_declared_samples(data: bytes, expected: bool) -> None:
    assert whole("wav", data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (MP3_FRAME, True),
        (MP3_FRAME * 3, True),
        (b"ID3\x04\0\0\0\0\0\x02xy" + MP3_FRAME, True),
        (b"ID3\x04\0\x10\0\0\0\x02xy" + b"3DI\x04\0\x10\0\0\0\x02" + MP3_FRAME, True),
        (b"ID3\x04\0\0\0\0\x7f\x7f" + MP3_FRAME, False),
        (MP3_FRAME + b"\0" * 100 + b"TAG" + b"x" * 125, True),
        (MP3_FRAME + b"APETAGEX and so on", True),
        (MP3_FRAME + b"item" * 9 + b"APETAGEX" + b"x" * 24 + b"TAG" + b"x" * 125, True),
        (MP3_FRAME + b"LYRICSBEGIN la la 000020LYRICS200", True),
        (b"\0" * 9 + MP3_FRAME, True),
        (MP3_FRAME[10:] + MP3_FRAME * 3, True),
        (MP3_FRAME[:-1], False),
        (MP3_FRAME + MP3_FRAME[:50], False),
        (MP3_FRAME + b"x" + MP3_FRAME, False),
        (xing(2) + MP3_FRAME, True),
        (xing(1) + MP3_FRAME, True),
        (xing(3) + MP3_FRAME, False),
        (xing(0) + MP3_FRAME, True),
        (xing(7, flags=0) + MP3_FRAME, True),
        (xing(2, b"LAME") + MP3_FRAME, False),
        (xing(2, b"LAME") + MP3_FRAME * 2, True),
    ],
)
def test_mp3_file_is_at_least_as_many_complete_frames_as_declared(data: bytes, expected: bool) -> None:
    assert whole("mp3", data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (EBML + SEGMENT + b"\x84" + VOID, True),
        (EBML + SEGMENT + b"\x85" + VOID, False),
        (EBML + SEGMENT + UNKNOWN_SIZE + VOID + b"\x1f\x43\xb6\x75" + UNKNOWN_SIZE + VOID, True),
        (EBML + SEGMENT + UNKNOWN_SIZE + VOID[:-1], False),
        (EBML + SEGMENT + UNKNOWN_SIZE + b"\xec\xff", False),
        (EBML + SEGMENT + UNKNOWN_SIZE + b"\0", False),
        (EBML + SEGMENT + UNKNOWN_SIZE + b"\xec", False),
        (EBML + SEGMENT + UNKNOWN_SIZE + b"\x1f\x43", False),
        (EBML, False),
        ((EBML + SEGMENT + b"\x84" + VOID) * 2, False),
    ],
)
def test_webm_file_is_one_segment_of_complete_elements(data: bytes, expected: bool) -> None:
    assert whole("webm", data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (box(b"ftyp", b"M4A ") + box(b"moov") + box(b"mdat", b"x"), True),
        (box(b"ftyp", b"M4A ") + box(b"mdat", b"x") + box(b"moov") + box(b"free"), True),
        (box(b"ftyp") + box(b"moov") + box(b"mdat", struct.pack(">Q", 17) + b"x", size=1), True),
        (box(b"ftyp") + box(b"moov") + box(b"mdat", struct.pack(">Q", 18) + b"x", size=1), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat", b"x", size=10), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat", b"x", size=0), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat", b"x", size=7), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat") + b"\0\0", False),
        (box(b"ftyp") + box(b"moov"), False),
        (box(b"ftyp") + box(b"mdat"), False),
        (box(b"ftyp") + box(b"moov") + box(b"mdat") + box(b"moov"), False),
        (box(b"ftyp") + box(b"moov") + box(b"moof") + box(b"mdat") + box(b"moof") + box(b"mdat"), True),
    ],
)
def test_m4a_file_is_complete_boxes_with_index_and_samples(data: bytes, expected: bool) -> None:
    assert whole("m4a", data) is expected


OGG = encode(voice_like(1.0), "vorbis")
FLAC = encode(voice_like(0.1), "flac")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data, True),
        (lambda data: data[:20], False),
        (lambda data: data[:27], False),
        (lambda data: data[:-1], False),
        (lambda data: data + b"O", False),
        (lambda data: data + b"x" * 30, False),
        (lambda data: data + data, False),
        (lambda data: data[:40] + b"!" + data[41:], False),
        (lambda data: data[: data.rindex(b"OggS")], False),
    ],
)
def test_ogg_file_is_one_stream_up_to_its_last_page(change: Callable[[bytes], bytes], expected: bool) -> None:
    assert whole("ogg", change(OGG)) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FLAC, True),
        (FLAC[:41], False),
        (FLAC[:21] + bytes([FLAC[21] & 0xF0]) + b"\0\0\0\0" + FLAC[26:], True),
        (FLAC + FLAC, False),
    ],
)
def test_flac_file_is_one_stream(data: bytes, expected: bool) -> None:
    assert whole("flac", data) is expected


WAV = wav_header(8_000, 1, 4) + b"abcd"


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (WAV, b"abcd"),
        (WAV + b"LIST\x04\0\0\0abcd", b"abcd"),
        (WAV[:12] + b"LIST\x03\0\0\0abc\0" + WAV[12:], b"abcd"),
        (WAV[:12] + b"LIST\x03\0\0\0abc" + WAV[12:], b"abcd"),
        (wav_header(8_000, 1, 0xFFFFFFFF) + b"abcd", b"abcd"),
        (wav_header(8_000, 1, 0x7FFFF000) + b"abcd", b"abcd"),
        (wav_header(8_000, 1, 0), b""),
        (wav_header(8_000, 1, 0) + b"LIST\x04\0\0\0abcd", b""),
    ],
)
def test_only_format_and_samples_of_a_wav_are_decoded(data: bytes, samples: bytes) -> None:
    warnings: dict[str, str] = {}
    extent = check_whole("wav", data, 0, warnings)
    assert extent.of(data) == wav_header(8_000, 1, len(samples)) + samples
    assert not warnings


def test_length_of_zero_before_samples_is_a_warning() -> None:
    warnings: dict[str, str] = {}
    data = wav_header(8_000, 1, 0) + b"abcd" * 3
    assert check_whole("wav", data, 0, warnings).of(data) == wav_header(8_000, 1, 12) + b"abcd" * 3
    assert list(warnings) == ["unfinished_header"]


@pytest.mark.parametrize(
    ("data", "content", "packets"),
    [
        (MP3_FRAME * 2, MP3_FRAME * 2, 2),
        (b"\0" * 4 + MP3_FRAME * 3 + b"TAG" + b"x" * 125, MP3_FRAME * 3, 3),
        (xing(2) + MP3_FRAME * 2, xing(2) + MP3_FRAME * 2, 2),
        (xing(1) + MP3_FRAME * 2, MP3_FRAME * 2, 2),
        (MP3_FRAME[:36] + b"VBRI" + MP3_FRAME[40:] + MP3_FRAME * 2, MP3_FRAME * 2, 2),
    ],
    ids=["plain", "surrounded", "counted", "more than counted", "Fraunhofer"],
)
def test_only_the_frames_of_an_mp3_are_decoded(data: bytes, content: bytes, packets: int) -> None:
    extent = check_whole("mp3", data, sniff(data)[1], {})
    assert (extent.of(data), extent.packets) == (content, packets)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x7fFLAC", "FLAC"),
        (b"Speex   ", "Speex"),
        (b"\x80theora", "Theora"),
        (b"fishead\0", "Skeleton"),
        (b"?", "an unknown codec"),
    ],
)
def test_ogg_with_another_codec_is_refused_by_name(head: bytes, name: str) -> None:
    at = 28  # where the first page's content begins
    assert OGG[at : at + 7] == b"\x01vorbis"
    page = bytearray(OGG[: OGG.index(b"OggS", 4)])
    page[at : at + 8] = head.ljust(8, b"\0")
    page[22:26] = bytes(4)
    page[22:26] = _ogg_crc(bytes(page)).to_bytes(4, "little")
    with pytest.raises(UnsupportedFormat, match=name):
        check_whole("ogg", bytes(page) + OGG[len(page) :], 0, {})
