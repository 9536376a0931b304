"""The decoder process: reads jobs from standard input and writes replies to standard output, both one socket."""

# Started by `app.decoding.process` as `python -m app.decoding.worker`, serves many jobs, and ends with its input. It
# loads NumPy, SciPy and the decoders, but not PyTorch. It also computes the audio features, which are smaller than the
# waveform and are the most expensive step before the network.
#
# A job is two frames, each answered by one: what to do (`{"kind": "started"}`), then the file (`encode_reply`).

import contextlib
import importlib
import io
import os
import resource
import sys
from collections.abc import Mapping
from typing import BinaryIO, Final

from app.decoding.protocol import PREFIX, Decoded, Json, encode_reply, pack, parse
from app.decoding.sandbox import confine
from model.errors import EMMRError
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import extract_voice, whisper_encoder
from model.features.visual.openface import read_openface
from model.features.visual.table import OpenFaceLimits

# Imported by `read_sound`, by PyAV and by the codec registry on first use.
LAZY_MODULES: Final = (
    "av",
    "av.subtitles.stream",
    *(f"encodings.{name}" for name in ("ascii", "cp1252", "latin_1", "utf_8_sig")),
    *(f"encodings.utf_{bits}{order}" for bits in (16, 32) for order in ("", "_be", "_le")),
)


def main() -> None:
    """Run until the input ends. Arguments: bytes of address space, processor seconds per job."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), float(sys.argv[2])
    load_everything()
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    # Decoders print warnings that can quote a file's tags. These must reach neither the socket nor a log.
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    serve(reader, writer, cpu_seconds, confine(memory_bytes))


def load_everything() -> None:
    """Load what decoding uses, since a confined process can open no file."""
    for module in LAZY_MODULES:
        importlib.import_module(module)
    with contextlib.suppress(EMMRError):  # without it, weights that need it cannot be loaded either
        whisper_encoder()


def limit_processor_time(seconds: float) -> None:
    """End this process by SIGXCPU once it has used that many more processor seconds, rounded up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(reader: BinaryIO, writer: BinaryIO, cpu_seconds: float, sandbox: Mapping[str, bool]) -> None:
    """Process jobs until `reader` ends. `sandbox`, the result of `confine`, is reported first."""
    _send(writer, {"kind": "ready", "sandbox": sandbox})
    while (job := _receive(reader)) is not None:
        _send(writer, {"kind": "started"})
        file = _receive(reader)
        if file is None:
            return
        limit_processor_time(cpu_seconds)
        _send(writer, *perform(job[0], file[1]))


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
