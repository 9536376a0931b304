"""Small corpora made on the spot: the same folders and files as the real ones, with sounds, faces and words to learn.

For: tests of everything that reads a corpus.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from model.training.corpora.ravdess import ACTION_UNITS, POLARITIES

COMPOSITE_COLUMNS: Final = ("id", "text", "audio_clip", "visual_clip", "label", "decided_by", "text_id", "actor")
SAMPLE_RATE: Final = 16_000
ACTORS: Final[Mapping[str, tuple[int, ...]]] = {"train": (1, 2), "val": (17,), "test": (19,)}
EMOTION_CODES: Final = tuple(range(1, 9))

_WORDS: Final = {"negative": "awful", "neutral": "tuesday", "positive": "wonderful"}
TEXT_EMOTIONS: Final = {"negative": "anger", "neutral": "neutral", "positive": "joy"}
_MOSI_NAMES: Final = {"negative": "neg", "neutral": "neu", "positive": "pos"}
# (text's polarity, decided_by, label): one of each the rule knows, the congruent ones more often.
PAIRINGS: Final = (
    ("negative", "congruent", "negative"),
    ("negative", "congruent", "negative"),
    ("negative", "text", "negative"),
    ("positive", "congruent", "positive"),
    ("positive", "congruent", "positive"),
    ("positive", "text", "positive"),
    ("neutral", "congruent", "neutral"),
    ("neutral", "congruent", "neutral"),
    ("neutral", "voice+face", "negative"),
    ("neutral", "voice+face", "positive"),
    ("neutral", "voice", "negative"),
    ("neutral", "voice", "positive"),
    ("neutral", "face", "negative"),
    ("neutral", "face", "positive"),
)


def real_data() -> Path:
    """The folder of real corpora; skips the test where there is none."""
    named = os.environ.get("EMMR_DATA")
    folder = Path(named) if named else Path(__file__).parents[2].parent / "shared" / "data"
    if not (folder / "composite" / "train.csv").is_file():
        pytest.skip("no real corpora here: set EMMR_DATA to the folder that holds composite/, ravdess/, meld/, mosi/")
    return folder


def clip_name(emotion: int, actor: int, repetition: int = 1) -> str:
    return f"03-01-{emotion:02d}-01-01-{repetition:02d}-{actor:02d}"


def write_composite(folder: Path, rounds: int = 2, seed: int = 0) -> Path:
    """Write a composite corpus of `14 * rounds` sentences a part, its clips and the native rows; returns `folder`.

    Each polarity has its own word, pitch and action units, so that a network can learn all three modalities.
    """
    rng = np.random.default_rng(seed)
    _write_clips(folder / "ravdess", rng)
    meld: dict[str, list[dict[str, object]]] = {"train": [], "dev": []}
    mosi: list[dict[str, object]] = []
    for part, actors in ACTORS.items():
        rows: list[dict[str, object]] = []
        for number in range(rounds * len(PAIRINGS)):
            polarity, decided_by, label = PAIRINGS[number % len(PAIRINGS)]
            text = f"number {number} was {_WORDS[polarity]} for {part}"
            if number % 7 == 3:
                text_id = f"mosi-{part}_{number}"
                mosi.append({"id": f"{part}_{number}", "label3": _MOSI_NAMES[polarity], "text": text})
            else:
                source = "train" if part == "train" else "dev"
                text_id = f"meld-{source}-{len(meld[source])}-0"
                meld[source].append(
                    {
                        "Utterance": text,
                        "Sentiment": polarity,
                        "Emotion": TEXT_EMOTIONS[polarity],
                        "Dialogue_ID": len(meld[source]),
                        "Utterance_ID": 0,
                    }
                )
            actor = int(rng.choice(actors))
            voice = _draw_clip(label if decided_by in {"congruent", "voice", "voice+face"} else "neutral", actor, rng)
            face = _draw_clip(label if decided_by in {"congruent", "face", "voice+face"} else "neutral", actor, rng)
            if decided_by not in {"voice", "face"}:
                face = voice
            rows.append(_row(part, len(rows), text, voice, face, label, decided_by, text_id, actor))
        for actor in actors:
            for emotion in POLARITIES:
                for repetition in (1, 2):
                    clip = clip_name(emotion, actor, repetition)
                    text_id, text = f"ravdess-{clip}", "Kids are talking by the door"
                    rows.append(_row(part, len(rows), text, clip, clip, POLARITIES[emotion], "native", text_id, actor))
        write_csv(folder / "composite" / f"{part}.csv", COMPOSITE_COLUMNS, rows)
    for source, sentences in meld.items():
        columns = ("Utterance", "Sentiment", "Emotion", "Dialogue_ID", "Utterance_ID")
        write_csv(folder / "meld" / f"{source}_sent_emo.csv", columns, sentences)
    write_csv(folder / "mosi" / "utterances.csv", ("id", "label3", "text"), mosi)
    return folder


def write_manifest(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "manifest.csv") -> Path:
    """Write a manifest; keys a row lacks are empty cells."""
    path = folder / name
    write_csv(path, ("id", "split", "text", "audio", "openface", "label"), rows)
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_tone(path: Path, frequency: float = 220.0, seconds: float = 0.4, seed: int = 0) -> Path:
    """A tone with a little noise, mono, 16 kHz; the format follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(frequency, seconds, seed), SAMPLE_RATE)
    return path


def tone(frequency: float = 220.0, seconds: float = 0.4, seed: int = 0) -> npt.NDArray[np.float32]:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return (0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise).astype(np.float32)


def write_openface(path: Path, polarity: str = "neutral", frames: int = 5, seed: int = 0) -> Path:
    """An OpenFace CSV with only action units, all frames good."""
    rng = np.random.default_rng(seed)
    columns = ("frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS)
    rows = [
        {"frame": frame + 1, "face_id": 0, "timestamp": f"{frame / 30:.3f}", "confidence": 0.98, "success": 1}
        | _action_units(polarity, rng)
        for frame in range(frames)
    ]
    write_csv(path, columns, rows)
    return path


def _write_clips(folder: Path, rng: np.random.Generator) -> None:
    pitches = {"negative": 140.0, "neutral": 220.0, "positive": 400.0}
    rows = []
    for actor in (actor for actors in ACTORS.values() for actor in actors):
        for emotion in EMOTION_CODES:
            polarity = POLARITIES.get(emotion, "neutral")
            for repetition in (1, 2):
                clip = clip_name(emotion, actor, repetition)
                pitch = pitches[polarity] * float(rng.uniform(0.95, 1.05))
                write_tone(folder / f"Actor_{actor:02d}" / f"{clip}.flac", pitch, seed=int(rng.integers(2**31)))
                rows.append({"clip": clip} | _action_units(polarity, rng))
    write_csv(folder / "au_mean.csv", ("clip", *ACTION_UNITS), rows)


def _action_units(polarity: str, rng: np.random.Generator) -> dict[str, object]:
    shown = {"negative": "AU04_r", "neutral": "AU45_r", "positive": "AU12_r"}[polarity]
    return {unit: round(float(rng.uniform(0, 0.2)) + (2.0 if unit == shown else 0.0), 6) for unit in ACTION_UNITS}


def _draw_clip(polarity: str, actor: int, rng: np.random.Generator) -> str:
    emotions = [emotion for emotion, its in POLARITIES.items() if its == polarity]
    return clip_name(int(rng.choice(emotions)), actor, int(rng.integers(1, 3)))


def _row(part: str, number: int, *cells: object) -> dict[str, object]:
    return dict(zip(COMPOSITE_COLUMNS, (f"{part}-{number:05d}", *cells), strict=True))
