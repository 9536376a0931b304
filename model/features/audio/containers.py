"""Detects the container of a sound file and checks that the file is complete.

Own code: the decoding libraries answer a truncated or damaged file with a shorter sound instead of an error.
A walker compares the sizes that a file declares with its bytes; it visits each frame, page or box once.
"""

import mmap
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from model.errors import CorruptModality, UnsupportedFormat
from model.modality import Modality

ACCEPTED: Final = "accepted are WAV, FLAC, Ogg (Vorbis, Opus), MP3, WebM (Opus) and MP4 or M4A (AAC, Opus)"
_NAMED: Final[Mapping[bytes, str]] = {
    b"RF64": "RF64",
    b"BW64": "BW64",
    b"riff\x2e\x91\xcf\x11": "Wave64",
    b"RIFF": "RIFF without WAVE",
    b"RIFX": "RIFX",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"#!AMR": "AMR",
    b"\x30\x26\xb2\x75": "ASF (WMA)",
    b"\x1a\x45\xdf\xa3": "Matroska",
    b"\xff\xf1": "AAC in ADTS",
    b"\xff\xf9": "AAC in ADTS",
}
"""First bytes of formats that are refused by name."""

Data: TypeAlias = bytes | mmap.mmap
"""A whole file, in memory or mapped into it. The walkers copy small parts of it only."""


class Extent(NamedTuple):
    """The part of a file to decode: `head`, which replaces the file's own, then bytes `start` to `end` of the file.

    `packets` is the number of packets in it; 0 if it is not known.
    """

    head: bytes
    start: int
    end: int
    packets: int = 0

    def of(self, data: bytes) -> bytes:
        """Return the bytes to decode, without a copy where these are the whole file."""
        if not self.head and (self.start, self.end) == (0, len(data)):
            return data
        return self.head + data[self.start : self.end]


def sniff(data: Data) -> tuple[str, int]:
    """Name the container of a file, `wav`, `flac`, `ogg`, `mp3`, `webm` or `m4a`, and the byte where it begins.

    An ID3 tag may precede any of them; zeros and the rest of a frame may precede an MP3.

    Raises:
        UnsupportedFormat: another format, named if it is known.
    """
    start = _end_of_id3(data)
    head = data[start : start + 64]
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav", start
    if head[:4] == b"fLaC":
        return "flac", start
    if head[:4] == b"OggS":
        return "ogg", start
    if head[:4] == b"\x1a\x45\xdf\xa3" and b"\x42\x82\x84webm" in head:  # EBML with the document type `webm`
        return "webm", start
    if head[4:8] == b"ftyp":
        return "m4a", start
    name = next((name for magic, name in _NAMED.items() if head.startswith(magic)), None)
    if name is None and (first := _first_mp3_frame(data, start)) is not None:
        return "mp3", first
    if name is None and start:  # only a tag, or a tag before damage
        return "mp3", start
    raise UnsupportedFormat(Modality.AUDIO, f"{name} is not accepted; {ACCEPTED}" if name else ACCEPTED)


