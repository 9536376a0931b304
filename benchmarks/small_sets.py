"""`emmr train` on small sets of one modality beside references without a network, each as a manifest of a user.

Needs the corpora: voices of nEMO by speaker, faces of photographs, sentences of CMU-MOSI by video.
"""

import csv
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness import Report, arguments, finish, machine_line
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import Modality
from model.training.commands import COMPARISON, DEFAULT_CACHE, train
from model.training.datasets.base import ActionUnitMeansSource, Example, FixedCorpus, SoundSource, Split, TextSource
from model.training.datasets.mosi import MosiCorpus
from model.training.datasets.recordings import STILLS, FacesCorpus, VoicesCorpus

CASES: Final = {"voice": Modality.AUDIO, "face": Modality.VISUAL, "words": Modality.TEXT}
SIZES: Final = (50, 200, 0)
"""Training and validation utterances together; 0 for all."""
VALIDATION_SHARE: Final = 0.2
COLUMNS: Final = ("id", "split", "text", "audio", "openface", "label")


def open_case(case: str, data: Path) -> FixedCorpus:
    """The corpus of a case.

    Raises:
        CorpusError: its data is missing or has an error.
    """
    if case == "voice":
        return VoicesCorpus(data)
    return FacesCorpus(data) if case == "face" else MosiCorpus(data)


def examples_of(case: str, corpus: FixedCorpus, size: int, seed: int) -> Mapping[Split, Sequence[Example]]:
    """The examples of each part: `size` drawn from training and validation, the test part whole."""
    modality, origin = CASES[case], {"voice": "nemo", "face": STILLS}.get(case)
    parts: dict[Split, Sequence[Example]] = {}
    shares: dict[Split, float] = {"train": 1 - VALIDATION_SHARE, "val": VALIDATION_SHARE, "test": 0}
    for part, share in shares.items():
        own = [e for e in corpus.examples(part) if modality in e.sources and e.origins.get(modality) == origin]
        count = round(size * share) or len(own)
        order = np.random.default_rng(seed).permutation(len(own))[:count]
        parts[part] = [own[i] for i in sorted(order)]
    return parts


def write_manifest(folder: Path, parts: Mapping[Split, Sequence[Example]]) -> Path:
    """Write the list of examples of one modality, and OpenFace files of photographs."""
    rows: list[dict[str, Any]] = []
    for part, examples in parts.items():
        for number, example in enumerate(examples):
            row: dict[str, Any] = {"id": f"{part}-{number}", "split": part, "label": example.label}
            for source in example.sources.values():
                match source:
                    case TextSource(text):
                        row["text"] = text
                    case SoundSource(path):
                        row["audio"] = str(path.resolve())
                    case ActionUnitMeansSource(_, values):
                        row["openface"] = f"faces/{part}-{number}.csv"
                        _write_face(folder / row["openface"], values)
            rows.append(row)
    path = folder / "manifest.csv"
    _write_csv(path, COLUMNS, rows)
    return path


def _write_face(path: Path, values: Sequence[float]) -> None:
    frame = {"frame": 1, "face_id": 0, "timestamp": 0, "confidence": 1, "success": 1}
    row = frame | dict(zip(ACTION_UNIT_COLUMNS, values, strict=True))
    _write_csv(path, tuple(row), [row])


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def measure(
    case: str, size: int, seed: int, data: Path, cache: Path, config: Path | None = None, init: Path | None = None
) -> dict[str, Any]:
    """Train on one set and return its comparison with the references, and the seconds it took."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_manifest(folder, examples_of(case, open_case(case, data), size, seed))
        train(
            corpus="manifest", data=manifest, out=folder / "weights", config=config, seed=seed, epochs=None,
            resume=False, device="cpu", cache=cache, workers=1, init=init,
        )  # fmt: skip
        found: dict[str, Any] = json.loads((folder / "weights" / COMPARISON).read_text(encoding="utf-8"))
    return {**found, "seconds": round(time.monotonic() - started)}


def main(given: Sequence[str] | None = None) -> None:
    """Measure every case and size, and print the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the corpora")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="utterances; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=None, help="a recipe instead of the default one")
    parser.add_argument("--init", type=Path, default=None, help="weights to start from")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    chosen = parser.parse_args(given)
    report = Report("small sets", machine_line(), facts={"seed": chosen.seed, "init": str(chosen.init)})
    for case in chosen.cases:
        for size in chosen.sizes:
            found = measure(case, size, chosen.seed, chosen.data, chosen.cache, chosen.config, chosen.init)
            name = f"{case}, {size or 'all'}"
            for system, parts in found["scores"].items():
                for part, score in parts.items():
                    report.medians[f"{name}: {system}, {part} macro-F1"] = score["macro_f1"]
            report.facts[f"{name}: not below the best reference on validation"] = not found["below"]
            report.facts[f"{name}: seconds"] = found["seconds"]
    finish(report, chosen.json)


if __name__ == "__main__":
    main()
