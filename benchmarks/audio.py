"""Acoustic features beside librosa, stage by stage, and the reader of OpenFace files beside a plain one; on one thread.

200 clips of RAVDESS from `DIR/ravdess` (`--data` or `EMMR_DATA`); synthetic speech where there are none.
"""

import csv
import io
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import librosa
import numpy as np

from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, ratio_of, time_rounds
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import acoustic_features, harmonic_component, zero_crossing_rate
from model.features.audio.dsp.cqt import TUNINGS, chroma, estimate_tuning, plan
from model.features.audio.dsp.mel import cepstrum, mel_power
from model.features.audio.dsp.stft import HOP_LENGTH, N_FFT, centred_frames, spectrum
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from model.features.visual.table import ACTION_UNIT_COLUMNS, ColumnSet
from model.types import FloatArray
from tests.support.openface import simulate_openface_csv
from tests.support.speech import speech_of

CLIPS: Final = 200
GOAL: Final = 6.0  # times the recipe
TOLERANCES: Final = {"zcr": (slice(0, 1), 1e-4), "mfcc": (slice(1, 21), 1e-4), "chroma": (slice(21, 33), 1e-3)}
STAGE_SECONDS: Final = 6.0  # length of the clip whose stages are timed
DATA: Final = Path(__file__).parents[2] / "shared" / "data"
THREADS: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Columns in the file, columns used, rows: the longest are as long as the default limits let them be.
FILES: Final[tuple[tuple[str, ColumnSet, int], ...]] = (
    ("all", "all", 300),
    ("all", "all", 1_500),
    ("all", "action_units", 300),
    ("all", "action_units", 1_500),
    ("action_units", "action_units", 300),
    ("action_units", "action_units", 3_000),
    ("action_units", "action_units", 20_000),
)


def recipe(y: FloatArray) -> FloatArray:
    """Return the features as librosa's documentation shows them; `(T, 33)`."""
    parts = [
        librosa.feature.zero_crossing_rate(y, frame_length=512, hop_length=512),
        librosa.feature.mfcc(y=y, sr=SAMPLE_RATE, n_mfcc=20, hop_length=512),
        librosa.feature.chroma_cqt(
            y=librosa.effects.harmonic(y), sr=SAMPLE_RATE, hop_length=512, n_chroma=12, bins_per_octave=12
        ),
    ]
    return np.concatenate(parts).T.astype(np.float32)


