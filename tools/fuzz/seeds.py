"""Seed inputs of the fuzzing targets, generated, and inputs in `corpus/<target>/` that were findings."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.forms import GOOD, body, part
from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, encode, voice_like, wav_header

CORPUS: Final = Path(__file__).with_name("corpus")
SECONDS: Final = 0.2  # of sound in a seed: small inputs are mutated and read faster


def seeds(target: str) -> dict[str, bytes]:
    """Return name → input of a target."""
    generate = {
        "audio": _sounds,
        "openface": _tables,
        "frames": _tables,
        "transcript": _transcripts,
        "form": _forms,
        "json": _json_bodies,
    }[target]
    return dict(generate()) | {path.name: path.read_bytes() for path in sorted((CORPUS / target).glob("*"))}


def dictionary(target: str) -> list[bytes]:
    """Return tokens for the fuzzer's mutations, which it would take long to find by itself."""
    return {
        "audio": [
            b"RIFF", b"WAVE", b"fmt ", b"data", b"fLaC", b"OggS", b"OpusHead", b"OpusTags", b"\x01vorbis", b"ID3",
            b"Xing", b"Info", b"\xff\xfb\x90\x64", b"\x1a\x45\xdf\xa3", b"\x1fC\xb6u", b"\x18S\x80g", b"ftypM4A ",
            b"moov", b"mdat", b"stsz", b"stts", b"esds", b"\xff\xff\xff\xff",
        ],
        "openface": [
            b"nan", b"-nan(ind)", b"1e999", b"1_0", b"-inf", b"0x1", b"success", b"confidence", b"face_id", b"\r\n",
            b", ", b";", b"\t", b'"', b"\xff\xfe",
        ],
        "frames": [b"nan", b"1e999", b"-1", b"0.033", b"\r\n", b", ", b";", b"\t", b'"', b"\xff\xfe"],
        "transcript": [
            b"WEBVTT", b"NOTE", b" --> ", b"00:00:01,000", b"00:01.000", b"-00:00:01,0", b"<v Anna>", b"</i>",
            b"{\\an8}", b"[SPEAKER_00]: ", b"start,end,text,speaker", b'{"segments": [', b'{"start": ', b', "end": ',
            b', "text": "', b"1e999", b"NaN", b"\\ud800", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc2\x85",
        ],
        "form": [
            b"--frontier", b"\r\n--frontier\r\n", b"\r\n--frontier--", b'Content-Disposition: form-data; name="',
            b'name="text"', b'name="audio"', b'name="openface"', b"Content-Type: ", b"filename*=UTF-8''", b"text=",
            b"Content-Transfer-Encoding: base64", b"%00", b"\\\"",
        ],
        "json": [
            b'{"text":"', b'","audio":"', b'","openface":"', b'{"items":[{"id":"', b'"},{"id":"', b"null", b'"}]}',
            b"\\u0000", b"\\ud83d\\ude42", b"\\udcff", b"\\/", b"==", b"\\u003d", b"\xc3\xa9",
        ],
    }[target]  # fmt: skip


def _sounds() -> Iterator[tuple[str, bytes]]:
    for container in CONTAINERS:
        rate = 48_000 if container == "webm" else 16_000
        whole = encode(voice_like(SECONDS, rate), container, rate)
        yield container, whole
        yield f"{container} cut", whole[: len(whole) // 2]
    for subtype in ("PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "GSM610"):
        yield f"wav {subtype}", encode(voice_like(SECONDS, 8_000), "wav", 8_000, subtype)
    yield "wav of 1 Hz", wav_header(1, 1, 64) + bytes(64)
    yield "wav of 1024 channels", wav_header(16_000, 1024, 4096) + bytes(4096)
    # A header with 2³⁶ − 1 samples of 24 bits in 8 channels.
    forged = b"fLaC\0\0\0\x22" + b"\x10\0" * 2 + bytes(6) + bytes.fromhex("0bb80f7fffffffff") + bytes(16) + bytes(90)
    yield "flac forged", forged


def _tables() -> Iterator[tuple[str, bytes]]:
    """Yield a byte that selects whether a header is prepended, followed by the file or its rows."""
    rows = simulate_openface_csv(2, "action_units").partition(b"\n")[2]
    yield "rows", b"\x00" + rows
    yield "rows of two faces", b"\x00" + simulate_openface_csv(1, "action_units", faces=(0, 1)).partition(b"\n")[2]
    for name, whole in {
        "sequence": simulate_openface_csv(3, "action_units"),
        "image": simulate_openface_csv(2, "action_units", mode="image"),
        "windows": simulate_openface_csv(2, "action_units", newline="\r\n", spaces=False),
        "two faces": simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.9, 0.6)),
        "no face": simulate_openface_csv(2, "action_units", success=0),
        "old": simulate_openface_csv(2, "action_units", face_id=False),
        "header alone": simulate_openface_csv(0, "action_units"),
        "semicolons": simulate_openface_csv(2, "action_units").replace(b",", b";").replace(b".", b","),
        "UTF-16": simulate_openface_csv(2, "action_units").decode().encode("utf-16"),
        "commas": b"," * 2000,
    }.items():
        yield name, b"\xff" + whole


