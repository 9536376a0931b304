import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from examples import make
from model.features.visual.table import ALL_COLUMNS
from model.types import DoubleArray
from tests.support.speech import speak

FOLDER: Final = Path(make.__file__).parent


def figures(text: str) -> tuple[list[str], DoubleArray]:
    header, *rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return header, np.array(rows, dtype=np.float64)


def test_the_committed_face_is_that_of_the_script() -> None:
    header, made = figures(make.openface_csv())
    committed_header, committed = figures((FOLDER / "openface.csv").read_text(encoding="utf-8"))
    assert header == committed_header
    np.testing.assert_allclose(made, committed, rtol=0, atol=0.11)  # one unit in the last place printed


def test_the_face_has_all_columns_and_smiles() -> None:
    header, rows = figures((FOLDER / "openface.csv").read_text(encoding="utf-8"))
    assert rows.shape == (make.FRAMES, 714)
    assert header == ["frame", "face_id", "timestamp", "confidence", "success", *ALL_COLUMNS]
    named = dict(zip(header, rows.T, strict=True))
    assert named["AU12_r"][0] < 0.5
    assert named["AU12_r"][-1] > 2.5
    assert named["AU15_r"].max() < 0.5
    assert set(named["AU12_c"]) == {0.0, 1.0}


def test_landmarks_are_projected_by_the_camera() -> None:
    header, rows = figures((FOLDER / "openface.csv").read_text(encoding="utf-8"))
    named = dict(zip(header, rows.T, strict=True))
    for number in (0, 30, 54):
        projected = make.FOCAL_LENGTH * named[f"X_{number}"] / named[f"Z_{number}"] + make.CENTRE[0]
        np.testing.assert_allclose(projected, named[f"x_{number}"], atol=0.2)


def test_the_committed_voice_is_that_of_the_sentence() -> None:
    sentence = (FOLDER / "sentence.txt").read_text(encoding="utf-8").strip()
    voice, rate = soundfile.read(FOLDER / "speech.wav", dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(voice, speak(sentence), rtol=0, atol=1e-3)


def test_the_examples_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 600_000
