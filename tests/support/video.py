"""Small videos with a sound and subtitles, made by FFmpeg."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet

from model.types import FloatArray
from tests.support.sound import voice_like

RATE: Final = 48_000
MILLISECOND: Final = Fraction(1, 1000)
FRAME: Final = Fraction(1, 10)  # seconds
CUES: Final = ((0.1, 0.5, "What a <i>lovely</i>\nsurprise!"), (0.6, 0.9, "{\\an8}Thank you."))
_HEADER: Final = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


def make_video(
    container: str = "mp4",
    *,
    sound: str | None = "aac",
    subtitles: Sequence[str] = ("mov_text",),
    cues: Sequence[tuple[float, float, str]] = CUES,
    languages: Sequence[str] = (),
    waveform: FloatArray | None = None,
    pictures: bool = True,
    sound_start: float = 0.0,
) -> bytes:
    """Encode a video of grey pictures.

    Args:
        container: FFmpeg's muxer: `mp4`, `mov`, `matroska`, `webm`.
        sound: FFmpeg's encoder; None for a video without sound.
        subtitles: FFmpeg's encoder of each stream of subtitles.
        cues: start, end and text of each cue; the same in every stream but for the stream's number after it, from the
            second stream on.
        languages: of the streams of subtitles, where given.
        waveform: `(S,)` at `RATE`; a second of synthetic voice if not given.
        pictures: whether there is a stream of pictures.
        sound_start: seconds from the first picture to the first sample.
    """
    waveform = voice_like(1.0, RATE) if waveform is None else waveform
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        picture_stream = _picture_stream(output, container) if pictures else None
        sound_stream = None if sound is None else _sound_stream(output, sound)
        subtitle_streams = [_subtitle_stream(output, codec) for codec in subtitles]
        for stream, language in zip(subtitle_streams, languages, strict=False):
            stream.metadata["language"] = language
        output.start_encoding()
        if picture_stream is not None:
            for number in range(max(1, round(len(waveform) / RATE / FRAME))):
                picture = av.VideoFrame(16, 16, "yuv420p")
                picture.pts, picture.time_base = number, FRAME
                output.mux(picture_stream.encode(picture))
            output.mux(picture_stream.encode(None))
        if sound_stream is not None:
            for frame in _sound_frames(waveform, sound_stream):
                assert frame.pts is not None
                frame.pts += round(sound_start * RATE)
                output.mux(sound_stream.encode(frame))
            output.mux(sound_stream.encode(None))
        for number, stream in enumerate(subtitle_streams):
            for index, (start, end, text) in enumerate(cues):
                words = (text + (f" {number}" if number else "")).replace("\n", "\\N")
                begin, length = round(start * 1000), round((end - start) * 1000)
                event = SubtitleSet.create(f"{index},0,Default,,0,0,0,,{words}".encode(), 0, length, begin)
                packet = stream.codec_context.encode_subtitle(event)
                packet.stream, packet.time_base = stream, MILLISECOND
                packet.pts = packet.dts = begin
                packet.duration = length
                output.mux(packet)
    return file.getvalue()


def _picture_stream(output: OutputContainer, container: str) -> av.VideoStream:
    stream = output.add_stream("libvpx" if container == "webm" else "mpeg4", rate=10)
    assert isinstance(stream, av.VideoStream)
    stream.width = stream.height = 16
    stream.pix_fmt = "yuv420p"
    return stream


def _sound_stream(output: OutputContainer, codec: str) -> av.AudioStream:
    stream = output.add_stream(codec, rate=RATE)
    assert isinstance(stream, av.AudioStream)
    stream.layout = "mono"
    return stream


def _subtitle_stream(output: OutputContainer, codec: str) -> SubtitleStream:
    stream = output.add_stream(codec)
    assert isinstance(stream, SubtitleStream)
    stream.codec_context.subtitle_header, stream.codec_context.time_base = _HEADER, MILLISECOND
    return stream


def _sound_frames(waveform: FloatArray, stream: av.AudioStream) -> list[av.AudioFrame]:
    whole = av.AudioFrame.from_ndarray(waveform.reshape(1, -1), "flt", "mono")
    whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE, frame_size=stream.frame_size)
    return [*resampler.resample(whole), *resampler.resample(None)]
