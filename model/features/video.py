"""A video → its sound, as a file of its own, and its subtitles; pictures are not decoded.

FFmpeg, through PyAV, reads MP4, QuickTime, Matroska and WebM.
"""

import io
import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from model.errors import CorruptModality, EmptyModality, UnsupportedFormat
from model.features.audio.containers import Data, check_whole
from model.modality import Modality

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.subtitles.subtitle import AssSubtitle, BitmapSubtitle

Block: TypeAlias = npt.NDArray[np.uint8]
S = TypeVar("S", bound="Stream")

ACCEPTED: Final = "accepted are MP4, QuickTime, Matroska and WebM"
SOUND: Final[Mapping[str, str]] = {
    "aac": "mp4",
    "opus": "webm",
    "vorbis": "ogg",
    "mp3": "mp3",
    "mp3float": "mp3",
    "flac": "flac",
    **dict.fromkeys(("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_alaw", "pcm_mulaw"), "wav"),
}
"""Codec of a sound → FFmpeg's muxer of a sound file that `model.features.audio.loading` accepts."""
SUBTITLES: Final = ("mov_text", "srt", "subrip", "webvtt", "ass", "ssa")
"""Decoders of subtitles that are text; the others are pictures."""
BLOCK_BYTES: Final = 2**20
SHIFT_SECONDS: Final = 0.05
"""Subtitles are shifted where the sound begins later than this; a coder's delay is shorter."""
_OPTIONS: Final = {"codec_whitelist": ",".join((*SOUND, "libopus", "libvorbis", *SUBTITLES))}
_MARKUP: Final = re.compile(r"\{\\[^{}]{0,256}\}|<[^<>]{0,256}>")


def video_sound(file: BinaryIO, data: Data, warnings: dict[str, str]) -> Iterator[Block]:
    """Copy the sound of a video, without decoding it, into a sound file.

    Args:
        file: seekable.
        data: the same file; a mapping is closed once the file has been checked.
        warnings: receives `several_sounds`, `no_picture`.

    Yields:
        Bytes of the sound file, `(K, 1)`.

    Raises:
        UnsupportedFormat: a container or codec that is not accepted.
        CorruptModality: not readable to its end.
        EmptyModality: `not_provided`: a video without sound.
    """

    def copy(video: "InputContainer") -> bytes:
        import av
        from av.stream import Disposition

        if not video.streams.audio:
            raise EmptyModality(Modality.AUDIO, "not_provided", "the video holds no sound")
        stream = _preferred(video.streams.audio)
        if all(picture.disposition & Disposition.attached_pic for picture in video.streams.video):
            warnings["no_picture"] = "The video holds no pictures."
        if len(video.streams.audio) > 1:
            warnings["several_sounds"] = f"The video holds {len(video.streams.audio)} sounds; one of them is used."
        # A stream of a codec unknown to FFmpeg has no context, in spite of PyAV's type annotations.
        codec = getattr(stream.codec_context, "name", "an unknown codec")
        if codec not in SOUND:
            accepted = "AAC, Opus, Vorbis, MP3, FLAC and PCM"
            raise UnsupportedFormat(Modality.AUDIO, f"the sound is coded as {codec}; accepted are {accepted}")
        # MP4 counts the packets, those of PCM by their samples.
        sound, expected = io.BytesIO(), 0 if codec.startswith("pcm") else stream.frames
        with av.open(sound, "w", format=SOUND[codec]) as output:
            copied = output.add_stream_from_template(stream)
            for packet in video.demux(stream):
                if packet.is_corrupt:
                    raise _corrupt()
                if packet.size:
                    expected -= 1
                    packet.stream = copied
                    output.mux(packet)
        if expected > 0:
            raise _corrupt()
        return sound.getvalue()

    return _blocks(_read(file, data, copy))


