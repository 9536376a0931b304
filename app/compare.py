"""`emmr compare`: two weights folders on the same utterances: agreement, flips, and where labels are known, scores."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, RenderableType
from rich.progress import track
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from app.api.problems import as_service_error
from app.engine.predictor import Options, Result
from app.errors import CorruptPart, ServiceError
from app.offline import LocalModel
from app.scoring.rows import Row, read_rows
from app.settings import Settings
from app.uploads.form import RawForm
from model.errors import ConfigError, CorpusError, ModalityError
from model.training.datasets.labels import read_labels
from model.training.datasets.tables import Row as Record
from model.training.metrics import CONFIDENCE, calibration_bootstrap, class_figures, paired_bootstrap
from model.types import DoubleArray, IntArray

SCORES: Final = ("accuracy", "macro_f1", "log_loss", "calibration_error")
WIDTH: Final = 140  # characters of a line of the tables if the output is a file or a pipe
NAMES: Final = ("first", "second")


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of both weights to N utterances; C classes.

    Args:
        probabilities: `(2, N, C)`.
        subsets: N names of the modalities that were present.
        labels: `(N,)` class indices, -1 where there is no label.
        key_missing: `(2, N)` whether a key missing modality was found.
    """

    probabilities: DoubleArray
    subsets: Sequence[str]
    labels: IntArray
    key_missing: IntArray


def compare(settings: Sequence[Settings], manifest: Path, json_out: Path | None = None) -> int:
    """Compare two weights folders, print the tables, and write every figure to a file.

    Args:
        settings: two, which differ in their weights.
        manifest: of the utterances, or a folder; see `app.scoring.rows.read_rows`.
        json_out: JSON file to write to.

    Raises:
        CheckpointError: weights that cannot be loaded.
        ConfigError: weights with different classes, or no utterance that can be answered.
        CorpusError: a manifest that cannot be read, or a label that is no class.
    """
    models = [LocalModel.load(each) for each in settings]
    configs = [model.predictor.pipeline.config for model in models]
    classes = configs[0].classes
    if set(classes) != set(configs[1].classes):
        raise ConfigError(f"weights with different classes: {', '.join(classes)} and {', '.join(configs[1].classes)}")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    rows = list(read_rows(manifest))
    labels, notices = _read_labels(manifest, rows, classes)
    for notice in notices:
        console.print(notice, markup=False)
    answers, failed = _answer_all(models, rows, labels, classes, console)
    if not answers.subsets:
        raise ConfigError(f"{manifest} holds no utterance that can be answered")
    weights = {
        name: {"folder": str(each.weights), "name": config.name, "version": model.predictor.pipeline.checkpoint.version}
        for name, each, config, model in zip(NAMES, settings, configs, models, strict=True)
    }
    figures = {"weights": weights, "failed": failed, **comparison(classes, answers)}
    for table in tables(figures):
        console.print(table)
    if json_out is not None:
        json_out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {json_out}")
    return 0


