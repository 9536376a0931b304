"""Files built field by field; `test_loading` has complete ones."""

import struct
from collections.abc import Callable

import pytest

from model.errors import CorruptModality
from model.features.audio.containers import check_whole, sniff
from tests.support.sound import encode, voice_like, wav_header

MP3_FRAME = b"\xff\xfb\x90\xc4" + b"\0" * 413  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono: 417 bytes
EBML = b"\x1a\x45\xdf\xa3\x88\x42\x82\x84webm\0"
SEGMENT = b"\x18\x53\x80\x67"
UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
VOID = b"\xec\x82\0\0"


def box(name: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    """An MP4 box."""
    return struct.pack(">I", 8 + len(content) if size is None else size) + name + content


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"RIFF\x24\0\0\0AVI LIST", None),
        (b"RIFX\0\0\0\x24WAVEfmt ", None),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"OggS\0\x02", "ogg"),
        (b"ID3\x04\0\0", "mp3"),
        (b"\xff\xfb\x90\xc4", "mp3"),
        (b"\xff\xfd\x90\xc4", None),
        (b"\xff\xf1\x50\x80", None),
        (b"\xff\xfb\xf0\xc4", None),
        (b"\xff\xfb\x00\xc4", None),
        (b"\xff\xeb\x90\xc4", None),
        (b"\xff\xfb\x9c\xc4", None),
        (b"\xff\xfb", None),
        (EBML, "webm"),
        (EBML.replace(b"\x84webm", b"\x88matroska"), None),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
        (b"\0\0\0\x20moov", None),
        (b"", None),
    ],
)
def test_container_is_detected_by_its_first_bytes(head: bytes, container: str | None) -> None:
    assert sniff(head) == container


def whole(container: str, data: bytes) -> bool:
    try:
        check_whole(container, data)
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
        (b"ID3", False),
        (MP3_FRAME + b"\0" * 100 + b"TAG" + b"x" * 125, True),
        (MP3_FRAME + b"APETAGEX and so on", True),
        (MP3_FRAME[:-1], False),
        (MP3_FRAME + MP3_FRAME[:50], False),
        (MP3_FRAME + b"x" + MP3_FRAME, False),
        (MP3_FRAME.replace(b"\0" * 29, b"\0" * 17 + b"Info\0\0\0\1\0\0\0\2", 1) + MP3_FRAME, True),
        (MP3_FRAME.replace(b"\0" * 29, b"\0" * 17 + b"Xing\0\0\0\1\0\0\0\1", 1) + MP3_FRAME, True),
        (MP3_FRAME.replace(b"\0" * 29, b"\0" * 17 + b"Xing\0\0\0\1\0\0\0\3", 1) + MP3_FRAME, False),
        (MP3_FRAME.replace(b"\0" * 29, b"\0" * 17 + b"Xing\0\0\0\1\0\0\0\0", 1) + MP3_FRAME, False),
        (MP3_FRAME.replace(b"\0" * 29, b"\0" * 17 + b"Xing\0\0\0\0\0\0\0\7", 1) + MP3_FRAME, True),
    ],
)
def test_mp3_file_is_as_many_complete_frames_as_declared(data: bytes, expected: bool) -> None:
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
        (FLAC[:21] + bytes([FLAC[21] & 0xF0]) + b"\0\0\0\0" + FLAC[26:], False),
        (FLAC + FLAC, False),
    ],
)
def test_flac_file_is_one_stream_with_its_length(data: bytes, expected: bool) -> None:
    assert whole("flac", data) is expected
