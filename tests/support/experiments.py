"""Cells of a grid with drawn answers, in the files that `model.experiments.cell` writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.config import EMMR, SYSTEMS
from model.experiments.grid import PARTIAL
from model.experiments.measures import LOSSES
from model.experiments.results import ANSWERS, REPRESENTATION, RESULT, CellResult, load_result
from model.modality import MODALITIES, SUBSETS
from model.training.metrics import class_figures, class_scores
from model.training.missing_patterns import RATES

POLARITIES = ("negative", "neutral", "positive")
GATES = {
    name: {"share": 0.25, "macro_f1": 0.5, "accuracy": 0.6} for name in ("answer", "rule", "score", "never", "always")
}
SIMILARITIES = {"network": 0.8, "mean": 0.7, "copy": 0.2}
_STRENGTH = {"emmr": 1.6, "tate": 1.2, "mmin": 1.1, "late-fusion": 1.3, "classical": 1.3}


def write_cell(
    work: Path,
    corpus: str,
    variant: str,
    seed: int = 0,
    *,
    items: int = 60,
    splits: Sequence[str] = ("test",),
    classes: Sequence[str] = POLARITIES,
) -> CellResult:
    """Write a cell whose answers are better the more modalities there are; EMMR and some systems are better.

    Labels and what is missing depend on corpus and part only; answers also on variant and seed.
    """
    folder = work / "cells" / corpus / variant / f"{seed}-0123456789abcdef"
    folder.mkdir(parents=True)
    baseline = variant in SYSTEMS and variant != EMMR
    rng = np.random.default_rng([seed, *variant.encode()])
    arrays: dict[str, Any] = {}
    evaluations = {}
    for split in splits:
        answers = _answers(corpus, variant, seed, split, items, classes)
        evaluations[split] = _evaluation(answers, classes) | {"gate": None if baseline else {"gates": GATES}}
        if not baseline:
            paths = (answers["answers"].copy() for _ in range(2))
            answers |= dict(zip(("transformer", "ensemble"), paths, strict=True))
            answers["transformer"][1:, ::5] = answers["answers"][1:, ::5, ::-1]
        arrays |= {f"{split}_{name}": array for name, array in answers.items()}
    np.savez_compressed(folder / ANSWERS, **arrays)
    if not baseline and seed == 0:
        labels = arrays["test_labels"]
        points: dict[str, Any] = {str(rate): rng.normal(labels[:, None], 1 + rate, (items, 8)) for rate in (0.0, 0.5)}
        np.savez_compressed(folder / REPRESENTATION, labels=labels, **points)
    scores = ("one_minus_max", "entropy") if baseline else ("one_minus_max", "entropy", "verdict")
    ranking = {name: {"auroc": 0.6, "average_precision": 0.3, "n": 180, "positives": 40} for name in scores}
    result = {
        "corpus": corpus,
        "variant": variant,
        "system": variant if baseline else EMMR,
        "seed": seed,
        "config_hash": "0123456789abcdef",
        "recipe": {},
        "commit": "c" * 40,
        "dirty": False,
        "machine": {"cpu": "processor", "cores": 2, "torch": "2.0", "device": "cpu"},
        "parameters": 1000,
        "epochs": 3,
        "best_epoch": 2,
        "validation": dict.fromkeys((subset.name for subset in SUBSETS), 0.5 + _STRENGTH.get(variant, 1) / 10),
        "losses": [dict.fromkeys(LOSSES, (1 + rng.random()) / epoch) for epoch in (1, 2, 3)],
        "seconds": {"prepare": 1.0, "train": 60.0 + seed, "test": 2.0},
        "cost": {"parameters": 1000.0 * len(variant), "operations": 10.0 ** (4 + len(variant) % 3), "ms": 0.5},
        "evaluations": evaluations,
        "doubt": {split: dict.fromkeys(("all", "one_missing", "two_missing"), ranking) for split in splits},
        "reconstruction": None if baseline else {m: {"n": items, **SIMILARITIES} for m in MODALITIES},
    }
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")
    return load_result(folder)


def _answers(
    corpus: str, variant: str, seed: int, split: str, items: int, classes: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    shared = np.random.default_rng([*corpus.encode(), *split.encode()])
    labels = shared.integers(len(classes), size=items)
    missing = shared.random(items)
    rates = np.stack([np.where(missing < rate, 1 + np.arange(items) % 3, 0) for rate in RATES]).astype(np.int8)
    rng = np.random.default_rng([seed, *variant.encode()])

    signal = _STRENGTH.get(variant, 0.9) * np.array([len(subset) for subset in SUBSETS]) / 2
    logits = signal[:, None, None] * np.eye(len(classes))[labels] + rng.normal(size=(7, items, len(classes)))
    exponents = np.exp(logits)
    answers = (exponents / exponents.sum(axis=-1, keepdims=True)).astype(np.float32)
    if (kept := PARTIAL.get(variant)) is not None:
        answers[[not set(subset) <= set(kept) for subset in SUBSETS]] = np.nan
        rates[:] = SUBSETS.index(kept)
    ids = np.array([f"item{number:03}" for number in range(items)])
    return {"ids": ids, "labels": labels, "answers": answers, "rates": rates}


def _evaluation(arrays: dict[str, np.ndarray[Any, Any]], classes: Sequence[str]) -> dict[str, Any]:
    labels, answers, columns = arrays["labels"], arrays["answers"], np.arange(arrays["labels"].size)
    patterns = {}
    for subset, given in zip(SUBSETS, answers, strict=True):
        used = ~np.isnan(given[:, 0])
        patterns[subset.name] = class_figures(labels[used], given[used].argmax(axis=-1), given[used].astype(np.float64))
    rates = {
        str(rate): class_scores(labels, answers[row, columns].argmax(axis=-1))
        for rate, row in zip(RATES, arrays["rates"], strict=True)
    }
    return {"classes": list(classes), "n": labels.size, "patterns": patterns, "rates": rates}
