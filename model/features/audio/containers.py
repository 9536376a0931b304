"""Detects the container of a sound file and checks that the file is complete.

Own code: the decoding libraries answer a truncated or damaged file with a shorter sound instead of an error.
A walker compares the sizes that a file declares with its bytes; it visits each frame, page or box once.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Final

from model.errors import CorruptModality
from model.modality import Modality

SNIFF_BYTES: Final = 64


def sniff(head: bytes) -> str | None:
    """Name the container of a file from its first `SNIFF_BYTES` bytes: `wav`, `flac`, `ogg`, `mp3`, `webm`, `m4a`."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"\x1a\x45\xdf\xa3":  # EBML; a Matroska file has the document type `matroska`
        return "webm" if b"\x42\x82\x84webm" in head else None
    if head[4:8] == b"ftyp":
        return "m4a"
    if head[:3] == b"ID3" or _mp3_frame_size(head, 0) is not None:
        return "mp3"
    return None


def check_whole(container: str, data: bytes) -> None:
    """Check a whole file of a container that `sniff` returned.

    Raises:
        CorruptModality: truncated, with a gap, or with bytes that are not part of the container; names the byte.
    """
    _WALKERS[container](data)


def _corrupt(detail: str, position: int) -> CorruptModality:
    return CorruptModality(Modality.AUDIO, detail, f"byte {position}")


def _cut(position: int) -> CorruptModality:
    return _corrupt("the file ends before its content does", position)


def _walk_wav(data: bytes) -> None:
    """RIFF/WAVE: chunks up to the samples; tags and padding after them may be malformed."""
    position, found = 12, False
    while not found and position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if size > len(data) - position - 8:
            raise _cut(position)
        found = data[position : position + 4] == b"data"
        position += 8 + size + size % 2
    if not found:
        raise _corrupt("the WAV file holds no samples", min(position, len(data)))


# Ogg (RFC 3533). zlib's CRC-32 has Ogg's polynomial, but reads the bits of each byte in the opposite order.
_REVERSED_BITS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BITS), "big")


def _walk_ogg(data: bytes) -> None:
    position, sequence, serial, last = 0, 0, b"", False
    while position < len(data):
        header = data[position : position + 27]
        if header[:4] != b"OggS" or len(header) < 27:
            raise _cut(position) if b"OggS".startswith(header[:4]) else _corrupt("this is no Ogg page", position)
        body = position + 27 + header[26]
        lacing = data[position + 27 : body]
        end = body + sum(lacing)
        if len(lacing) < header[26] or end > len(data):
            raise _cut(position)
        page = header[:22] + bytes(4) + header[26:] + data[position + 27 : end]
        if _ogg_crc(page) != int.from_bytes(header[22:26], "little"):
            raise _corrupt("an Ogg page does not match its checksum", position)
        serial = serial or header[14:18]
        if last or header[14:18] != serial:
            raise _corrupt("the Ogg file holds more than one stream", position)
        if int.from_bytes(header[18:22], "little") != sequence:
            raise _corrupt("a page of the Ogg file is missing", position)
        last = bool(header[5] & 0x04)  # the flag of a last page
        position, sequence = end, sequence + 1
    if not last:
        raise _cut(position)


