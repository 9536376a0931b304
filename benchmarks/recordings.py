"""A long recording with planted gaps: which of them are reported, macro-F1, speed, memory, and the first line.

The recording is joined from clips of composite2's test part; each clip is also answered alone, by `POST /predict`.
"""

import csv
import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import numpy as np
import psutil
import soundfile

from benchmarks.harness import Report, arguments, finish, machine_line
from benchmarks.processes import OURS, Service, service
from model.features.audio import SAMPLE_RATE
from model.features.audio.conditioning import speech_span
from model.features.audio.loading import read_sound
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from model.training.datasets.base import ActionUnitMeansSource, Example, SoundSource, TextSource
from model.training.datasets.registry import open_corpus
from model.training.metrics import macro_f1
from model.types import FloatArray

RATE: Final = 30  # frames a second
PAUSE: Final = 0.25  # seconds of silence after each clip
GAPS: Final = 0.2  # share of clips that lack each modality
LOST: Final = 0.4  # share of a clip after which the face is lost, where it is lost half-way
SILENCE_DBFS: Final = -60.0  # as in the config of the shipped weights
FRAME: Final = 320  # samples of which a level is measured
TOLERANCE: Final = 0.3  # seconds, of a gap's times
SAMPLED: Final = 0.05  # seconds between two readings of the memory
FACE_GAPS: Final = ("no_face", "no_rows", "face_lost")
SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Clip:
    """An utterance of the recording.

    Args:
        label: its polarity.
        start, end: seconds.
        text: its words.
        voice: `(S,)` at 16 kHz.
        face: 35 action units.
        missing: modality → the reason that is planted.
    """

    label: str
    start: float
    end: float
    text: str
    voice: FloatArray
    face: Sequence[float]
    missing: Mapping[Modality, str]


def make_clips(examples: Sequence[Example], seconds: float, rng: np.random.Generator) -> list[Clip]:
    """Return clips, one after the other, for a recording of about that duration."""
    clips: list[Clip] = []
    position = 0.0
    for example in examples:
        text, voice, face = (example.sources.get(modality) for modality in Modality)
        if not (
            isinstance(text, TextSource) and isinstance(voice, SoundSource) and isinstance(face, ActionUnitMeansSource)
        ):
            continue
        waveform = read_sound(voice.path)[0]
        begin, stop = speech_span(waveform)
        waveform = waveform[begin:stop]
        end = position + waveform.size / SAMPLE_RATE
        reasons = {
            Modality.TEXT: "no_words",
            Modality.AUDIO: "silent",
            Modality.VISUAL: FACE_GAPS[int(rng.integers(len(FACE_GAPS)))],
        }
        missing = {modality: reason for modality, reason in reasons.items() if rng.random() < GAPS}
        clips.append(Clip(example.label, position, end, text.text, waveform, face.values, missing))
        position = end + PAUSE
        if position >= seconds:
            break
    return clips


def sound_of(clips: Sequence[Clip]) -> bytes:
    """Return the recording's sound, 16-bit WAV."""
    samples = np.zeros(round((clips[-1].end + PAUSE) * SAMPLE_RATE), dtype=np.float32)
    for clip in clips:
        if Modality.AUDIO not in clip.missing:
            first = round(clip.start * SAMPLE_RATE)
            samples[first : first + clip.voice.size] = clip.voice
    return as_wav(samples)


def as_wav(samples: FloatArray) -> bytes:
    """Encode samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def transcript_of(clips: Sequence[Clip]) -> bytes:
    """Return the recording's transcript, SRT."""
    cues = (clip for clip in clips if Modality.TEXT not in clip.missing)
    blocks = (
        f"{number}\n{_clock(clip.start)} --> {_clock(clip.end)}\n{' '.join(clip.text.split())}\n"
        for number, clip in enumerate(cues, start=1)
    )
    return "\n".join(blocks).encode()


def _clock(seconds: float) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"


