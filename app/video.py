"""A video file → its parts: sound and subtitles by a decoder process, the face by an installed OpenFace."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from app.decoding.stream import stream
from app.errors import CorruptPart, UnsupportedPart
from app.settings import Settings
from model.errors import EmptyModality, ModalityError, UnsupportedFormat

PROGRAM: Final = "FeatureExtraction"
"""OpenFace's program for videos of one face."""
HOW_TO_GET_OPENFACE: Final = (
    "install OpenFace 2 and give the path of its program FeatureExtraction as EMMR_OPENFACE, or give that of "
    "docker/openface, which runs it in a container"
)
TERM_SECONDS: Final = 10.0  # from SIGTERM to SIGKILL
FACE_NOT_READ: Final = "face_not_read"


@dataclass(slots=True)
class VideoParts:
    """The parts of a video as files of a temporary folder; None for what the video does not have.

    Args:
        audio: a sound file, copied from the video without coding it anew.
        transcript: the subtitles as Whisper writes a transcript, JSON.
        openface: an OpenFace CSV of action units.
        warnings: code → detail: `face_not_read`, `several_sounds`, `several_subtitles`.
    """

    audio: Path | None = None
    transcript: Path | None = None
    openface: Path | None = None
    warnings: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str | None:
        """The text of all subtitles; None without any."""
        if self.transcript is None:
            return None
        segments = json.loads(self.transcript.read_bytes())["segments"]
        return " ".join(str(segment["text"]) for segment in segments).replace("\n", " ")


@contextmanager
def open_video(path: Path, settings: Settings, *, face: bool = True) -> Iterator[VideoParts]:
    """Take a video apart; its parts are deleted at the end of the context.

    A face that cannot be read is a warning, whatever the reason.

    Args:
        path: MP4, QuickTime, Matroska or WebM.
        settings: where OpenFace is, and limits.
        face: whether to run OpenFace.

    Raises:
        UnsupportedPart: a container, or a codec of the sound, that is not accepted.
        CorruptPart: not readable to its end; may name the place.
        DecoderFailed, NoDecoder: decoding failed, for lack of time or memory too.
        OSError: the file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="emmr-video-") as folder, path.open("rb") as file:
        parts = VideoParts()
        parts.audio = _take("video_sound", file, Path(folder, "sound"), settings, parts.warnings)
        parts.transcript = _take("video_subtitles", file, Path(folder, "transcript.json"), settings, parts.warnings)
        no_picture = parts.warnings.pop("no_picture", None)
        if face and no_picture is not None:
            parts.warnings[FACE_NOT_READ] = f"The face was not read. {no_picture}"
        elif face:
            try:
                parts.openface = run_openface(path, Path(folder, "openface"), settings)
            except OpenFaceFailed as error:
                parts.warnings[FACE_NOT_READ] = f"The face was not read: {error}."
        yield parts


def _take(kind: str, file: IO[bytes], target: Path, settings: Settings, warnings: dict[str, str]) -> Path | None:
    """Write what a job of a decoder process returns to `target`; None if the video has none of it."""
    with target.open("wb") as output:

        def write(_: int, content: bytearray) -> None:
            output.write(content)

        work = stream(
            {"kind": kind},
            file,
            "video",
            memory_bytes=settings.decode_memory_bytes + os.fstat(file.fileno()).st_size,  # the file is mapped
            seconds=settings.video_timeout,
            on_block=write,
        )
        try:
            warnings |= asyncio.run(work)
        except EmptyModality:
            return None
        except ModalityError as error:
            kind_of_error = UnsupportedPart if isinstance(error, UnsupportedFormat) else CorruptPart
            raise kind_of_error(error.detail, part="video", place=error.place) from None
    return target


class OpenFaceFailed(Exception):
    """OpenFace is not there, or wrote no file."""


def run_openface(video: Path, folder: Path, settings: Settings) -> Path:
    """Run OpenFace's program on a video.

    Args:
        video: the file.
        folder: where OpenFace writes; created.
        settings: the program, and its time limit.

    Returns:
        The CSV that it wrote, of action units.

    Raises:
        OpenFaceFailed: it is not there, ended with an error or by a signal, ran out of time, or wrote no CSV.
    """
    program = settings.openface or shutil.which(PROGRAM)
    if program is None:
        raise OpenFaceFailed(f"{PROGRAM} is not on the path; {HOW_TO_GET_OPENFACE}")
    folder.mkdir()
    command = [os.fspath(program), "-f", os.fspath(video.resolve()), "-out_dir", os.fspath(folder), "-aus"]
    null = subprocess.DEVNULL
    try:
        # Its own session: a wrapper's children end with it.
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    except OSError as error:
        raise OpenFaceFailed(f"{program} cannot be started: {error.strerror}; {HOW_TO_GET_OPENFACE}") from None
    try:
        status = process.wait(settings.openface_timeout)
    except subprocess.TimeoutExpired:
        detail = f"OpenFace did not end within {settings.openface_timeout:g} s (EMMR_OPENFACE_TIMEOUT)"
        raise OpenFaceFailed(detail) from None
    finally:
        if process.poll() is None:
            _end(process)
    if status < 0:
        raise OpenFaceFailed(f"OpenFace was ended by {signal.Signals(-status).name}")
    if status:
        raise OpenFaceFailed(f"OpenFace ended with status {status}")
    written = sorted(folder.glob("*.csv"))
    if not written:
        raise OpenFaceFailed("OpenFace wrote no CSV")
    return written[0]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children; SIGTERM comes first, since Docker's client ends its container then."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(TERM_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