def _end_of_id3(data: Data) -> int:
    """First byte after the ID3 tags at the start."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        seven_bit = data[start + 6 : start + 10]
        size = sum(byte << shift for byte, shift in zip(seven_bit, (21, 14, 7, 0), strict=True))
        start += size + (20 if data[start + 5] & 0x10 else 10)  # a header, and a footer if flagged
    return start


def check_whole(container: str, data: Data, start: int, warnings: dict[str, str]) -> Extent:
    """Check a whole file of a container that `sniff` returned with its start.

    Args:
        container: of `sniff`.
        data: the file.
        start: of `sniff`.
        warnings: receives a warning about the file, if there is one.

    Returns:
        The part of the file to decode.

    Raises:
        CorruptModality: truncated, with a gap, or with bytes that are not part of the container; names the byte.
        UnsupportedFormat: an Ogg file with a codec that is not accepted.
    """
    if container == "wav":
        return _wav_extent(data, start, warnings)
    if container == "mp3":
        return _mp3_extent(data, start)
    if container == "flac":
        return _flac_extent(data, start, warnings)
    _WALKERS[container](data, start)
    return Extent(b"", start, len(data))


def _corrupt(detail: str, position: int) -> CorruptModality:
    return CorruptModality(Modality.AUDIO, detail, f"byte {position}")


def _cut(position: int) -> CorruptModality:
    return _corrupt("the file ends before its content does", position)


# Sizes that streaming programs write because they do not know the length: FFmpeg all ones, SoX and MPlayer 0x7FFFF000,
# ALSA and others 2^31 - 1 or 2^31, each possibly less the header. A file of such a size could not be uploaded.
_STREAMED: Final = 0x7FFFF000
_CHUNK_NAME: Final = re.compile(rb"[ -~]{4}")


def _wav_extent(data: Data, start: int, warnings: dict[str, str]) -> Extent:
    """RIFF/WAVE: a file with only the format and the samples of the file given.

    Tags and padding after the samples may be malformed. Where the header does not give the length, the samples last to
    the end of the file.
    """
    position, layout = start + 12, b""
    while position + 8 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body = position + 8
        if name == b"data":
            unfinished = size == 0 and not _is_chunks(data, body)
            if unfinished:
                warnings["unfinished_header"] = (
                    "The WAV header gives a length of 0, as a recorder leaves it that was stopped; the file was read "
                    "to its end."
                )
            if unfinished or size >= _STREAMED:
                size = len(data) - body
        if size > len(data) - body:
            raise _cut(position)
        if name == b"data":
            after = body + size + size % 2
            if data[after : after + 4] == b"RIFF":
                raise _corrupt("the WAV file holds more than one file", body + size)
            content = b"WAVE" + layout + b"data" + size.to_bytes(4, "little")
            content = b"RIFF" + (len(content) + size).to_bytes(4, "little") + content
            if data[: len(content)] == content and len(data) == len(content) + size:
                return Extent(b"", 0, len(data))
            return Extent(content, body, body + size)
        if name == b"fmt " and not layout:
            layout = data[position : body + size] + b"\0" * (size % 2)
        position = body + size
        if size % 2 and not _CHUNK_NAME.match(data, position):  # some programs leave out the byte of padding
            position += 1
    raise _corrupt("the WAV file holds no samples", min(position, len(data)))


def _is_chunks(data: Data, position: int) -> bool:
    """Whether chunks fill the file from a position to its end."""
    while position + 8 <= len(data) and _CHUNK_NAME.match(data, position):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return position in (len(data), len(data) + 1)


# Ogg (RFC 3533). zlib's CRC-32 has Ogg's polynomial, but reads the bits of each byte in the opposite order.
_REVERSED_BITS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BITS), "big")


_OGG_CODECS: Final[Mapping[bytes, str]] = {
    b"\x01vorbis": "",
    b"OpusHead": "",
    b"\x7fFLAC": "FLAC",
    b"Speex   ": "Speex",
    b"\x80theora": "Theora",
    b"fishead\0": "Skeleton",
    b"CELT    ": "CELT",
}
"""First bytes of a stream → its codec's name if it is not accepted."""


def _walk_ogg(data: Data, start: int) -> None:
    position, sequence, serial, last = start, 0, b"", False
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
        if header[5] & 0x02:  # the flag of a stream's first page
            head = data[body : body + 8]
            codec = next((name for magic, name in _OGG_CODECS.items() if head.startswith(magic)), "an unknown codec")
            if codec:
                raise UnsupportedFormat(Modality.AUDIO, f"Ogg with {codec} is not accepted, only with Vorbis or Opus")
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
_MP3_LONGEST: Final = 1441  # bytes of a frame: 320 kbit/s at 32 kHz, padded
_MP3_SEQUENCE: Final = 3  # frames in a row that are no coincidence
_NOT_ZERO: Final = re.compile(rb"[^\0]")
_TRAILING_TAGS: Final = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
_TAG_FOOTER: Final = b"APETAGEX"  # of an APE tag without a header, perhaps before an ID3v1 tag of 128 bytes


def _mp3_frame_size(data: Data, position: int) -> int | None:
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


def _first_mp3_frame(data: Data, start: int) -> int | None:
    """Position of the first frame, after zeros and the rest of a frame that a recording of a broadcast begins with."""
    position = found.start() if (found := _NOT_ZERO.search(data, start)) else len(data)
    if _mp3_frame_size(data, position) is not None:
        return position
    return next((at for at in range(position + 1, position + _MP3_LONGEST) if _is_mp3_sequence(data, at)), None)


def _is_mp3_sequence(data: Data, position: int) -> bool:
    """Whether complete frames of one version and rate follow each other."""
    first = data[position : position + 3]
    for _ in range(_MP3_SEQUENCE):
        size = _mp3_frame_size(data, position)
        if size is None or data[position + 1] != first[1] or (data[position + 2] ^ first[2]) & 0x0C:
            return False
        position += size
    return position <= len(data)


def _mp3_extent(data: Data, start: int) -> Extent:
    """MPEG layer III frames, perhaps followed by tags; the result holds the frames alone."""
    position, frames = start, 0
    while (size_here := _mp3_frame_size(data, position)) is not None:
        if position + size_here > len(data):
            raise _cut(position)
        position, frames = position + size_here, frames + 1
    rest = data[position:]
    if rest[:1] == b"\xff" and len(rest) < 4:
        raise _cut(position)
    if not frames:
        raise _corrupt("there is no MPEG layer III frame", min(start, len(data)))
    if rest.strip(b"\0") and not rest.lstrip(b"\0").startswith(_TRAILING_TAGS) and _TAG_FOOTER not in rest[-160:]:
        raise _corrupt("this is no MPEG layer III frame", position)
    # Frame count of the Xing or Info header, which is stored in place of the first frame's side information.
    first_version, mono = (data[start + 1] >> 3) & 3 == 3, data[start + 3] >> 6 == 3
    side = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[first_version, mono]
    header = data[start + 4 + side : start + 4 + side + 124]
    if header[:4] in (b"Xing", b"Info") and len(header) >= 12 and header[7] & 1:
        frames -= 1
        claimed = int.from_bytes(header[8:12], "big")
        # Some encoders count the frame that carries the count; LAME and FFmpeg do not.
        if frames < claimed - (header[120:124] not in (b"LAME", b"Lavf", b"Lavc")):
            raise _cut(position)
        if frames > claimed:  # the decoder would stop at the count, so it is not given the header
            start += _mp3_frame_size(data, start) or 0
    elif data[start + 36 : start + 40] == b"VBRI":  # Fraunhofer's header, which is not needed
        frames, start = frames - 1, start + (_mp3_frame_size(data, start) or 0)
    return Extent(b"", start, position, frames)


