"""Small generated corpora with the folders and files of the real ones, and with content that a network can learn."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import soundfile

from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.training.datasets.ravdess import POLARITIES
from model.types import FloatArray

COMPOSITE2_COLUMNS: Final = ("id", "text", "voice", "face", "label", "decided_by", "text_id")
COMPOSITE_COLUMNS: Final = ("id", "text", "audio_clip", "visual_clip", "label", "decided_by", "text_id", "actor")
SAMPLE_RATE: Final = 16_000
ACTORS: Final[Mapping[str, tuple[int, ...]]] = {"train": (1, 2), "val": (17,), "test": (19,)}
EMOTION_CODES: Final = tuple(range(1, 9))

_WORDS: Final = {"negative": "awful", "neutral": "tuesday", "positive": "wonderful"}
_MELD_EMOTIONS: Final = {"negative": "anger", "neutral": "neutral", "positive": "joy"}
TEXT_EMOTIONS: Final = {"negative": "angry", "neutral": "neutral", "positive": "happy"}
_MOSI_NAMES: Final = {"negative": "neg", "neutral": "neu", "positive": "pos"}
# (polarity of the text, decided_by, label): one of each that the rule has, congruent ones more often.
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

# Emotions as named in corpus files; surprise has no polarity.
EMOTION_POLARITIES: Final = {
    "angry": "negative",
    "sad": "negative",
    "fear": "negative",
    "disgust": "negative",
    "happy": "positive",
    "joy": "positive",
    "neutral": "neutral",
    "calm": "neutral",
    "surprise": "",
}
# corpus → split → speakers, and corpus → emotions; each speaker has two clips an emotion.
SPEAKERS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "nemo": {"train": ("AA", "BB"), "val": ("CC",), "test": ("DD",)},
    "emotiontts_kr": {"train": ("ema",), "val": ("emb",), "test": ("emc",)},
    "emovo": {"ood": ("f1",)},
}
VOICE_EMOTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "nemo": ("angry", "fear", "happy", "neutral", "sad", "surprise"),
    "emotiontts_kr": ("angry", "happy", "neutral", "sad"),
    "emovo": ("angry", "disgust", "joy", "neutral"),
}
LANGUAGES: Final = {"nemo": "pl", "emotiontts_kr": "ko", "emovo": "it"}
# (source, split) → emotions; three stills of each.
STILL_EMOTIONS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("ExpW", "train"): ("angry", "fear"),
    ("RAF-DB", "train"): ("angry", "disgust", "happy", "neutral", "surprise"),
    ("RAF-DB", "val"): ("sad", "happy", "neutral", "surprise"),
    ("RAF-DB", "test"): ("fear", "happy", "neutral"),
}
PITCHES: Final = {"negative": 140.0, "neutral": 220.0, "positive": 400.0}


def real_data() -> Path:
    """Return the folder of real corpora; skip the test where there is none."""
    named = os.environ.get("EMMR_DATA")
    folder = Path(named) if named else Path(__file__).parents[2].parent / "shared" / "data"
    if not (folder / "composite" / "train.csv").is_file():
        pytest.skip("no real corpora: set EMMR_DATA to the folder that holds composite/, ravdess/, meld/, mosi/")
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
                        "Emotion": _MELD_EMOTIONS[polarity],
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


def write_voices(folder: Path, seed: int = 0) -> Path:
    """Write `voices/index.csv` and its clips as `SPEAKERS` and `VOICE_EMOTIONS` say; returns `folder`."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for corpus, splits in SPEAKERS.items():
        for split, speaker in ((split, speaker) for split, speakers in splits.items() for speaker in speakers):
            for emotion in VOICE_EMOTIONS[corpus]:
                for number in (1, 2):
                    polarity = EMOTION_POLARITIES[emotion]
                    file = f"{corpus}/{speaker}_{emotion}_{number}.flac"
                    pitch = PITCHES[polarity or "neutral"] * float(rng.uniform(0.95, 1.05))
                    write_tone(folder / "voices" / file, pitch, seed=int(rng.integers(2**31)))
                    rows.append(
                        {
                            "corpus": corpus,
                            "file": file,
                            "speaker": f"{corpus}_{speaker}",
                            "language": LANGUAGES[corpus],
                            "emotion": emotion,
                            "polarity": polarity,
                            "split": split,
                        }
                    )
    columns = ("corpus", "file", "speaker", "language", "emotion", "polarity", "split", "text", "terms")
    write_csv(folder / "voices" / "index.csv", columns, rows)
    return folder


