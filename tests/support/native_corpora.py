"""Miniature copies of public corpora with the folders and files of their releases; contents are generated."""

import csv
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.support.corpus import clip_name, write_csv, write_openface, write_tone

MOSI_COLUMNS: Final = ("row", "id", "video_id", "bclstm_split", "label", "text")
MELD_COLUMNS: Final = ("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
IEMOCAP_CODES: Final = ("neu", "fru", "ang", "sad", "hap", "exc", "sur", "fea", "dis", "oth", "xxx")
WORDS: Final = ((-3, "awful"), (-1.4, "bad"), (0, "tuesday"), (0.6, "good"), (2.6, "wonderful"))
"""Score and word of the utterances of a video of CMU-MOSI."""


def write_mosi(folder: Path, training: int = 6, test: int = 2) -> Path:
    """Write `mosi/` with so many videos of five utterances; returns `folder`.

    The vectors of an utterance are its score plus noise.
    """
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for video in range(training + test):
        for number, (score, word) in enumerate(WORDS):
            row = {"row": len(rows), "id": f"v{video}_{number}", "video_id": f"v{video}", "label": score}
            split = "train" if video < training else "test"
            rows.append({**row, "bclstm_split": split, "text": f"it was a {word} film"})
    write_csv(folder / "mosi" / "utterances.csv", MOSI_COLUMNS, rows)
    scores = np.array([[float(str(row["label"]))] for row in rows])
    for file, size in (("audio_is73", 73), ("video_3dcnn100", 100)):
        vectors = scores + rng.standard_normal((len(rows), size))
        np.save(folder / "mosi" / f"{file}.npy", vectors.astype(np.float32))
    return folder


def mmsa_content(utterances: int = 5, *, lengths: bool = True) -> dict[str, dict[str, Any]]:
    """The content of a feature pickle of MMSA: sequences of 6 audio and 4 visual steps, padded with zeros."""
    rng = np.random.default_rng(0)
    content = {}
    for part in ("train", "valid", "test"):
        chosen = [WORDS[number % len(WORDS)] for number in range(utterances)]
        audio, vision = rng.standard_normal((utterances, 6, 5)), rng.standard_normal((utterances, 4, 3))
        audio[:, 4:], vision[:, 3:] = 0, 0
        content[part] = {
            "raw_text": np.array([f"it was {word}" for _, word in chosen]),
            "audio": audio,
            "vision": vision.astype(np.float32),
            "text": rng.standard_normal((utterances, 5, 768)),
            "text_bert": rng.standard_normal((utterances, 3, 5)),
            "id": [f"{part}{number}$_$1" for number in range(utterances)],
            "annotations": ["Neutral"] * utterances,
            "classification_labels": np.zeros(utterances),
            "regression_labels": np.array([score for score, _ in chosen]),
            **({"audio_lengths": [4] * utterances, "vision_lengths": [3] * utterances} if lengths else {}),
        }
    return content


def write_mmsa(path: Path, content: object | None = None, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(mmsa_content() if content is None else content, protocol=protocol))
    return path


def write_csd(folder: Path, videos: int = 10) -> Path:
    """Write the four `.csd` files of CMU-MOSI with two utterances a video, 0 to 2 and 2 to 5 seconds; returns `folder`.

    Audio has 10 frames a second, and the first column of each is its time.
    """
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"video{number}" for number in range(videos)]
    times = np.arange(50) / 10
    audio = np.stack([times, np.sin(times)], axis=1)
    words = np.array([[b"sp"], [b"good"], [b"film"], [b"really"], [b"bad"]])
    content: Mapping[str, tuple[str, Any, Any]] = {
        "Opinion_Labels": ("Opinion Segment Labels", [[2.4], [-1.2]], [[0, 2], [2, 5]]),
        "TimestampedWords": ("words", words, [[0, 0.5], [0.5, 1], [1, 1.9], [2, 3], [3, 4.5]]),
        "COVAREP": ("COVAREP", audio, np.stack([times, times + 0.1], axis=1)),
        "Visual_Facet_42": ("FACET_4.2", np.ones((5, 3)), [[n, n + 1] for n in range(5)]),
    }
    for file, (name, features, intervals) in content.items():
        with h5py.File(folder / f"CMU_MOSI_{file}.csd", "w") as written:
            written.create_group(f"{name}/metadata")
            for video in names:
                written[f"{name}/data/{video}/features"] = features
                written[f"{name}/data/{video}/intervals"] = np.asarray(intervals, dtype=np.float64)
    return folder


def write_meld(folder: Path) -> Path:
    """Write `meld/` with two dialogues of two utterances a part, clips in the release's folders; returns `folder`."""
    meld = folder / "meld"
    said = (
        ("I can\u2019t believe it", "joy", "positive"),
        ("Oh no", "disgust", "negative"),
        ("Fine.", "neutral", "neutral"),
        ("What?", "surprise", "negative"),
    )
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    for part, clips in folders.items():
        rows = []
        for number, (text, emotion, sentiment) in enumerate(said):
            clip = (number // 2, number % 2)
            rows.append(dict(zip(MELD_COLUMNS, (number + 1, text, "Ross", emotion, sentiment, *clip), strict=True)))
            name = f"dia{clip[0]}_utt{clip[1]}"
            if number != 3:
                write_tone(meld / clips / f"{name}.wav", 200 + 40 * number)
            if number == 0:
                write_openface(meld / "openface" / part / f"{name}.csv", "positive", frames=2)
        write_csv(meld / f"{part}_sent_emo.csv", MELD_COLUMNS, rows)
    return folder


def write_iemocap(folder: Path) -> Path:
    """Write five sessions of one dialogue, with an utterance of each code; returns `folder`."""
    for session in range(1, 6):
        dialogue = f"Ses{session:02d}F_impro01"
        root = folder / f"Session{session}"
        labels, sentences = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        for number, code in enumerate(IEMOCAP_CODES):
            id_ = f"{dialogue}_F{number:03d}"
            labels.append(f"[{number}.2901 - {number}.9357]\t{id_}\t{code}\t[2.5000, 2.5000, 2.5000]")
            labels += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom 2;\t()", ""]
            sentences += [f"{id_} [00{number}.2901-00{number}.9357]: This is {code}.", "M: [BREATHING]"]
            write_tone(root / "sentences" / "wav" / dialogue / f"{id_}.wav", 200, 0.1)
        for name, lines in (("EmoEvaluation", labels), ("transcriptions", sentences)):
            path = root / "dialog" / name / f"{dialogue}.txt"
            path.parent.mkdir(parents=True)
            path.write_text("\n".join(lines), encoding="utf-8")
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # as macOS writes beside each file
    write_openface(folder / "openface" / "Ses01F_impro01_F000.csv", frames=2)
    return folder


def write_ravdess(folder: Path) -> Path:
    """Write `ravdess/` as released: WAV clips of each emotion by five actors, without action units."""
    for actor in (1, 2, 17, 19, 24):
        for emotion in range(1, 9):
            write_tone(folder / "ravdess" / f"Actor_{actor:02d}" / f"{clip_name(emotion, actor)}.wav", 200, 0.1)
    face = folder / "ravdess" / "openface" / f"{clip_name(3, 1)}.csv"
    write_openface(face, "positive", frames=2)
    return folder


def rewrite(path: Path, changes: Mapping[int, Mapping[str, object]]) -> None:
    """Change cells of a CSV file: record (from 0) → column → cell."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    write_csv(path, columns, [{**row, **changes.get(number, {})} for number, row in enumerate(rows)])
