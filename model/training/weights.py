"""Train the shipped weights from the corpora's files: `make weights`, or `python -m model.training.weights`.

The seed with the best validation macro-F1 is shipped, with a model card and every seed's figures in `results.json`.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from model.checkpoint import save_checkpoint
from model.config import ModelConfig
from model.features.text.encoder import TextEncoder
from model.network.emmr import EMMR
from model.network.reliability import Reliability
from model.training.commands import DEFAULT_CACHE
from model.training.crossfit import FOLDS, CrossFold
from model.training.datasets.base import Split
from model.training.datasets.composite2 import Composite2Corpus
from model.training.datasets.registry import open_corpus
from model.training.datasets.signals import Recording
from model.training.evaluate_split import evaluate_split
from model.training.evaluation import Evaluation
from model.training.experiment import RunPaths, fit, prepare
from model.training.model_card import model_card
from model.training.prepare import PreparedCorpus, prepare_split
from model.training.progress import FitReport
from model.training.reliability import Witness, fit_reliability
from model.training.settings import Recipe
from model.training.speech_slots import speech_slots

SEEDS = (0, 1, 2)
PARTS: Final[tuple[tuple[str, Split], ...]] = (
    ("composite2", "test"),
    ("composite2", "ood"),
    ("composite", "test"),
    ("voices", "test"),
    ("voices", "ood"),
    ("faces", "test"),
)
"""What the card and `results.json` report on."""
FOLDS_WEIGHT = 0.25
"""Of all folds together beside the validation part: their networks have seen less, and err more, than the shipped."""
VALIDATION_DRAWS = 3
"""How often each validation sentence is paired anew for calibration and verdict."""


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
    """Train and write `out`.

    Args:
        data: folder of the corpora.
        out: weights folder.
        work: folder of the runs.
        cache: folder of the feature cache.
        seeds: one run each.
        resume: go on with interrupted runs.
        recipe: instead of the shipped weights' own.

    Raises:
        CorpusError: bad data; names file and row.
    """
    console = Console()
    started = time.monotonic()
    recipe = recipe or Recipe.default()
    cores = os.cpu_count() or 1
    place = RunPaths(work, cache, cores, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    corpus = Composite2Corpus(data)
    prepared = prepare(corpus, recipe, place)
    console.print(f"prepared in {time.monotonic() - started:.0f} s")
    # Small networks gain little from a second thread, so runs go side by side instead, one thread each.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(seeds) + FOLDS, cores), mp_context=context, initializer=_one_thread) as pool:
        folds = [pool.submit(_train, data, recipe, _fold_place(place, fold), fold, 0, resume) for fold in range(FOLDS)]
        runs = [pool.submit(_train, data, recipe, place, None, seed, resume) for seed in seeds]
        for fold in folds:
            fold.result()
        reports = {seed: run.result() for seed, run in zip(seeds, runs, strict=True)}
    console.print(f"trained in {time.monotonic() - started:.0f} s")
    networks = {seed: _network(recipe, place, seed) for seed in seeds}
    best = max(seeds, key=lambda seed: reports[seed].best_macro_f1)
    others = [_fold_witness(corpus, recipe, place, fold) for fold in range(FOLDS)]
    speech = speech_slots(corpus, recipe.model, prepared, place)
    reliabilities = {
        seed: fit_reliability(
            [_witness(corpus, network, prepared), *others], place.device, speech, recipe.training.verdict_steps
        )
        for seed, network in networks.items()
    }
    console.print(f"reliability fitted in {time.monotonic() - started:.0f} s")
    evaluations = {
        seed: evaluate_everything(network, reliabilities[seed], data, prepared, recipe.model, place)
        for seed, network in networks.items()
    }
    card = model_card(recipe, corpus, reports, evaluations, best)
    version = save_checkpoint(out, networks[best], prepared.preprocessing, prepared.adapters, card, reliabilities[best])
    results = results_json(version, best, reports, evaluations, recipe)
    (out / "results.json").write_text(results, encoding="utf-8")
    console.print(f"{out}: version {version}, seed {best}, {time.monotonic() - started:.0f} s in all")


def results_json(
    version: str,
    best: int,
    reports: Mapping[int, FitReport],
    evaluations: Mapping[int, Mapping[str, Evaluation]],
    recipe: Recipe,
) -> str:
    """`results.json`: every seed's figures, without diagrams; the shipped seed's apart."""

    def figures(seed: int) -> dict[str, Any]:
        return {part: {**evaluation, "diagrams": None} for part, evaluation in evaluations[seed].items()}

    results: dict[str, Any] = {
        "version": version,
        "seed": best,
        "test": figures(best),
        "seeds": {str(s): {"validation": asdict(report), "test": figures(s)} for s, report in reports.items()},
        "recipe": recipe.model_dump(mode="json"),
    }
    return json.dumps(results, indent=1) + "\n"


def _train(data: Path, recipe: Recipe, place: RunPaths, fold: int | None, seed: int, resume: bool) -> FitReport:
    whole = Composite2Corpus(data)
    corpus = whole if fold is None else CrossFold(whole, fold)
    network, report = fit(
        corpus, prepare(corpus, recipe, place), recipe, seed, place, resume=resume, console=Console(width=200)
    )
    save_file(network.state_dict(), _weights(place, seed))
    return report


def _fold_place(place: RunPaths, fold: int) -> RunPaths:
    """Where a fold is trained; its features are in the cache already but for its texts."""
    return replace(place, folder=place.folder / f"fold-{fold}", workers=1)


def _fold_witness(corpus: Composite2Corpus, recipe: Recipe, place: RunPaths, fold: int) -> Witness:
    own = _fold_place(place, fold)
    part = CrossFold(corpus, fold)
    prepared = prepare(part, recipe, own)
    return Witness(
        network=_network(recipe, own, 0),
        training=[*part.examples("train"), *part.unimodal("train")],
        unseen=[*part.examples("val"), *part.unimodal("val")],
        complete=part.examples("test"),
        features=prepared.features,
        weight=FOLDS_WEIGHT / FOLDS,
    )


def _witness(corpus: Composite2Corpus, network: EMMR, prepared: PreparedCorpus) -> Witness:
    """The network with the validation part: its pairs, and the same sentences paired anew."""
    validation = corpus.examples("val")
    rng = np.random.default_rng(2022)
    drawn = [example for _ in range(VALIDATION_DRAWS) for example in corpus.draw(validation, _any, "val", rng)]
    return Witness(
        network=network,
        training=[*corpus.examples("train"), *corpus.unimodal("train")],
        unseen=[*validation, *corpus.unimodal("val")],
        complete=[*validation, *drawn],
        features=prepared.features,
    )


def evaluate_everything(
    network: EMMR, reliability: Reliability, data: Path, prepared: PreparedCorpus, config: ModelConfig, place: RunPaths
) -> dict[str, Evaluation]:
    """Evaluate on each of `PARTS`: `<corpus> <split>` → evaluation."""
    encoder = TextEncoder(config.text, place.device)
    encoder.merge({name: value.to(place.device) for name, value in prepared.adapters.items()})
    found = {}
    for name, split in PARTS:
        corpus = open_corpus(name, data)
        features = prepare_split(
            corpus, split, config, prepared.preprocessing, encoder, prepared.encoder_id, place.cache, place.workers
        )
        found[f"{name} {split}"] = evaluate_split(network, reliability, corpus, split, features, place.device)
    return found


def _any(_: Recording) -> bool:
    return True


def _network(recipe: Recipe, place: RunPaths, seed: int) -> EMMR:
    network = EMMR(recipe.model)
    network.load_state_dict(load_file(_weights(place, seed)))
    return network.to(place.device).eval()


def _weights(place: RunPaths, seed: int) -> Path:
    return place.folder / f"seed-{seed}" / "best.safetensors"


def _one_thread() -> None:
    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Train the shipped weights.")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with composite/, composite2/, ravdess/, voices/, faces/, meld/ and mosi/",
    )
    parser.add_argument("--out", type=Path, default=Path("weights/default"))
    parser.add_argument("--work", type=Path, default=Path("weights/runs/default"))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted build")
    chosen = parser.parse_args(arguments)
    build(chosen.data, chosen.out, chosen.work, chosen.cache, tuple(chosen.seeds), resume=chosen.resume)


if __name__ == "__main__":
    main()
