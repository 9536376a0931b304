"""One target under coverage-guided fuzzing: the process that finds, and ends at the first finding.

For: `tests.fuzz.guide`, which starts it again. `python -m tests.fuzz.guided TARGET [libFuzzer's options and folders]`.
Does not know: seeds and time; libFuzzer's options say both.

The decoders themselves are not instrumented: what guides is this project's Python and the multipart parser's. So that a
changed Ogg page gets as far as a decoder, its checksum is made right again.
"""

import importlib
import sys
from typing import Final

import atheris

with atheris.instrument_imports(include=["app.uploads", "model.features", "python_multipart"]):
    from model.features.containers import _ogg_crc
    from tests.fuzz.targets import TARGETS

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
    """libFuzzer's own mutation; three times in four with the checksums made right."""
    changed: bytes = atheris.Mutate(data, max_size)
    return with_checksums(changed) if seed % 4 else changed


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name = sys.argv[1]
    arguments = [sys.argv[0], *sys.argv[2:]]
    if name == "audio":
        atheris.Setup(arguments, TARGETS[name], custom_mutator=mutate)
    else:
        atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
