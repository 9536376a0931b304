"""The decoder process: reads jobs from standard input and writes replies to standard output, both one socket."""

# Started by `app.decoding.process` as `python -m app.decoding.worker`, serves many jobs, and ends with its input. It
# loads NumPy, SciPy and the decoders, but not PyTorch. It also computes the audio features, which are smaller than the
# waveform and are the most expensive step before the network.
#
# A job is two frames, each answered by one: what to do (`{"kind": "started"}`), then the file (`encode_reply`).

import importlib
import io
import os
import resource
import sys
from typing import BinaryIO, Final

from app.decoding.protocol import PREFIX, Decoded, Json, encode_reply, pack, parse
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import extract_voice
from model.features.visual.openface import OpenFaceLimits, read_openface

OPEN_FILES: Final = 64


def main() -> None:
    """Run until the input ends. Arguments: bytes of address space, processor seconds per job."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), float(sys.argv[2])
    importlib.import_module("av")  # `read_sound` imports it on first use; no request should wait for that
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    # Decoders print warnings that can quote a file's tags. These must reach neither the socket nor a log.
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    confine(memory_bytes)
    serve(reader, writer, cpu_seconds)


def confine(memory_bytes: int) -> None:
    """Restrict this process: a bound on its address space, no writing to files, no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def limit_processor_time(seconds: float) -> None:
    """End this process by SIGXCPU once it has used that many more processor seconds, rounded up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(reader: BinaryIO, writer: BinaryIO, cpu_seconds: float) -> None:
    """Process jobs until `reader` ends."""
    _send(writer, {"kind": "ready"})
    while (job := _receive(reader)) is not None:
        _send(writer, {"kind": "started"})
        file = _receive(reader)
        if file is None:
            return
        limit_processor_time(cpu_seconds)
        _send(writer, *perform(job[0], file[1]))


def perform(job: Json, content: bytes) -> tuple[Json, bytes]:
    """Do one job. Errors of the file become a reply; any other exception ends the process."""
    return encode_reply(lambda: _decode(job, io.BytesIO(content)))


def _decode(job: Json, file: BinaryIO) -> Decoded:
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