def _read_labels(manifest: Path, rows: Sequence[Row], classes: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return the index of the class of each labelled row by its id, read as by `read_labels`, and what that changed."""
    labelled = [row for row in rows if row.label]
    if not labelled:
        return {}, []
    found, notices = read_labels([Record(manifest, row.line, {"label": row.label}) for row in labelled])
    indices = {name.casefold(): index for index, name in enumerate(classes)}
    for row, label in zip(labelled, found, strict=True):
        if label.casefold() not in indices:
            raise CorpusError(manifest, row.line, f"the label {row.label!r} of {row.id} is no class of the weights")
    return {row.id: indices[label.casefold()] for row, label in zip(labelled, found, strict=True)}, notices


def _answer_all(
    models: Sequence[LocalModel],
    rows: Sequence[Row],
    known: Mapping[str, int],
    classes: Sequence[str],
    console: Console,
) -> tuple[Answers, list[dict[str, str]]]:
    """Answer every row by every model; rows that are not accepted are returned with the reason."""
    probabilities: list[list[tuple[float, ...]]] = []
    subsets, labels, key_missing, failed = [], [], [], []
    for row in track(rows, "comparing", console=console, transient=True, disable=not console.is_terminal):
        try:
            results = [_answer(model, row) for model in models]
        except (ServiceError, ModalityError) as error:
            failed.append({"id": row.id, "problem": as_service_error(error).detail})
            continue
        except OSError as error:
            failed.append({"id": row.id, "problem": f"a file: {error.strerror}"})
            continue
        decided = [
            dict(zip(result.checkpoint.config.classes, result.decision.probabilities, strict=True))
            for result in results
        ]
        probabilities.append([tuple(found[name] for name in classes) for found in decided])
        subsets.append(results[0].request.presence.name)
        labels.append(known.get(row.id, -1))
        key_missing.append([bool(result.decision.key_modalities) for result in results])
    array = np.asarray(probabilities, dtype=np.float64).reshape(len(subsets), len(models), len(classes))
    found = np.asarray(key_missing, dtype=np.int64).reshape(len(subsets), len(models))
    return Answers(array.swapaxes(0, 1), subsets, np.asarray(labels, dtype=np.int64), found.T), failed


def _answer(model: LocalModel, row: Row) -> Result:
    if row.fault is not None:
        raise CorruptPart(row.fault)
    words: bytes | None = None
    if isinstance(row.text, Path):
        words = row.text.read_bytes()
    elif row.text is not None:
        words = row.text.encode()
    with ExitStack() as files:
        audio, openface = (
            None if path is None else files.enter_context(path.open("rb")) for path in (row.audio, row.openface)
        )
        options = Options(threshold=model.settings.key_threshold, face_id=row.face_id)
        return model.answer(RawForm(words, audio, openface), options)


def comparison(classes: Sequence[str], answers: Answers) -> dict[str, Any]:
    """Return the figures of a comparison.

    Returns:
        `classes`; `all` and `by_subset`, each with `n`, `agreement` (share of equal answers, with a Wilson interval),
        `flips` (`(C, C)` counts, the first's answer by the second's), `distance` (mean total variation of the
        probabilities), `key_missing` (share of answers with a key missing modality, of each), and `labelled`: None
        without labels, else `n`, the `SCORES` of each, and `difference`: how much greater those of the second are,
        with paired bootstrap intervals.
    """
    subsets = np.asarray(answers.subsets)
    every = np.ones(len(subsets), dtype=bool)
    groups = {name: subsets == name for name in sorted(set(answers.subsets))}
    return {
        "classes": list(classes),
        "all": _figures(answers, every),
        "by_subset": {name: _figures(answers, chosen) for name, chosen in groups.items()},
    }


def _figures(answers: Answers, chosen: Any) -> dict[str, Any]:
    first, second = answers.probabilities[:, chosen]
    decided = first.argmax(axis=1), second.argmax(axis=1)
    n, classes = first.shape
    equal = int((decided[0] == decided[1]).sum())
    interval = binomtest(equal, n).proportion_ci(CONFIDENCE, method="wilson")
    flips = np.bincount(decided[0] * classes + decided[1], minlength=classes * classes).reshape(classes, classes)
    return {
        "n": n,
        "agreement": {"share": equal / n, "low": interval.low, "high": interval.high},
        "flips": flips.tolist(),
        "distance": float(np.abs(first - second).sum(axis=1).mean() / 2),
        "key_missing": dict(zip(NAMES, answers.key_missing[:, chosen].mean(axis=1).tolist(), strict=True)),
        "labelled": _labelled(answers.labels[chosen], first, second),
    }


def _labelled(labels: IntArray, first: DoubleArray, second: DoubleArray) -> dict[str, Any] | None:
    known = labels >= 0
    if not known.any():
        return None
    truth, systems = labels[known], {"first": first[known], "second": second[known]}
    scores = {name: class_figures(truth, p.argmax(axis=1), p) for name, p in systems.items()}
    decided = {name: p.argmax(axis=1) for name, p in systems.items()}
    difference = {
        "accuracy": paired_bootstrap(truth, decided["second"], decided["first"], metric="accuracy"),
        "macro_f1": paired_bootstrap(truth, decided["second"], decided["first"]),
        **calibration_bootstrap(truth, systems["second"], systems["first"]),
    }
    return {
        "n": int(known.sum()),
        **{name: {score: found[score] for score in SCORES} for name, found in scores.items()},
        "difference": {score: asdict(interval) for score, interval in difference.items()},
    }


def tables(figures: dict[str, Any]) -> Iterator[RenderableType]:
    """Render the figures of `compare`."""
    for name, weights in figures["weights"].items():
        yield Text(f"{name}: {weights['folder']} ({weights['name']}, {weights['version'][:12]})")
    table = Table("subset", "utterances", "agreement", "95 %", "flips", "distance", "key missing")
    for name, group in {"all": figures["all"], **figures["by_subset"]}.items():
        agreement = group["agreement"]
        table.add_row(
            name,
            str(group["n"]),
            f"{agreement['share']:.3f}",
            f"{agreement['low']:.3f} to {agreement['high']:.3f}",
            str(round(group["n"] * (1 - agreement["share"]))),
            f"{group['distance']:.3f}",
            " / ".join(f"{share:.3f}" for share in group["key_missing"].values()),
        )
    yield table
    flips = Table("first answers ↓, second →", *figures["classes"])
    for name, counts in zip(figures["classes"], figures["all"]["flips"], strict=True):
        flips.add_row(name, *map(str, counts))
    yield flips
    labelled = {
        name: group["labelled"]
        for name, group in {"all": figures["all"], **figures["by_subset"]}.items()
        if group["labelled"] is not None
    }
    if labelled:
        scores = Table("subset", "labelled", "score", *NAMES, "second − first", "95 %")
        for name, found in labelled.items():
            for score in SCORES:
                gain = found["difference"][score]
                scores.add_row(
                    name,
                    str(found["n"]),
                    score,
                    *(f"{found[system][score]:.3f}" for system in NAMES),
                    f"{gain['difference']:+.3f}",
                    f"{gain['low']:+.3f} to {gain['high']:+.3f}",
                )
        yield scores
    if figures["failed"]:
        yield Text(f"{len(figures['failed'])} utterances were not accepted", style="yellow")