# Matroska and WebM (RFC 9559).
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675


def _ebml_number(data: Data, position: int, keep_marker: bool) -> tuple[int | None, int]:
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


def _walk_webm(data: Data, start: int) -> None:
    """Walk the elements, including those within the segment and clusters, whose size live recorders leave unknown."""
    position, segments = start, 0
    while position < len(data):
        begin = position
        element, position = _ebml_number(data, position, keep_marker=True)
        size, position = _ebml_number(data, position, keep_marker=False)
        if size is not None and position + size > len(data):
            raise _cut(begin)
        if element in (_SEGMENT, _CLUSTER):
            segments += element == _SEGMENT
        elif size is None:
            raise _corrupt("this WebM element must have a size", begin)
        else:
            position += size
    if segments != 1:
        raise _corrupt("the WebM file does not hold one segment", position)


def _walk_m4a(data: Data, start: int) -> None:
    """ISO base media file format (ISO 14496-12): top-level boxes."""
    position = start
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


_FLAC_TAIL: Final = 2**16  # bytes at the end of a file in which its last frame is looked for
_FLAC_BLOCKS: Final = 1000  # of metadata; a file with more is decoded to its count


def _flac_extent(data: Data, start: int, warnings: dict[str, str]) -> Extent:
    """FLAC (RFC 9639): the whole file, with a sample count of 0 (unknown) where the header counts too few.

    `loading` compares a header that counts too many with what it decodes. libFLAC stops at the count and at a second
    stream.
    """
    if len(data) < start + 42:
        raise _cut(len(data))
    second = data.find(b"fLaC\0\0\0\x22", start + 4)  # marker and header of STREAMINFO
    if second >= 0:
        raise _corrupt("the FLAC file holds more than one stream", second)
    # The count is the last 36 bits before byte 26.
    counted = int.from_bytes(data[start + 21 : start + 26], "big") % 2**36
    if not 0 < counted < _flac_samples(data, start):
        return Extent(b"", start, len(data))
    warnings["unfinished_header"] = (
        f"The FLAC header counts {counted} samples, and more follow; the file was read to its end."
    )
    return Extent(data[start : start + 21] + bytes([data[start + 21] & 0xF0, 0, 0, 0, 0]), start + 26, len(data))


def _flac_samples(data: Data, start: int) -> int:
    """Samples up to the end of the last frame, by its header; 0 where none is found."""
    position, last = start + 4, False
    for _ in range(_FLAC_BLOCKS):
        if last or position + 4 > len(data):
            break
        last = data[position] >= 0x80
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    first = data[position : position + 4]
    if not last or first[:2] not in (b"\xff\xf8", b"\xff\xf9"):
        return 0
    earliest, position = max(position, len(data) - _FLAC_TAIL), len(data)
    while (position := data.rfind(first[:2], earliest, position)) >= 0:
        header = data[position : position + 16]
        # Rate and sample size are those of the first frame.
        alike = len(header) > 5 and (header[2] ^ first[2]) & 0x0F == (header[3] ^ first[3]) & 0x0F == 0
        if alike and (frame := _flac_frame(header)) is not None:
            number, size = frame
            fixed_size = int.from_bytes(data[start + 10 : start + 12], "big")
            return (number if first[1] & 1 else number * fixed_size) + size
    return 0


def _flac_frame(header: bytes) -> tuple[int, int] | None:
    """Coded number (of the frame, or of its first sample) and size of a frame in samples; None if this is no header."""
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # the number is coded like a character of UTF-8
    code, rate = header[2] >> 4, header[2] & 0x0F
    if ones in (1, 8) or code == 0:  # reserved
        return None
    end = 4 + max(ones, 1)
    number = header[4] & (0x7F >> ones)
    for byte in header[5:end]:
        number = number << 6 | byte & 0x3F
    if code in (6, 7):
        size = int.from_bytes(header[end : end + code - 5], "big") + 1
        end += code - 5
    else:
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0  # CRC-8 of the header, which its own last byte makes 0
    for byte in header[: end + 1]:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum << 1 ^ (0x107 if checksum & 0x80 else 0)
    return (number, size) if end < len(header) and checksum == 0 else None


_WALKERS: Final[Mapping[str, Callable[[Data, int], None]]] = {
    "ogg": _walk_ogg,
    "webm": _walk_webm,
    "m4a": _walk_m4a,
}