def face_of(clips: Sequence[Clip]) -> bytes:
    """Return the recording's OpenFace CSV; between two clips the face of the first one stays."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNIT_COLUMNS])
    for clip in clips:
        reason = clip.missing.get(Modality.VISUAL)
        cells = [f"{value:.5f}" for value in clip.face]
        first, last = (round(second * RATE) for second in (clip.start, clip.end + PAUSE))
        for frame in range(first, last):
            share = (frame / RATE - clip.start) / (clip.end - clip.start)
            seen = reason is None or (reason == "face_lost" and share < LOST)
            if seen or reason != "no_rows":
                confidence, success = ("0.98", "1") if seen else ("0.02", "0")
                writer.writerow([frame + 1, 0, f"{frame / RATE:.3f}", confidence, success, *cells])
    return text.getvalue().encode()


def parts_alone(clip: Clip) -> dict[str, Any]:
    """Return the parts of a clip that are not planted to be missing."""
    header = ",".join(["frame", "timestamp", "confidence", "success", *ACTION_UNIT_COLUMNS])
    row = ",".join(["1", "0", "0.98", "1", *(f"{value:.5f}" for value in clip.face)])
    parts: dict[str, Any] = {
        "text": (None, clip.text.encode(), "text/plain"),
        "audio": ("a.wav", as_wav(clip.voice), "audio/wav"),
        "openface": ("a.csv", f"{header}\n{row}\n".encode(), "text/csv"),
    }
    names = {Modality.TEXT: "text", Modality.AUDIO: "audio", Modality.VISUAL: "openface"}
    return {name: parts[name] for modality, name in names.items() if modality not in clip.missing}


class Watcher:
    """Reads the memory of a service all the time, and the processor time that it takes."""

    def __init__(self, running: Service) -> None:
        self._running, self._ended = running, threading.Event()
        self._process = psutil.Process(running.process.pid)
        self.idle = self.peak = running.memory_mib()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._began = self._seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.processor_seconds = self._seconds() - self._began

    def _seconds(self) -> float:
        """Processor seconds of the service, and of its children, those that have ended as well."""
        times = [process.cpu_times() for process in (self._process, *self._process.children(recursive=True))]
        return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLED):
            try:
                self.peak = max(self.peak, self._running.memory_mib())
            except psutil.NoSuchProcess:  # a decoder process that has just ended
                continue


def answer(port: int, files: Mapping[str, bytes]) -> tuple[list[dict[str, Any]], float, float]:
    """Post a recording; returns its lines, and the seconds until the first and until the last."""
    began = time.perf_counter()
    lines: list[dict[str, Any]] = []
    first = float("nan")
    uploads = {name: (name, io.BytesIO(content)) for name, content in files.items()}
    with httpx2.stream("POST", f"http://127.0.0.1:{port}/recordings", files=uploads, timeout=None) as response:
        for line in response.iter_lines():
            first = time.perf_counter() - began if not lines else first
            lines.append(json.loads(line))
    return lines, first, time.perf_counter() - began


def planted(clips: Sequence[Clip], modality: Modality) -> list[tuple[float, float, str]]:
    """Return start, end and reason of each gap; clips in a row that lack the modality are one."""
    found: list[tuple[float, float, str]] = []
    for clip in clips:
        if (reason := clip.missing.get(modality)) is None:
            continue
        start = clip.start + (LOST * (clip.end - clip.start) if reason == "face_lost" else 0.0)
        reason = "no_face" if modality is Modality.VISUAL else reason
        if found and start - found[-1][1] <= PAUSE + 0.01:
            found[-1] = (found[-1][0], clip.end, reason)
        else:
            found.append((start, clip.end, reason))
    return found


def quiet_around(clips: Sequence[Clip], gap: tuple[float, float, str]) -> tuple[float, float]:
    """Return when the voice before a silent gap was last louder than silence, and when the one after it first is."""
    loud: list[float] = [0.0, clips[-1].end + PAUSE]
    for clip in clips:
        if Modality.AUDIO not in clip.missing:
            frames = clip.voice[: clip.voice.size // FRAME * FRAME].reshape(-1, FRAME)
            at = np.flatnonzero(np.square(frames).mean(axis=1) > 10 ** (SILENCE_DBFS / 10))
            loud += (clip.start + at * FRAME / SAMPLE_RATE).tolist()
    return max(t for t in loud if t <= gap[0]), min(t for t in loud if t >= gap[1])


def unreported(clips: Sequence[Clip], summary: Mapping[str, Any], modality: Modality) -> list[tuple[float, float, str]]:
    """Return the gaps that the summary does not report with their reason and, within `TOLERANCE`, their times.

    A silent gap may begin and end in the silence of the voices beside it.
    """
    lost = []
    for gap in planted(clips, modality):
        earliest, latest = quiet_around(clips, gap) if modality is Modality.AUDIO else gap[:2]
        if not any(
            span["reason"] == gap[2]
            and earliest - TOLERANCE <= span["start"] <= gap[0] + TOLERANCE
            and gap[1] - TOLERANCE <= span["end"] <= latest + TOLERANCE
            for span in summary["missing"][modality]
        ):
            lost.append(gap)
    return lost


def polarities(clips: Sequence[Clip], lines: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Return for each clip the polarity of the utterance that overlaps it most; None where none does."""
    spans = [line for line in lines if line["type"] == "utterance"]
    starts, ends = (np.array([span[name] for span in spans]) for name in ("start", "end"))
    found: list[str | None] = []
    for clip in clips:
        overlap = np.minimum(ends, clip.end) - np.maximum(starts, clip.start)
        best = int(overlap.argmax())
        found.append(spans[best]["polarity"] if overlap[best] > 0 else None)
    return found


