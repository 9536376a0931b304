"""Parts of a recording, made in this process."""

import atexit
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from app.recordings.faces import Faces
from app.recordings.sound import Sound
from app.recordings.transcript import Cue
from model.features.audio.streaming import FULL_SCALE
from model.features.visual.frame_index import index_frames
from model.features.visual.table import OpenFaceLimits
from model.types import FloatArray

_FILES: Final = ExitStack()
atexit.register(_FILES.close)


def on_disk(content: bytes) -> BinaryIO:
    """Return a file with a descriptor at its beginning; it is closed at the end of the process."""
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    file = os.fdopen(descriptor, "w+b")
    _FILES.callback(file.close)
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def make_sound(samples: FloatArray) -> Sound:
    """Return a sound of `(S,)` or `(S, C)` samples at 16 kHz."""
    file = on_disk((samples * (FULL_SCALE - 1)).astype(np.int16).tobytes())
    return Sound(file, 1 if samples.ndim == 1 else samples.shape[1], {})


def make_faces(content: bytes) -> Faces:
    """Return the faces of an OpenFace CSV of action units."""
    file = on_disk(content)
    return Faces(file, np.concatenate(list(index_frames(file, "action_units", 0.5, OpenFaceLimits()))))


def srt(cues: Sequence[Cue]) -> bytes:
    """Return cues as SRT."""
    blocks = (f"{n}\n{clock(c.start)} --> {clock(c.end)}\n{c.text}\n" for n, c in enumerate(cues, start=1))
    return "\n".join(blocks).encode()


def clock(seconds: float) -> str:
    """Return `hours:minutes:seconds,milliseconds`."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"
