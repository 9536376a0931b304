"""One target under coverage-guided fuzzing; the process ends at its first finding.

Arguments: the target, a file for the current input, and libFuzzer's options and folders.
"""

# The decoders are not instrumented: coverage is that of this project's Python and of the multipart parser. Checksums of
# changed Ogg pages are corrected, so that they reach a decoder.

import importlib
import mmap
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["app.uploads", "model.features", "python_multipart"]):
    from model.features.audio.containers import _ogg_crc
    from tools.fuzz.targets import LENGTH, TARGETS, TIMEOUT

# `read_sound` loads FFmpeg on first use; that time must not count for an input.
importlib.import_module("av")

PAGE: Final = b"OggS"


def with_checksums(data: bytes) -> bytes:
    """Return an Ogg file with the correct checksum on every page; other data unchanged."""
    if not data.startswith(PAGE):
        return data
    pages, position = bytearray(data), 0
    while pages[position : position + 4] == PAGE and position + 27 <= len(pages):
        body = position + 27 + pages[position + 26]
        end = body + sum(pages[position + 27 : body])
        if end > len(pages):
            break
        pages[position + 22 : position + 26] = bytes(4)
        pages[position + 22 : position + 26] = _ogg_crc(bytes(pages[position:end])).to_bytes(4, "little")
        position = end
    return bytes(pages)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return libFuzzer's own mutation; three times in four with correct checksums."""
    changed: bytes = atheris.Mutate(data, max_size)
    return with_checksums(changed) if seed % 4 else changed


def with_time_limit(read: Callable[[bytes], None], current: mmap.mmap) -> Callable[[bytes], None]:
    """Return `read`, with the current input in `current` and SIGPROF for an input that takes too long.

    The limit is processor time, so that a busy machine is no finding. libFuzzer's own limit is wall-clock time, and its
    handler can deadlock, since it allocates memory.
    """

    def read_with_limit(data: bytes) -> None:
        current[: LENGTH.size + len(data)] = LENGTH.pack(len(data)) + data
        signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
        read(data)

    return read_with_limit


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, current = sys.argv[1], Path(sys.argv[2])
    arguments = [sys.argv[0], *sys.argv[3:]]
    with current.open("r+b") as file:
        read = with_time_limit(TARGETS[name], mmap.mmap(file.fileno(), 0))
    if name == "audio":
        atheris.Setup(arguments, read, custom_mutator=mutate)
    else:
        atheris.Setup(arguments, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
