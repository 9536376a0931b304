"""Train the shipped weights from the corpora's files: `make weights`, or `python -m model.training.weights`.

The seed with the best validation macro-F1 is shipped, with a model card and every seed's figures in `results.json`.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from model.checkpoint import save_checkpoint
from model.config import ModelConfig
from model.features.text.encoder import TextEncoder
from model.network.emmr import EMMR
from model.network.reliability import Reliability
from model.training.cache import process_pool
from model.training.commands import DEFAULT_CACHE
from model.training.crossfit import FOLDS, CrossFitPart, CrossFold
from model.training.datasets.base import Corpus, Example, Source, Split
from model.training.datasets.composite import Composite2Corpus
from model.training.datasets.registry import open_corpus
from model.training.evaluate_split import evaluate_split
from model.training.evaluation import Evaluation
from model.training.experiment import prepare
from model.training.model_card import model_card
from model.training.prepare import PreparedCorpus, prepare_split
from model.training.progress import FitReport
from model.training.reliability import fit_reliability
from model.training.settings import Recipe
from model.training.speech_slots import speech_slots
from model.training.trainer import RunPaths, Trainer
from model.types import FloatArray

PARTS: Final[tuple[tuple[str, Split], ...]] = (
    ("composite2", "test"),
    ("composite2", "ood"),
    ("composite", "test"),
    ("voices", "test"),
    ("voices", "ood"),
    ("faces", "test"),
)
"""Corpora and parts that the card and `results.json` report on."""
FOLDS_WEIGHT = 0.25  # of all folds together, the validation part 1: their networks saw less data than the shipped one
VALIDATION_DRAWS = 3  # further pairings of each validation sentence, for calibration and verdict


def build(
    data: Path,
    out: Path,
    work: Path,
    cache: Path,
    seeds: tuple[int, ...],
    *,
    resume: bool,
    recipe: Recipe | None = None,
) -> None:
    """Train every seed, choose one and write the weights folder.

    Args:
        data: folder of the corpora.
        out: the weights folder.
        work: folder of the runs.
        cache: folder of the feature cache.
        seeds: one run each.
        resume: continue interrupted runs.
        recipe: the default one if None.

    Raises:
        CorpusError: bad data; names file and row.
    """
    console, started, recipe = Console(), time.monotonic(), recipe or Recipe.default()
    cores = os.cpu_count() or 1
    paths = RunPaths(work, cache, cores, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    corpus = Composite2Corpus(data)
    prepared = prepare(corpus, recipe, paths)
    console.print(f"prepared in {time.monotonic() - started:.0f} s")
    # Small networks gain little from a second thread, so runs are parallel instead.
    with process_pool(min(len(seeds) + FOLDS, cores)) as pool:
        folds = [pool.submit(_train, data, recipe, _fold_paths(paths, fold), fold, 0, resume) for fold in range(FOLDS)]
        runs = {seed: pool.submit(_train, data, recipe, paths, None, seed, resume) for seed in seeds}
        for fold in folds:
            fold.result()
        reports = {seed: run.result() for seed, run in runs.items()}
    console.print(f"trained in {time.monotonic() - started:.0f} s")
    networks = {seed: _network(recipe, paths, seed) for seed in seeds}
    best = max(seeds, key=lambda seed: reports[seed].best_macro_f1)
    others = [_fold_part(corpus, recipe, paths, fold) for fold in range(FOLDS)]
    speech = speech_slots(corpus, recipe.model, prepared, paths)
    reliabilities = {
        seed: fit_reliability(
            [_validation_part(corpus, network, prepared), *others], paths.device, speech, recipe.training.verdict_steps
        )
        for seed, network in networks.items()
    }
    console.print(f"reliability fitted in {time.monotonic() - started:.0f} s")
    evaluations = {
        seed: evaluate_parts(network, reliabilities[seed], data, prepared, recipe.model, paths)
        for seed, network in networks.items()
    }
    card = model_card(recipe, corpus, reports, evaluations, best)
    version = save_checkpoint(out, networks[best], prepared.preprocessing, prepared.adapters, card, reliabilities[best])
    figures = {
        seed: {part: {**evaluation, "diagrams": None} for part, evaluation in parts.items()}
        for seed, parts in evaluations.items()
    }
    results = {
        "version": version,
        "seed": best,
        "test": figures[best],
        "seeds": {str(s): {"validation": asdict(report), "test": figures[s]} for s, report in reports.items()},
        "recipe": recipe.model_dump(mode="json"),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"{out}: version {version}, seed {best}, {time.monotonic() - started:.0f} s in all")


def _train(data: Path, recipe: Recipe, paths: RunPaths, fold: int | None, seed: int, resume: bool) -> FitReport:
    whole = Composite2Corpus(data)
    corpus = whole if fold is None else CrossFold(whole, fold)
    prepared = prepare(corpus, recipe, paths)
    trainer = Trainer(corpus, prepared, recipe, seed, paths, Console(width=200))
    network, report = trainer.fit(resume=resume)
    save_file(network.state_dict(), _weights(paths, seed))
    return report


def _fold_paths(paths: RunPaths, fold: int) -> RunPaths:
    """The paths of a fold's run; one process, as all its features but the texts' are cached."""
    return replace(paths, folder=paths.folder / f"fold-{fold}", workers=1)


def _fold_part(corpus: Composite2Corpus, recipe: Recipe, paths: RunPaths, fold: int) -> CrossFitPart:
    own, part = _fold_paths(paths, fold), CrossFold(corpus, fold)
    features = prepare(part, recipe, own).features
    return _part(part, _network(recipe, own, 0), features, part.examples("test"), FOLDS_WEIGHT / FOLDS)


def _validation_part(corpus: Composite2Corpus, network: EMMR, prepared: PreparedCorpus) -> CrossFitPart:
    """The network with the validation part: its pairs, and further pairings of the same sentences."""
    validation, rng = corpus.examples("val"), np.random.default_rng(2022)
    drawn = [corpus.draw(validation, lambda _: True, "val", rng) for _ in range(VALIDATION_DRAWS)]
    return _part(corpus, network, prepared.features, [*validation, *chain.from_iterable(drawn)])


def _part(
    corpus: Corpus,
    network: EMMR,
    features: Mapping[Source, FloatArray],
    complete: Sequence[Example],
    weight: float = 1.0,
) -> CrossFitPart:
    training, unseen = ([*corpus.examples(split), *corpus.unimodal(split)] for split in ("train", "val"))
    return CrossFitPart(network, training, unseen, complete, features, weight)


def evaluate_parts(
    network: EMMR, reliability: Reliability, data: Path, prepared: PreparedCorpus, config: ModelConfig, paths: RunPaths
) -> dict[str, Evaluation]:
    """Evaluate on each of `PARTS`; `<corpus> <split>` → evaluation."""
    encoder = TextEncoder(config.text, paths.device)
    encoder.merge({name: value.to(paths.device) for name, value in prepared.adapters.items()})
    found, encoder_id = {}, prepared.encoder_id
    for name, split in PARTS:
        corpus = open_corpus(name, data)
        features = prepare_split(
            corpus, split, config, prepared.preprocessing, encoder, encoder_id, paths.cache, paths.workers
        )
        found[f"{name} {split}"] = evaluate_split(network, reliability, corpus, split, features, paths.device)
    return found


def _network(recipe: Recipe, paths: RunPaths, seed: int) -> EMMR:
    network = EMMR(recipe.model)
    network.load_state_dict(load_file(_weights(paths, seed)))
    return network.to(paths.device).eval()


def _weights(paths: RunPaths, seed: int) -> Path:
    return paths.folder / f"seed-{seed}" / "best.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Train the shipped weights.")
    folders = "composite/, composite2/, ravdess/, voices/, faces/, meld/ and mosi/"
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {folders}")
    parser.add_argument("--out", type=Path, default=Path("weights/default"))
    parser.add_argument("--work", type=Path, default=Path("weights/runs/default"))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--resume", action="store_true", help="continue an interrupted build")
    chosen = parser.parse_args(arguments)
    build(chosen.data, chosen.out, chosen.work, chosen.cache, tuple(chosen.seeds), resume=chosen.resume)


if __name__ == "__main__":
    main()