def video_subtitles(file: BinaryIO, data: Data, warnings: dict[str, str]) -> Iterator[Block]:
    """Read the subtitles of a video.

    Of several, those in English are read, else those the file marks as the default. Times begin with the sound.

    Args:
        file: seekable.
        data: the same file; a mapping is closed once the file has been checked.
        warnings: receives `several_subtitles`.

    Yields:
        Bytes `(K, 1)` of a JSON document, as Whisper writes it: `{"segments": [{"start", "end", "text"}]}`, in seconds.

    Raises:
        UnsupportedFormat: a container that is not accepted.
        CorruptModality: not readable to its end.
        EmptyModality: `not_provided`: a video without subtitles that are text.
    """

    def read(video: "InputContainer") -> bytes:
        streams = [
            stream for stream in video.streams.subtitles if getattr(stream.codec_context, "name", None) in SUBTITLES
        ]
        segments: list[dict[str, float | str]] = []
        if streams:
            english = [stream for stream in streams if (stream.language or "").startswith("en")]
            stream = _preferred(english or streams)
            if len(streams) > 1:
                warnings["several_subtitles"] = f"The video holds {len(streams)} subtitles; one of them is used."
            segments = list(_segments(video, stream))
        if not segments:
            raise EmptyModality(Modality.TEXT, "not_provided", "the video holds no subtitles that are text")
        return json.dumps({"segments": segments}).encode()

    return _blocks(_read(file, data, read))


def _segments(video: "InputContainer", stream: "SubtitleStream") -> Iterator[dict[str, float | str]]:
    sound = _preferred(video.streams.audio) if video.streams.audio else None
    begins = 0.0
    if sound is not None and sound.start_time is not None and sound.time_base is not None:
        begins = float(sound.start_time * sound.time_base)
    shift = begins if begins > SHIFT_SECONDS else 0.0
    for packet in video.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        text = "\n".join(filter(None, (_plain_text(subtitle) for subtitle in packet.decode())))
        start = float(packet.pts * packet.time_base) - shift
        end = start + float((packet.duration or 0) * packet.time_base)
        if text and end > 0:
            yield {"start": round(max(0.0, start), 3), "end": round(end, 3), "text": text}


def _plain_text(subtitle: "AssSubtitle | BitmapSubtitle") -> str:
    """Text of a subtitle without markup; FFmpeg's decoders return each as an event of SubStation Alpha."""
    event = getattr(subtitle, "ass", b"").decode("utf-8", "replace").split(",", 8)
    if len(event) < 9:
        return ""
    text = event[8].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ").replace("\\{{}", "{")  # escapes
    return _MARKUP.sub("", text).replace("\0", "").strip()


def _read(file: BinaryIO, data: Data, work: "Callable[[InputContainer], bytes]") -> bytes:
    import av

    demuxer = _check(data)
    if isinstance(data, mmap.mmap):  # its pages would count as this process's memory
        data.close()
    file.seek(0)
    try:
        # Tags are not used, so bytes in them that are not text must not be an error.
        with av.open(file, "r", format=demuxer, options=_OPTIONS, metadata_errors="replace") as video:
            return work(video)
    except av.FFmpegError:
        raise _corrupt() from None


def _check(data: Data) -> str:
    """Check that the file is complete; return FFmpeg's demuxer."""
    if not len(data):
        raise CorruptModality(Modality.VISUAL, "the file is empty")
    if data[:4] == b"\x1a\x45\xdf\xa3":
        check_whole("webm", data, 0, {})
        return "matroska"
    if data[4:8] != b"ftyp":
        raise UnsupportedFormat(Modality.VISUAL, ACCEPTED)
    check_whole("m4a", data, 0, {})
    return "mov"


def _preferred(streams: "tuple[S, ...] | list[S]") -> S:
    from av.stream import Disposition

    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def _blocks(content: bytes) -> Iterator[Block]:
    whole = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1)
    for first in range(0, len(whole), BLOCK_BYTES):
        yield whole[first : first + BLOCK_BYTES]


def _corrupt() -> CorruptModality:
    return CorruptModality(Modality.VISUAL, "the video cannot be read to its end")