def score(clips: Sequence[Clip], found: Sequence[str | None], classes: Sequence[str]) -> float:
    """Return macro-F1 over the clips that have a polarity."""
    pairs = [(classes.index(clip.label), classes.index(p)) for clip, p in zip(clips, found, strict=True) if p]
    truth, predicted = np.array(pairs).T
    return macro_f1(truth, predicted)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the corpora")
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    examples = list(open_corpus("composite2", options.data).examples("test"))
    rng.shuffle(examples)
    clips = make_clips(examples, 60 * options.minutes, rng)
    files = {"audio": sound_of(clips), "transcript": transcript_of(clips), "openface": face_of(clips)}
    seconds = clips[-1].end + PAUSE
    report = Report("recordings", machine_line())
    with (
        service(OURS, "/health/ready") as running,
        httpx2.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=None) as client,
    ):
        alone = []
        for clip in clips:
            parts = parts_alone(clip)
            alone.append(client.post("/predict", files=parts).json().get("polarity") if parts else None)
        answer(running.port, {name: files[name] for name in ("transcript",)})  # loads what the first recording loads
        with Watcher(running) as watcher:
            lines, first, last = answer(running.port, files)
    classes, summary = lines[0]["model"]["classes"], lines[-1]
    # The clips that have a polarity both times.
    pairs = [pair if all(pair) else (None, None) for pair in zip(polarities(clips, lines), alone, strict=True)]
    report.medians.update(
        recording_s=seconds,
        first_line_s=first,
        last_line_s=last,
        processor_s=watcher.processor_seconds,
        memory_over_idle_mib=watcher.peak - watcher.idle,
    )
    report.ratios["real_time"] = seconds / last
    report.ratios["real_time_of_processors"] = 2 * seconds / watcher.processor_seconds
    report.facts["clips"] = len(clips)
    report.facts["clips_compared"] = sum(own is not None for own, _ in pairs)
    report.facts["macro_f1_in_recording"] = score(clips, [own for own, _ in pairs], classes)
    report.facts["macro_f1_alone"] = score(clips, [other for _, other in pairs], classes)
    report.facts["polarity_equal"] = sum(own is not None and own == other for own, other in pairs)
    for modality in Modality:
        lost = unreported(clips, summary, modality)
        report.facts[f"{modality}_gaps"] = len(planted(clips, modality))
        report.facts[f"{modality}_gaps_not_reported"] = len(lost)
        for gap in lost:
            print(f"not reported: {modality} {gap}")
    finish(report, options.json)


if __name__ == "__main__":
    main()