def load_clips(data: Path, count: int) -> tuple[list[FloatArray], str]:
    """Return `count` clips and their origin."""
    paths = sorted(data.glob("ravdess/**/*.flac"))
    if len(paths) < count:
        return [speech_of(3.0 + 0.01 * number) for number in range(count)], "generated speech"
    chosen = [paths[number * len(paths) // count] for number in range(count)]
    return [read_sound(path)[0] for path in chosen], "RAVDESS"


def measure_clips(clips: Sequence[FloatArray], rounds: int, report: Report) -> None:
    """Time all clips with both, and compare their features."""
    contestants: dict[str, Callable[[], object]] = {
        "recipe": lambda: [recipe(clip) for clip in clips],
        "ours": lambda: [acoustic_features(clip) for clip in clips],
    }
    seconds = time_rounds(contestants, rounds=rounds)
    for name, median in medians_of(seconds).items():
        report.medians[f"clip_{name}_ms"] = 1000 * median / len(clips)
    report.ratios["clips"] = ratio_of(seconds, "recipe", "ours")
    report.facts["goal_6_met"] = report.ratios["clips"] >= GOAL
    pairs = [(acoustic_features(clip), recipe(clip)) for clip in clips]
    for part, (columns, tolerance) in TOLERANCES.items():
        apart = max(float(np.abs(ours[:, columns] - theirs[:, columns]).max()) for ours, theirs in pairs)
        report.facts[f"{part}_largest_difference"] = apart
        report.facts[f"{part}_within_{tolerance:g}"] = apart <= tolerance
    report.facts["clips_equal_to_the_last_bit"] = sum(bool((ours == theirs).all()) for ours, theirs in pairs)


def measure_stages(y: FloatArray, rounds: int, report: Report) -> None:
    """Time each stage on one clip."""
    harmonic = harmonic_component(y)
    tuning = estimate_tuning(harmonic)

    def our_mfcc() -> object:
        return cepstrum(mel_power(np.abs(spectrum(centred_frames(y, N_FFT, HOP_LENGTH)))))

    stages: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "zcr": (
            lambda: librosa.feature.zero_crossing_rate(y, frame_length=512, hop_length=512),
            lambda: zero_crossing_rate(y),
        ),
        "mfcc": (lambda: librosa.feature.mfcc(y=y, sr=SAMPLE_RATE, n_mfcc=20, hop_length=512), our_mfcc),
        "harmonic": (lambda: librosa.effects.harmonic(y), lambda: harmonic_component(y)),
        "tuning": (
            lambda: librosa.estimate_tuning(y=harmonic, sr=SAMPLE_RATE, bins_per_octave=12),
            lambda: estimate_tuning(harmonic),
        ),
        "chroma": (
            lambda: librosa.feature.chroma_cqt(
                y=harmonic, sr=SAMPLE_RATE, hop_length=512, n_chroma=12, bins_per_octave=12, tuning=tuning
            ),
            lambda: chroma(harmonic, tuning),
        ),
        "features": (lambda: recipe(y), lambda: acoustic_features(y)),
    }
    for stage, (theirs, ours) in stages.items():
        seconds = time_rounds({"librosa": theirs, "ours": ours}, rounds=max(rounds, 9), warmups=2)
        for name, median in medians_of(seconds).items():
            report.medians[f"{stage}_{name}_6_s_ms"] = 1000 * median
        report.ratios[f"stage_{stage}"] = ratio_of(seconds, "librosa", "ours")


def measure_plans(report: Report) -> None:
    """Time the filters of every tuning, which are computed once in a process."""
    plan.cache_clear()
    start = time.perf_counter()
    for edge in np.linspace(-0.5, 0.5, TUNINGS + 1)[:-1]:
        plan(float(edge))
    report.facts["filters_of_all_tunings_ms"] = 1000 * (time.perf_counter() - start)


def measure_threads(y: FloatArray, rounds: int, report: Report) -> None:
    """Time eight clips on one and on two threads: how much of the work releases the interpreter lock."""
    clips = [y] * 8
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        seconds = time_rounds(
            {
                "one_thread": lambda: list(one.map(acoustic_features, clips)),
                "two_threads": lambda: list(two.map(acoustic_features, clips)),
            },
            rounds=max(rounds, 5),
        )
    report.ratios["two_threads_over_one"] = ratio_of(seconds, "one_thread", "two_threads")


def plain_reader(data: bytes, columns: ColumnSet) -> FloatArray:
    """Read an OpenFace file cell by cell with `csv` and `float`."""
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    table = np.array([[float(cell) for cell in row] for row in rows], dtype=np.float32)
    names = [name.strip() for name in header]
    return table[:, 5:] if columns == "all" else table[:, [names.index(name) for name in ACTION_UNIT_COLUMNS]]


def measure_files(rounds: int, report: Report) -> None:
    """Time OpenFace files of several sizes with both readers."""
    for content, columns, rows in FILES:
        data = simulate_openface_csv(rows, content)
        label = f"csv_{714 if content == 'all' else 40}_columns_{'all' if columns == 'all' else 35}_used_{rows}_rows"

        def ours(data: bytes = data, columns: ColumnSet = columns) -> FloatArray:
            return read_openface(io.BytesIO(data), columns, 0.5).values

        def theirs(data: bytes = data, columns: ColumnSet = columns) -> FloatArray:
            return plain_reader(data, columns)

        seconds = time_rounds({"plain": theirs, "ours": ours}, rounds=rounds)
        for name, median in medians_of(seconds).items():
            report.medians[f"{label}_{name}_ms"] = 1000 * median
        report.ratios[label] = ratio_of(seconds, "plain", "ours")
        report.facts[f"{label}_equal"] = bool(np.array_equal(ours(), theirs()))


def main() -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EMMR_DATA", DATA)), help="folder of corpora")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"how many (default {CLIPS})")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in THREADS.items()):
        again = [sys.executable, "-m", "benchmarks.audio", *sys.argv[1:]]
        raise SystemExit(subprocess.run(again, env=os.environ | THREADS, check=False).returncode)
    # librosa warns that clips shorter than a window are padded and that silence has no pitch.
    warnings.filterwarnings("ignore", category=UserWarning, module="librosa")
    clips, kind = load_clips(options.data, options.clips)
    report = Report("audio", machine_line())
    report.facts.update({"clips": len(clips), "of": kind, "rounds": options.rounds, "threads": 1})
    report.facts["seconds_of_sound"] = sum(clip.size for clip in clips) / SAMPLE_RATE
    six_seconds = np.resize(np.concatenate(clips[:4]), int(STAGE_SECONDS * SAMPLE_RATE))
    measure_clips(clips, options.rounds, report)
    measure_stages(six_seconds, options.rounds, report)
    measure_plans(report)
    measure_threads(six_seconds, options.rounds, report)
    measure_files(options.rounds, report)
    finish(report, options.json)


if __name__ == "__main__":
    main()
