"""The decoder process: reads jobs from standard input and writes replies to standard output, both one socket."""

# Started by `app.decoding.process` as `python -m app.decoding.worker`, serves many jobs, and ends with its input. It
# loads NumPy, SciPy and the decoders, but not PyTorch. It also computes the audio features, which are smaller than the
# waveform and are the most expensive step before the network.
#
# A job is two frames, each answered by one: what to do (`{"kind": "started"}`), then the file (`encode_reply`).
#
# A process that is given a file's descriptor serves one job on that file, however long it is: what to do is answered by
# `{"kind": "started"}`, then by a frame for each block, and by one frame at the end (`done`, or an error).

import contextlib
import importlib
import io
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final

import numpy.typing as npt

from app.decoding.protocol import PREFIX, Decoded, Json, encode_error, encode_reply, pack, parse
from app.decoding.sandbox import confine
from app.linux import keep_freed_memory
from model.errors import EMMRError, ModalityError
from model.features.audio.containers import Data
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import extract_voice, whisper_encoder
from model.features.audio.streaming import map_file, stream_sound
from model.features.video import video_sound, video_subtitles
from model.features.visual.frame_index import index_frames
from model.features.visual.openface import read_openface
from model.features.visual.table import OpenFaceLimits

KEPT_BYTES: Final = 64 * 2**20  # of freed memory
# Imported by `read_sound`, by PyAV and by the codec registry on first use.
LAZY_MODULES: Final = (
    "av",
    *(f"av.subtitles.{name}" for name in ("codeccontext", "stream", "subtitle")),
    *(f"encodings.{name}" for name in ("ascii", "cp1252", "latin_1", "utf_8_sig")),
    *(f"encodings.utf_{bits}{order}" for bits in (16, 32) for order in ("", "_be", "_le")),
    "scipy.fft",
    "scipy.sparse",
)


def main() -> None:
    """Run until the input ends. Arguments: bytes of address space, processor seconds per job, perhaps a descriptor."""
    memory_bytes, cpu_seconds, *descriptors = int(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:])
    files = [os.fdopen(descriptor, "rb") for descriptor in descriptors]
    mappings = [map_file(file) for file in files]
    load_everything(voices=not files)
    keep_freed_memory(KEPT_BYTES)
    reader, writer = take_streams()
    if files:
        stream(reader, writer, cpu_seconds, confine(memory_bytes), files[0], mappings[0])
    else:
        serve(reader, writer, cpu_seconds, confine(memory_bytes), perform)


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output under other descriptors, and connect the standard streams to nothing."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    # Decoders print warnings that can quote a file's tags. These must reach neither the socket nor a log.
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    return reader, writer


def load_everything(*, voices: bool = True) -> None:
    """Load what decoding uses, since a confined process can open no file; `voices`: also what computes features."""
    for module in LAZY_MODULES:
        importlib.import_module(module)
    if not voices:
        return
    with contextlib.suppress(EMMRError):  # without it, weights that need it cannot be loaded either
        whisper_encoder()


def limit_processor_time(seconds: float) -> None:
    """End this process by SIGXCPU once it has used that many more processor seconds, rounded up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(
    reader: BinaryIO,
    writer: BinaryIO,
    cpu_seconds: float,
    sandbox: Mapping[str, bool],
    perform: Callable[[Json, bytes], tuple[Json, bytes]],
) -> None:
    """Process jobs until `reader` ends. `sandbox`, the result of `confine`, is reported first."""
    _send(writer, {"kind": "ready", "sandbox": sandbox})
    while (job := _receive(reader)) is not None:
        _send(writer, {"kind": "started"})
        file = _receive(reader)
        if file is None:
            return
        limit_processor_time(cpu_seconds)
        _send(writer, *perform(job[0], file[1]))


def stream(
    reader: BinaryIO, writer: BinaryIO, cpu_seconds: float, sandbox: Mapping[str, bool], file: BinaryIO, data: Data
) -> None:
    """Process one job on a file, which is read block by block, and its mapping. `sandbox` as for `serve`."""
    _send(writer, {"kind": "ready", "sandbox": sandbox})
    if (job := _receive(reader)) is None:
        return
    _send(writer, {"kind": "started"})
    limit_processor_time(cpu_seconds)
    warnings: dict[str, str] = {}
    try:
        for block in blocks(job[0], file, data, warnings):
            _send(writer, {"kind": "block", "columns": block.shape[1]}, block.tobytes())
    except (ModalityError, MemoryError) as error:
        _send(writer, encode_error(error))
    else:
        _send(writer, {"kind": "done", "warnings": warnings})


def blocks(job: Json, file: BinaryIO, data: Data, warnings: dict[str, str]) -> Iterator[npt.NDArray[Any]]:
    """Yield the blocks of a long file as the job says; raises a `ModalityError` if it is not accepted."""
    if job["kind"] == "sound":
        return stream_sound(file, data, SoundLimits(**job["limits"]), warnings)
    if job["kind"] == "video_sound":
        return video_sound(file, data, warnings)
    if job["kind"] == "video_subtitles":
        return video_subtitles(file, data, warnings)
    return index_frames(file, limits=OpenFaceLimits(**job["limits"]), **job["config"])


def perform(job: Json, content: bytes) -> tuple[Json, bytes]:
    """Do one job. Errors of the file become a reply; any other exception ends the process."""
    return encode_reply(lambda: decode(job, io.BytesIO(content)))


def decode(job: Json, file: BinaryIO) -> Decoded:
    """Decode a file as the job says; raises a `ModalityError` if it is not accepted."""
    if job["kind"] == "audio":
        waveform, warnings = read_sound(file, SoundLimits(**job["limits"]))
        return extract_voice(waveform, warnings=warnings, **job["config"])
    return read_openface(file, limits=OpenFaceLimits(**job["limits"]), **job["config"])


def _receive(reader: BinaryIO) -> tuple[Json, bytes] | None:
    prefix = reader.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    message_bytes, content_bytes = PREFIX.unpack(prefix)
    message, content = reader.read(message_bytes), reader.read(content_bytes)
    return (parse(message), content) if len(content) == content_bytes else None


def _send(writer: BinaryIO, message: Json, content: bytes = b"") -> None:
    writer.write(pack(message, len(content)))
    writer.write(content)
    writer.flush()


if __name__ == "__main__":
    main()
