"""One target under coverage-guided fuzzing: the process that finds, and ends at the first finding.

For: `tools.fuzz.guide`, which starts it again. Its arguments: the target, a file that holds the input at hand, and
libFuzzer's options and folders.
Does not know: seeds and time; libFuzzer's options say both.

The decoders themselves are not instrumented: what guides is this project's Python and the multipart parser's. So that a
changed Ogg page gets as far as a decoder, its checksum is made right again.
"""

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

# `read_sound` loads FFmpeg when it first needs it; how long a disk takes for that says nothing of an input.
importlib.import_module("av")

PAGE: Final = b"OggS"


def with_checksums(data: bytes) -> bytes:
    """An Ogg file whose pages match their checksums; anything else as it is."""
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
    """LibFuzzer's own mutation; three times in four with the checksums made right."""
    changed: bytes = atheris.Mutate(data, max_size)
    return with_checksums(changed) if seed % 4 else changed


def watched(read: Callable[[bytes], None], current: mmap.mmap) -> Callable[[bytes], None]:
    """`read`, with the input at hand in `current` and the process ended (SIGPROF) by one that takes too long.

    Processor time counts: a machine with much else to do is no finding. libFuzzer's own limit is of the clock, and the
    handler of it can wait for itself for ever, since it allocates memory.
    """

    def once(data: bytes) -> None:
        current[: LENGTH.size + len(data)] = LENGTH.pack(len(data)) + data
        signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
        read(data)

    return once


def main() -> None:
    """Fuzz until libFuzzer ends the process. Arguments: target, file for the input at hand, libFuzzer's."""
    name, current = sys.argv[1], Path(sys.argv[2])
    arguments = [sys.argv[0], *sys.argv[3:]]
    with current.open("r+b") as file:
        read = watched(TARGETS[name], mmap.mmap(file.fileno(), 0))
    if name == "audio":
        atheris.Setup(arguments, read, custom_mutator=mutate)
    else:
        atheris.Setup(arguments, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