def write_faces(folder: Path, seed: int = 0) -> Path:
    """Write `faces/stills.csv` as `STILL_EMOTIONS` says; returns `folder`."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for (source, split), emotions in STILL_EMOTIONS.items():
        for emotion in emotions:
            polarity = EMOTION_POLARITIES[emotion]
            for number in range(3):
                still = {
                    "id": f"{source.lower()}/{split}_{emotion}_{number}.jpg",
                    "source": source,
                    "emotion": emotion,
                    "polarity": polarity,
                    "split": split,
                    "confidence": 0.975,
                }
                rows.append(still | _action_units(polarity or "neutral", rng))
    columns = ("id", "source", "emotion", "polarity", "split", "confidence", *ACTION_UNIT_COLUMNS)
    write_csv(folder / "faces" / "stills.csv", columns, rows)
    return folder


def write_composite2(folder: Path, rounds: int = 2, seed: int = 0) -> Path:
    """Write a composite corpus, voices and faces, and pair the sentences of the first with the others.

    Each of the four parts of `composite2/` has `14 * rounds` rows; returns `folder`.
    """
    write_faces(write_voices(write_composite(folder, rounds, seed), seed), seed)
    rng = np.random.default_rng(seed)
    voices, faces = _contents(folder, "voices/index.csv", "file"), _contents(folder, "faces/stills.csv", "id")
    for part in ("train", "val", "test", "ood"):
        sentences_of = "test" if part == "ood" else part
        rows: list[dict[str, object]] = []
        for sentence in _read(folder / "composite" / f"{sentences_of}.csv"):
            if sentence["decided_by"] == "native":
                continue
            label, decided_by = sentence["label"], sentence["decided_by"]
            voice = label if decided_by in {"congruent", "voice", "voice+face"} else "neutral"
            face = label if decided_by in {"congruent", "face", "voice+face"} else "neutral"
            drawn: dict[str, object] = {
                "id": f"{part}2-{len(rows):05d}",
                "voice": str(rng.choice(voices[part, voice])),
                "face": str(rng.choice(faces[sentences_of, face])),
            }
            rows.append(drawn | {column: sentence[column] for column in ("text", "label", "decided_by", "text_id")})
        write_csv(folder / "composite2" / f"{part}.csv", COMPOSITE2_COLUMNS, rows)
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


def spoil(data: Path, folder: Path, file: str, old: str, new: str) -> Path:
    """Copy the tree into `folder`, with links to sounds and one replacement in one file; returns `folder`."""
    for source in data.rglob("*"):
        target = folder / source.relative_to(data)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".csv":
                target.write_bytes(source.read_bytes())
            else:
                target.symlink_to(source)
    content = (folder / file).read_bytes()
    assert old.encode() in content, "the replacement must replace something"
    (folder / file).write_bytes(content.replace(old.encode(), new.encode(), 1))
    return folder


def write_tone(path: Path, frequency: float = 220.0, seconds: float = 0.4, seed: int = 0) -> Path:
    """Write a tone with a little noise, mono, 16 kHz; the format follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(frequency, seconds, seed), SAMPLE_RATE)
    return path


def tone(frequency: float = 220.0, seconds: float = 0.4, seed: int = 0) -> FloatArray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return (0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise).astype(np.float32)


def write_openface(path: Path, polarity: str = "neutral", frames: int = 5, seed: int = 0) -> Path:
    """Write an OpenFace CSV with only action units, all frames successful."""
    rng = np.random.default_rng(seed)
    columns = ("frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNIT_COLUMNS)
    rows = [
        {"frame": frame + 1, "face_id": 0, "timestamp": f"{frame / 30:.3f}", "confidence": 0.98, "success": 1}
        | _action_units(polarity, rng)
        for frame in range(frames)
    ]
    write_csv(path, columns, rows)
    return path


def _write_clips(folder: Path, rng: np.random.Generator) -> None:
    rows = []
    for actor in (actor for actors in ACTORS.values() for actor in actors):
        for emotion in EMOTION_CODES:
            polarity = POLARITIES.get(emotion, "neutral")
            for repetition in (1, 2):
                clip = clip_name(emotion, actor, repetition)
                pitch = PITCHES[polarity] * float(rng.uniform(0.95, 1.05))
                write_tone(folder / f"Actor_{actor:02d}" / f"{clip}.flac", pitch, seed=int(rng.integers(2**31)))
                rows.append({"clip": clip} | _action_units(polarity, rng))
    write_csv(folder / "au_mean.csv", ("clip", *ACTION_UNIT_COLUMNS), rows)


def _contents(folder: Path, table: str, column: str) -> Mapping[tuple[str, str], list[str]]:
    """Return (split, polarity) → names in `composite2` of the clips of RAVDESS and of the records of a table."""
    contents: dict[tuple[str, str], list[str]] = defaultdict(list)
    for split, actor in ((split, actor) for split, actors in ACTORS.items() for actor in actors):
        for emotion, polarity in POLARITIES.items():
            contents[split, polarity] += [f"ravdess/{clip_name(emotion, actor, number)}" for number in (1, 2)]
    prefix = "voices" if column == "file" else "stills"
    for row in _read(folder / table):
        contents[row["split"], row["polarity"]].append(f"{prefix}/{row[column]}")
    return contents


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _action_units(polarity: str, rng: np.random.Generator) -> dict[str, object]:
    shown = {"negative": "AU04_r", "neutral": "AU45_r", "positive": "AU12_r"}[polarity]
    return {
        unit: round(float(rng.uniform(0, 0.2)) + (2.0 if unit == shown else 0.0), 6) for unit in ACTION_UNIT_COLUMNS
    }


def _draw_clip(polarity: str, actor: int, rng: np.random.Generator) -> str:
    emotions = [emotion for emotion, of in POLARITIES.items() if of == polarity]
    return clip_name(int(rng.choice(emotions)), actor, int(rng.integers(1, 3)))


def _row(part: str, number: int, *cells: object) -> dict[str, object]:
    return dict(zip(COMPOSITE_COLUMNS, (f"{part}-{number:05d}", *cells), strict=True))
