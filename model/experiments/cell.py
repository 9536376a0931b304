"""One cell of a grid: a training run, its evaluation, and the files of both."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from model.baselines.systems import Network
from model.config import ModelConfig
from model.errors import ConfigError
from model.experiments.cell_measures import answer_arrays, cost, doubt, reconstruction, representations
from model.experiments.grid import Cell
from model.experiments.results import ANSWERS, REPRESENTATION, RESULT
from model.features.text.encoder import TextEncoder
from model.modality import COMPLETE, ModalitySet, Utterance
from model.network.emmr import EMMR
from model.network.reliability import Reliability
from model.training.crossfit import CrossFitPart
from model.training.datasets.base import SPLITS, Corpus, FixedCorpus, Split
from model.training.datasets.registry import open_corpus
from model.training.decision_table import DecisionTable, Item, items_of
from model.training.evaluate_split import NetworkPredictor
from model.training.evaluation import Evaluation, draw_rates, evaluate_table
from model.training.experiment import adapted_config, prepare
from model.training.prepare import PreparedCorpus, prepare_split
from model.training.reliability import fit_reliability
from model.training.settings import Recipe
from model.training.trainer import RunPaths, Trainer
from model.training.training_state import FACTS

RESAMPLES: Final = 50
"""Of the bootstrap intervals in a cell; a report computes its own from the answers of all seeds."""
RUN: Final = "run"
"""Folder of an unfinished training, in that of its cell."""
PARTS: Final[tuple[Split, ...]] = ("test", "ood")
"""Of a corpus that a cell is evaluated on, where the corpus has them."""

Arrays = Mapping[str, npt.NDArray[Any]]


def prepare_corpus(cell: Cell, data: Path, paths: RunPaths) -> tuple[Corpus, PreparedCorpus]:
    """The corpus of a cell, and its features, adapters and teacher, which all its cells share.

    They are stored in `paths.folder` and `paths.cache`, and those of the last corpus are kept in memory.

    Raises:
        CorpusError: bad data; names file and row.
        ConfigError: the text encoder cannot be loaded.
    """
    return _prepare(cell.corpus, cell.limit, cell.base, data, paths)


@lru_cache(maxsize=1)
def _prepare(name: str, limit: int | None, base: Recipe, data: Path, paths: RunPaths) -> tuple[Corpus, PreparedCorpus]:
    corpus = open_corpus(name, data)
    if limit is not None:
        corpus = reduced_corpus(corpus, limit=limit)
    recipe = Recipe(model=adapted_config(base.model, corpus, name), training=base.training)
    prepared = prepare(corpus, recipe, replace(paths, folder=paths.folder / "prepared" / name))
    if corpus.examples("ood"):
        encoder = TextEncoder(recipe.model.text, paths.device)
        encoder.merge({key: value.to(paths.device) for key, value in prepared.adapters.items()})
        preprocessing, encoder_id = prepared.preprocessing, prepared.encoder_id
        prepared.features.update(
            prepare_split(corpus, "ood", recipe.model, preprocessing, encoder, encoder_id, paths.cache, paths.workers)
        )
    return corpus, prepared


def reduced_corpus(corpus: Corpus, *, limit: int | None = None, kept: ModalitySet = COMPLETE) -> Corpus:
    """The fixed examples of a corpus, fewer of them or with fewer modalities; nothing is drawn anew.

    Args:
        corpus: to take them from.
        limit: most examples of each part, evenly spaced; None for all.
        kept: modalities; examples without any of them are left out.
    """
    parts = {}
    for split in SPLITS:
        examples = corpus.examples(split)
        count = len(examples) if limit is None else min(limit, len(examples))
        chosen = [examples[number * len(examples) // count] for number in range(count)]
        reduced = [replace(e, sources={m: s for m, s in e.sources.items() if m in kept}) for e in chosen]
        parts[split] = [example for example in reduced if example.sources]
    found = FixedCorpus(parts)
    found.name, found.classes = corpus.name, corpus.classes
    return found


def run_cell(cell: Cell, data: Path, paths: RunPaths) -> None:
    """Train and evaluate a cell, unless it is finished; an interrupted training is continued.

    Args:
        cell: of a grid.
        data: folder of the corpora.
        paths: `folder` is that of all cells; the cell writes `answers.npz`, of EMMR with seed 0 `representation.npz`,
            and then `result.json` to its own.

    Raises:
        CorpusError: bad data; names file and row.
        ConfigError: a recipe that cannot be used, or a corpus without test examples.
    """
    folder = cell.folder(paths.folder)
    if (folder / RESULT).is_file():
        return
    clock = _clock(paths.device)
    started = clock()
    corpus, prepared = prepare_corpus(cell, data, paths)
    if not corpus.examples("test"):
        raise ConfigError(f"{cell.corpus} has no test examples")
    recipe = cell.recipe
    recipe = Recipe(model=adapted_config(recipe.model, corpus, cell.variant), training=recipe.training)
    if not cell.modalities.complete:
        corpus = reduced_corpus(corpus, kept=cell.modalities)
    prepared_at = clock()
    trainer = Trainer(corpus, prepared, recipe, cell.seed, replace(paths, folder=folder / RUN), Console(quiet=True))
    resumed = (trainer.folder / FACTS).is_file()
    network, report = trainer.fit(resume=True)
    trained_at = clock()
    torch.manual_seed(cell.seed)  # the training of a run that was interrupted left another state
    reliability = _fit_reliability(network, corpus, prepared, recipe, paths.device)
    tables = {split: _decide(network, reliability, corpus, split, prepared, paths.device) for split in PARTS}
    tables = {split: table for split, table in tables.items() if table.items}
    arrays: dict[str, npt.NDArray[Any]] = {}
    evaluations: dict[str, Evaluation] = {}
    for split, table in tables.items():
        rates = draw_rates(table.items)
        evaluations[split] = evaluate_table(table, recipe.model.classes, rate_patterns=rates, resamples=RESAMPLES)
        answers = answer_arrays(table, rates, paths=isinstance(network, EMMR))
        arrays |= {f"{split}_{name}": values for name, values in answers.items()}
    tested_at = clock()
    costs = cost(network, _longest(tables["test"].items), paths.device)
    folder.mkdir(parents=True, exist_ok=True)
    _write_arrays(folder / ANSWERS, arrays)
    if isinstance(network, EMMR) and cell.seed == 0:
        test = tables["test"]
        _write_arrays(folder / REPRESENTATION, representations(network, test, draw_rates(test.items), paths.device))
    commit, dirty = _revision()
    result = {
        "corpus": cell.corpus,
        "variant": cell.variant,
        "system": cell.system,
        "seed": cell.seed,
        "config_hash": cell.config_hash,
        "recipe": cell.recipe.model_dump(mode="json"),
        "commit": commit,
        "dirty": dirty,
        "machine": _machine(paths.device),
        "parameters": costs["parameters"],
        "epochs": len(report.history),
        "best_epoch": report.best_epoch,
        "validation": report.by_pattern,
        "losses": report.losses,
        "seconds": {
            "prepare": prepared_at - started,
            "train": None if resumed else trained_at - prepared_at,
            "test": tested_at - trained_at,
        },
        "cost": costs,
        "evaluations": {split: {**e, "diagrams": {}} for split, e in evaluations.items()},
        "doubt": {split: doubt(table) for split, table in tables.items()},
        "reconstruction": _reconstruction(network, corpus, prepared, recipe.model, paths.device),
    }
    temporary = folder / f"{RESULT}.partial"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / RESULT)
    shutil.rmtree(folder / RUN, ignore_errors=True)


def _fit_reliability(
    network: Network, corpus: Corpus, prepared: PreparedCorpus, recipe: Recipe, device: torch.device
) -> Reliability:
    """Calibration of any system, and gate and verdict of EMMR, as `model.training.commands.train` fits them."""
    training, validation = ([*corpus.examples(split), *corpus.unimodal(split)] for split in ("train", "val"))
    part = CrossFitPart(network, training, unseen=validation, complete=validation, features=prepared.features)
    return fit_reliability([part], device, steps=recipe.training.verdict_steps)


def _decide(
    network: Network,
    reliability: Reliability,
    corpus: Corpus,
    split: Split,
    prepared: PreparedCorpus,
    device: torch.device,
) -> DecisionTable:
    classes = network.config.classes
    items = items_of(corpus.examples(split), prepared.features, classes)
    return DecisionTable(NetworkPredictor(network, device, reliability), items, len(classes))


def _reconstruction(
    network: Network, corpus: Corpus, prepared: PreparedCorpus, config: ModelConfig, device: torch.device
) -> dict[str, dict[str, float]] | None:
    if not isinstance(network, EMMR):
        return None
    training, test = (
        [item.utterance for item in items_of(corpus.examples(split), prepared.features, config.classes)]
        for split in ("train", "test")
    )
    return reconstruction(network, training, test, device)


def _longest(items: Sequence[Item]) -> Utterance:
    """The utterance with the most modalities, and of those with the most slots."""
    utterances = [item.utterance for item in items]
    return max(utterances, key=lambda u: (len(u.presence), sum(len(x) for x in u.features.values())))


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds of the processor, which other processes do not prolong; of the clock where another device computes."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def _write_arrays(path: Path, arrays: Arrays) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def _machine(device: torch.device) -> dict[str, object]:
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
    }


@cache
def _processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")  # `platform.processor` is empty on Linux
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@cache
def _revision() -> tuple[str, bool]:
    """The commit of the code, and whether the code differs from it; empty where there is no repository."""
    git, root = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return "", False

    def run(*arguments: str) -> str:
        done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return "" if done.returncode else done.stdout.strip()

    return run("rev-parse", "HEAD"), bool(run("status", "--porcelain", "--untracked-files=no"))
