"""Simulated OpenFace 2 output: the right columns in the right order, with plausible values."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from model.features.visual.table import ACTION_UNIT_COLUMNS, ALL_COLUMNS


def simulate_openface_csv(
    frames: int,
    columns: Literal["all", "action_units"] | Sequence[str] = "all",
    seed: int = 0,
    *,
    faces: Sequence[int] = (0,),
    confidence: float | Sequence[float] = 0.98,
    success: int | Sequence[int] = 1,
    mode: Literal["sequence", "image"] = "sequence",
    face_id: bool = True,
    spaces: bool = True,
    newline: str = "\n",
    frames_per_second: float = 30.0,
) -> bytes:
    """Write a file of `frames` rows for each of `faces`.

    Args:
        frames: rows of each face.
        columns: after the leading ones.
        seed: of the values.
        faces: their ids.
        confidence: of every row, or of each frame, or (several faces) of each face.
        success: of every row, or of each frame.
        mode: `image` has the leading columns `face, confidence` only.
        face_id: older versions of OpenFace write none.
        spaces: one after each comma, as OpenFace writes them.
        newline: the end of each line.
        frames_per_second: of the timestamps.
    """
    rng = np.random.default_rng(seed)
    names = (
        {"all": ALL_COLUMNS, "action_units": ACTION_UNIT_COLUMNS}.get(columns) if isinstance(columns, str) else columns
    )
    assert names is not None
    leading = ["face", "confidence"] if mode == "image" else ["frame", "timestamp", "confidence", "success"]
    if mode == "sequence" and face_id:
        leading.insert(1, "face_id")
    lines = [[*leading, *names]]
    for frame in range(frames):
        for place, face in enumerate(faces):
            sure = confidence if isinstance(confidence, float | int) else confidence[place if len(faces) > 1 else frame]
            row = {
                "frame": str(frame + 1),
                "face": str(face),
                "face_id": str(face),
                "timestamp": f"{frame / frames_per_second:.3f}",
                "confidence": f"{sure:.2f}",
                "success": str(success if isinstance(success, int) else success[frame]),
            }
            values = rng.uniform(0.0, 5.0, len(names))
            cells = (
                f"{value / 5:.0f}" if name.endswith("_c") else f"{value:.3f}"
                for name, value in zip(names, values, strict=True)
            )
            lines.append([*(row[name] for name in leading), *cells])
    comma = ", " if spaces else ","
    return "".join(comma.join(line) + newline for line in lines).encode()
