import io
import json
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app.recordings import html
from app.recordings.html import embedded_audio, render_timeline
from model.errors import CorruptModality, UnsupportedFormat
from tests.support.sound import encode, voice_like

ASSETS = files("app.web").joinpath("timeline")
HOSTILE = "</script><script>alert(1)</script><!--<script><img src=x onerror=alert(2)>\u2028${policy} $lines"
LINES: list[dict[str, Any]] = [
    {
        "type": "recording",
        "duration": 2.0,
        "model": {"name": HOSTILE, "version": "0", "classes": ["negative", "positive"]},
    },
    {"type": "utterance", "index": 0, "start": 0.0, "end": 2.0, "speaker": HOSTILE, "text": HOSTILE},
    {"type": "summary", "utterances": 1, "gaps": 0},
]


class Document(HTMLParser):
    """The tags with their attributes, and the content of each script and style element."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[str] = []
        self._inside = False
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag in {"script", "style"}
        if self._inside:
            self.contents.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.contents[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_content_stays_data_whatever_it_holds() -> None:
    document = Document(render_timeline(LINES))
    assert [attributes.get("id") for attributes in document.named("script")] == [
        "timeline-lines",
        "timeline-audio",
        None,
    ]
    assert not document.named("img")
    assert json.loads(document.contents[1]) == LINES


def test_the_policy_allows_the_script_and_style_of_the_file_alone() -> None:
    document = Document(render_timeline(LINES, b"sound", "audio/wav"))
    (policy,) = (meta["content"] for meta in document.named("meta") if meta.get("http-equiv"))
    assert policy is not None
    allowed = dict(directive.split(" ", 1) for directive in policy.split("; "))
    style, _, _, script = document.contents
    for name, content in (("style-src", style), ("script-src", script)):
        assert allowed[name] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
    assert allowed["default-src"] == "'none'"
    assert allowed["media-src"] == "blob:"


def test_the_file_refers_to_nothing_outside_it() -> None:
    page = render_timeline(LINES[2:])
    assert not re.search(r"""\s(?:src|href|action|style|on\w+)=|@import|url\(|fetch\(|XMLHttpRequest|import\(""", page)


def test_the_sound_is_embedded_with_its_type() -> None:
    document = Document(render_timeline(LINES, b"\x00\xffsound", "audio/webm"))
    assert document.named("script")[1]["data-media-type"] == "audio/webm"
    assert b64decode(document.contents[2]) == b"\x00\xffsound"
    assert Document(render_timeline(LINES)).contents[2] == ""


def test_script_and_style_are_small() -> None:
    sizes = {name: len(ASSETS.joinpath(name).read_bytes()) for name in ("timeline.js", "timeline.css")}
    assert sum(sizes.values()) <= 60 * 2**10


def test_the_script_writes_no_markup() -> None:
    script = ASSETS.joinpath("timeline.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_every_color_of_the_script_is_in_both_schemes() -> None:
    style = ASSETS.joinpath("timeline.css").read_text(encoding="utf-8")
    light, dark = (set(re.findall(r"(--[\w-]+):", part)) for part in style.split("@media (prefers-color-scheme: dark)"))
    assert light == dark
    assert {"--text", "--page", "--line", "--accent", "--key", "--negative", "--neutral", "--positive"} <= light


@pytest.mark.parametrize(
    ("container", "media_type"), [("wav", "audio/wav"), ("m4a", "audio/mp4"), ("mp3", "audio/mpeg")]
)
def test_a_small_sound_file_is_embedded_as_it_is(container: Any, media_type: str, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(encode(voice_like(0.5), container))
    assert embedded_audio(path) == (path.read_bytes(), media_type)


def test_a_large_sound_file_becomes_opus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(encode(np.stack([voice_like(3.0)] * 2, axis=1), "wav"))
    monkeypatch.setattr(html, "MAX_ORIGINAL_BYTES", 1_000)
    coded, media_type = embedded_audio(path)
    assert media_type == "audio/webm"
    assert len(coded) < 3.0 * 1.5 * html.OPUS_BITS_PER_SECOND / 8
    with av.open(io.BytesIO(coded), "r") as sound:
        (stream,) = sound.streams.audio
        assert stream.codec_context.name == "opus"
        assert sum(frame.samples / frame.rate for frame in sound.decode(stream)) == pytest.approx(3.0, abs=0.05)


def test_a_file_that_is_no_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sound"
    path.write_bytes(b"no sound at all" * 100)
    with pytest.raises(UnsupportedFormat) as small:
        embedded_audio(path)
    assert small.value.modality == "audio"
    monkeypatch.setattr(html, "MAX_ORIGINAL_BYTES", 10)
    with pytest.raises(CorruptModality) as large:
        embedded_audio(path)
    assert large.value.detail == "the file cannot be decoded to its end"
