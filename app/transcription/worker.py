"""The transcription process: a decoder process (`app.decoding.worker`) whose jobs are sounds to transcribe."""

# Started by `app.decoding.process` as `python -m app.transcription.worker`. It runs at a low priority, so that
# requests without transcription are not delayed. The model is loaded, and its threads are started, before it is
# confined: Landlock then covers the main thread only, and seccomp all of them.

import importlib
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from app.decoding.protocol import Json, encode_error
from app.decoding.sandbox import confine
from app.decoding.worker import LAZY_MODULES, serve, take_streams
from app.transcription.recogniser import Recogniser
from app.transcription.transcription import ADAPTER
from model.errors import ModalityError
from model.features.audio import SAMPLE_RATE
from model.features.audio.loading import SoundLimits, read_sound
from model.types import FloatArray


def main() -> None:
    """Run until the input ends. Arguments: bytes of address space, processor seconds per job, options as JSON."""
    memory_bytes, cpu_seconds, options = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    os.nice(int(options["niceness"]))
    recogniser = load(options)
    reader, writer = take_streams()
    serve(reader, writer, cpu_seconds, confine(memory_bytes), lambda job, content: perform(recogniser, job, content))


def load(options: Mapping[str, object]) -> Recogniser:
    """Load the model and whatever is loaded on first use, since a confined process can open no file."""
    for module in LAZY_MODULES:
        importlib.import_module(module)
    recogniser = Recogniser.load(
        Path(str(options["folder"])), threads=int(str(options["threads"])), max_seconds=float(str(options["seconds"]))
    )
    # Voiced sound that passes for speech, so that every stage runs, word times included.
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    recogniser(np.sin(2 * np.pi * 120 * t).astype(np.float32))
    return recogniser


def perform(recogniser: Recogniser, job: Json, content: bytes) -> tuple[Json, bytes]:
    """Do one job. Errors of the sound become a reply; any other exception ends the process."""
    try:
        return {"kind": "transcription"}, ADAPTER.dump_json(recogniser(waveform_of(job, content)))
    except (ModalityError, MemoryError) as error:
        return encode_error(error), b""


def waveform_of(job: Json, content: bytes) -> FloatArray:
    """Decode a sound file, or read samples that are decoded already.

    Raises:
        ModalityError: the file is not accepted.
    """
    if job["kind"] == "samples":
        return np.frombuffer(content, "<f4").astype(np.float32, copy=False)
    waveform, _ = read_sound(io.BytesIO(content), SoundLimits(**job["limits"]))
    return waveform


if __name__ == "__main__":
    main()