def _transcripts() -> Iterator[tuple[str, bytes]]:
    cues = "1\n00:00:00,500 --> 00:00:02,000\nHello.\n\n2\n00:00:02,000 --> 00:00:03,250\n<i>Two</i>\nlines\n"
    yield "srt", cues.encode()
    yield "srt in UTF-16", cues.encode("utf-16")
    yield "srt without blank lines", cues.replace("\n\n", "\n").encode()
    yield "srt reversed", b"1\n00:00:02,000 --> 00:00:01,000\nHi.\n"
    yield "webvtt", b"WEBVTT\n\nNOTE a\n\none\n00:00.500 --> 00:02.000 align:start\n<v Anna>Hello &amp; <i>you</i>.\n"
    yield "whisper", b'{"segments": [{"start": 0, "end": 1.5, "text": " Hi.", "speaker": "A"}], "language": "en"}'
    yield "csv", b'start,end,text,speaker\n0,1.5,"Hi, you",Anna\n00:00:02.000,3,Bye.,\n'
    yield "csv with semicolons", b"start;end;text\n0;1.5;Hi.\n"
    yield "words", b"Once upon a time.\n"


def _forms() -> Iterator[tuple[str, bytes]]:
    """Yield a byte that selects content type and chunk size, followed by the body."""
    for first in (0, 1, 2, 7 * 2, 254):
        yield f"whole {first}", bytes([first]) + GOOD
    yield "urlencoded", b"\x07text=What+a+day%21"
    yield "cut", b"\x04" + GOOD[:-6]
    yield "twice", b"\x04" + body(part("text", b"a"), part("text", b"b"))
    yield "unknown", b"\x04" + body(part("video", b"a"))
    yield (
        "headers",
        b"\x06"
        + body(
            part(
                "text", b"a", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", filename='"'
            )
        ),
    )
    yield "epilogue", b"\x02" + body(part("text", b"a")) + b"\r\n \t"


def _json_bodies() -> Iterator[tuple[str, bytes]]:
    """Yield a byte that selects reader and chunk size, followed by the body."""
    encoded = base64.b64encode(bytes(range(40))).decode()
    whole = {"text": 'é 🙂 "\\/\n', "audio": encoded, "openface": None}
    items = [{"id": "a", **whole}, {"id": "é", "openface": encoded}, {"id": "b", "audio": "no base64"}, {"id": "c"}]
    for first in (0, 2, 14, 254):
        yield f"object {first}", bytes([first]) + json.dumps(whole, ensure_ascii=first == 2).encode()
        yield f"items {first}", bytes([first + 1]) + json.dumps({"items": items}, ensure_ascii=first == 2).encode()
    yield "escapes", b'\x04{"audio":"\\/\\u002B\\u003d\\u003d","te\\u0078t":"\\ud83d\\ude42"}'
    yield "cut", b'\x04{"text":"a"'
    yield "twice", b'\x04{"text":"a","text":"b"}'
    yield "deep", b'\x04{"text":' + b"[" * 100
    yield "surrogate", b'\x04{"text":"\\udcc3\\udca9"}'