# MPEG audio frame headers (ISO 11172-3 and 13818-3), layer III.
_MP3_KBITS: Final = (  # by bitrate index 1 … 14: MPEG-1, then MPEG-2 and 2.5
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_HZ: Final = (44_100, 48_000, 32_000)  # by rate index: MPEG-1; half of it in MPEG-2, a quarter in MPEG-2.5
_TRAILING_TAGS: Final = (b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def _mp3_frame_size(data: bytes, position: int) -> int | None:
    """Bytes of the layer III frame at `position`; None if there is no such frame."""
    header = data[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = (header[1] >> 3) & 3, header[2] >> 4, (header[2] >> 2) & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    bytes_per_kbit, fraction = {3: (144_000, 1), 2: (72_000, 2), 0: (72_000, 4)}[version]
    hertz = _MP3_HZ[rate] // fraction
    return bytes_per_kbit * _MP3_KBITS[version != 3][bitrate - 1] // hertz + (header[2] >> 1 & 1)


def _walk_mp3(data: bytes) -> None:
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        seven_bit = data[start + 6 : start + 10]
        size = sum(byte << shift for byte, shift in zip(seven_bit, (21, 14, 7, 0), strict=True))
        start += size + (20 if data[start + 5] & 0x10 else 10)  # a header, and a footer if flagged
    position, frames = start, 0
    while (size_here := _mp3_frame_size(data, position)) is not None:
        if position + size_here > len(data):
            raise _cut(position)
        position, frames = position + size_here, frames + 1
    rest = data[position:]
    if not frames:
        raise _corrupt("there is no MPEG layer III frame", min(start, len(data)))
    if rest.strip(b"\0") and not rest.lstrip(b"\0").startswith(_TRAILING_TAGS):
        raise _corrupt("this is no MPEG layer III frame", position)
    # Frame count of the Xing or Info header, which is stored in place of the first frame's side information.
    first_version, mono = (data[start + 1] >> 3) & 3 == 3, data[start + 3] >> 6 == 3
    side = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[first_version, mono]
    header = data[start + 4 + side : start + 4 + side + 12]
    if header[:4] in (b"Xing", b"Info") and len(header) == 12 and header[7] & 1:
        claimed = int.from_bytes(header[8:12], "big")
        if frames < claimed:
            raise _cut(position)
        # Some encoders count the frame that carries the count, some do not. The decoder stops at the count.
        if frames > claimed + 1:
            raise _corrupt("the MP3 file holds more frames than its first one counts", position)


# Matroska and WebM (RFC 9559).
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675


def _ebml_number(data: bytes, position: int, keep_marker: bool) -> tuple[int | None, int]:
    """Return a variable-length number and its end; None for the reserved size `unknown`."""
    if position >= len(data) or data[position] == 0:
        raise _cut(position) if position >= len(data) else _corrupt("this is no WebM element", position)
    length = 9 - data[position].bit_length()
    raw = data[position : position + length]
    if len(raw) < length:
        raise _cut(position)
    marker = 0 if keep_marker else 1 << (7 * length)
    value = int.from_bytes(raw, "big") - marker
    return (None if value == marker - 1 else value), position + length


def _walk_webm(data: bytes) -> None:
    """Walk the elements, including those within the segment and clusters, whose size live recorders leave unknown."""
    position, segments = 0, 0
    while position < len(data):
        start = position
        element, position = _ebml_number(data, position, keep_marker=True)
        size, position = _ebml_number(data, position, keep_marker=False)
        if size is not None and position + size > len(data):
            raise _cut(start)
        if element in (_SEGMENT, _CLUSTER):
            segments += element == _SEGMENT
        elif size is None:
            raise _corrupt("this WebM element must have a size", start)
        else:
            position += size
    if segments != 1:
        raise _corrupt("the WebM file does not hold one segment", position)


def _walk_m4a(data: bytes) -> None:
    """ISO base media file format (ISO 14496-12): top-level boxes."""
    position = 0
    names: set[bytes] = set()
    while position < len(data):
        header = data[position : position + 16]
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:
            # Such a box extends to the end of the file, so it cannot be checked for completeness.
            raise _corrupt("a box without a size is not accepted", position)
        if len(header) < 8 or position + size > len(data):
            raise _cut(position)
        if size < 8:
            raise _corrupt("this is no MP4 box", position)
        if header[4:8] in names and header[4:8] in (b"ftyp", b"moov"):
            raise _corrupt("the M4A file holds more than one file", position)
        names.add(header[4:8])
        position += size
    if b"moov" not in names or b"mdat" not in names:
        raise _cut(position)


def _walk_flac(data: bytes) -> None:
    """FLAC (RFC 9639): the header counts the samples, which `loading` compares; libFLAC stops at a second stream."""
    # The 36 bits of STREAMINFO that count samples end at byte 26.
    if len(data) < 42:
        raise _cut(len(data))
    if not int.from_bytes(data[21:26], "big") & (2**36 - 1):
        raise _corrupt("the FLAC header does not say how many samples follow", 21)
    second = data.find(b"fLaC\0\0\0\x22", 4)  # marker and header of STREAMINFO
    if second >= 0:
        raise _corrupt("the FLAC file holds more than one stream", second)


_WALKERS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "wav": _walk_wav,
    "flac": _walk_flac,
    "ogg": _walk_ogg,
    "mp3": _walk_mp3,
    "webm": _walk_webm,
    "m4a": _walk_m4a,
}
