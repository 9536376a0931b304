"""The process that decodes: jobs come in by its standard input, replies leave by its standard output, both a socket.

For: keeping decoders of untrusted files, what they allocate, and the features of what is heard, which cost more than
everything else, out of the serving process. Started by `app.decoding.process` as
`python -m app.decoding.worker`; holds numpy, SciPy and the decoders, not torch; lives for many jobs and ends when
its input does, with the serving process.
Does not know: HTTP, the pool, what becomes of a reply.

A job is two frames, each answered by one: what to do (`{"kind": "started"}`), then the file (`app.decoding.replies`).
"""

import importlib
import io
import os
import resource
import sys
from collections.abc import Mapping
from typing import BinaryIO, Final

from app.decoding.frames import PREFIX, Json, pack, parse
from app.decoding.replies import Decoded, dismantle
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import listen
from model.features.visual.openface import OpenFaceLimits, read_openface

OPEN_FILES: Final = 64


def main() -> None:
    """Run until the input ends. Arguments: bytes of address space, processor seconds a job."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), float(sys.argv[2])
    # `read_sound` loads FFmpeg when it first needs it; here no request should wait for that.
    importlib.import_module("av")
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Decoders print warnings that can quote a file's tags: none of it reaches the socket or, from here on, a log.
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    confine(memory_bytes)
    serve(reader, writer, cpu_seconds)


def confine(memory_bytes: int) -> None:
    """Give up what decoding does not need: memory past a bound, writing files, core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def allow_processor(seconds: float) -> None:
    """Have this process ended (SIGXCPU) once it has used so many more processor seconds, rounded up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(reader: BinaryIO, writer: BinaryIO, cpu_seconds: float) -> None:
    """Answer jobs until `reader` ends."""
    _send(writer, {"kind": "ready"})
    while (job := _receive(reader)) is not None:
        _send(writer, {"kind": "started"})
        content = _receive(reader)
        if content is None:
            return
        allow_processor(cpu_seconds)
        _send(writer, *perform(job[0], content[1]))


def perform(job: Json, content: bytes) -> tuple[Json, bytes]:
    """Do one job. What a file may do wrong becomes a reply; any other exception ends the process."""
    return dismantle(lambda: _decode(job, io.BytesIO(content)))


def _decode(job: Json, file: BinaryIO) -> Decoded:
    limits = job["limits"]
    if not isinstance(limits, Mapping):
        raise TypeError("limits must be an object")
    if job["kind"] == "sound":
        dynamics, silence_dbfs = job["dynamics"], _number(job, "silence_dbfs")
        sound = read_sound(file, SoundLimits(**limits))
        return listen(
            sound.waveform,
            dynamics=dynamics is True,
            silence_dbfs=silence_dbfs,
            conditioned=job["conditioned"] is True,
            encoder=str(job["encoder"]),
            channel=sound.channel,
        )
    columns, min_confidence = job["columns"], _number(job, "min_confidence")
    return read_openface(file, "all" if columns == "all" else "action_units", min_confidence, OpenFaceLimits(**limits))


def _number(job: Json, key: str) -> float:
    value = job[key]
    if not isinstance(value, float):
        raise TypeError(f"{key} must be a number")
    return value


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
