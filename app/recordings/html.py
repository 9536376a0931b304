"""A recording's timeline as one HTML file: style sheet, script, lines and sound are in it, and nothing is fetched."""

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from model.errors import CorruptModality
from model.modality import Modality

MAX_ORIGINAL_BYTES: Final = 8 * 2**20
"""Of a sound file that is embedded as it is; a larger one is coded anew."""
OPUS_BITS_PER_SECOND: Final = 24_000  # speech, mono: 10.3 MiB an hour
OPUS_RATE: Final = 48_000
_PLAYABLE: Final[Mapping[str, str]] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "webm": "audio/webm",
    "m4a": "audio/mp4",
}
"""Container → media type."""


def render_timeline(lines: Sequence[Mapping[str, Any]], audio: bytes | None = None, media_type: str = "") -> str:
    """Build the page.

    Args:
        lines: objects of the timeline's NDJSON: the recording, utterances and gaps, the summary.
        audio: a sound file that browsers play, whose time 0 is the recording's; None for a page without sound.
        media_type: of `audio`, as `embedded_audio` returns it.

    Returns:
        An HTML document. Its content security policy allows the script and the style sheet in it by their hashes, the
        embedded sound, and nothing else.
    """
    style, script = _asset("timeline.css"), _asset("timeline.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_source(script)}",
            f"style-src {_hash_source(style)}",
            "media-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return Template(_asset("timeline.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        lines=_script_data(lines),
        audio="" if audio is None else b64encode(audio).decode("ascii"),
        media_type=media_type,
    )


def embedded_audio(path: Path) -> tuple[bytes, str]:
    """Return the sound to embed in a page, and its media type.

    A file of at most `MAX_ORIGINAL_BYTES` is returned as it is. A larger one is decoded, mixed down to one channel and
    coded as Opus in WebM at `OPUS_BITS_PER_SECOND`.

    Raises:
        ModalityError: not a sound file that is accepted, or not readable to its end.
        OSError: the file cannot be read.
    """
    from model.features.audio.containers import sniff

    with path.open("rb") as file:
        if path.stat().st_size > MAX_ORIGINAL_BYTES:
            return _as_opus(path), "audio/webm"
        data = file.read()
    container, _ = sniff(data)
    return data, _PLAYABLE[container]


def _as_opus(path: Path) -> bytes:
    import av

    coded = io.BytesIO()
    try:
        with av.open(str(path), metadata_errors="replace") as source, av.open(coded, "w", format="webm") as output:
            stream = output.add_stream("libopus", rate=OPUS_RATE, layout="mono", options={"application": "voip"})
            stream.bit_rate = OPUS_BITS_PER_SECOND
            resampler = av.AudioResampler(format="s16", layout="mono", rate=OPUS_RATE)
            for frame in source.decode(audio=0):
                for resampled in resampler.resample(frame):
                    output.mux(stream.encode(resampled))
            for rest in resampler.resample(None):
                output.mux(stream.encode(rest))
            output.mux(stream.encode(None))
    except (av.FFmpegError, IndexError):  # IndexError: no sound stream
        raise CorruptModality(Modality.AUDIO, "the file cannot be decoded to its end") from None
    return coded.getvalue()


def _asset(name: str) -> str:
    return files("app.web").joinpath("timeline", name).read_text(encoding="utf-8")


def _hash_source(content: str) -> str:
    """Source expression of an inline script or style sheet (Content Security Policy, section 2.3.1)."""
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode('ascii')}'"


def _script_data(value: object) -> str:
    """JSON for the content of a `script` element, which ends at the first `</script` and may not hold `<!--`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
