"""The shipped weights, the whole way from the corpora's files: `python -m model.training.weights`.

For: `make weights`. Prepares once, trains every seed side by side, ships the one with the best validation macro-F1, and
writes its model card and `results.json` with every seed's figures.
Does not know: which recipe is a good one; that is `Recipe.default`.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from model.checkpoint import save_checkpoint
from model.emmr.network import EMMR
from model.training.card import model_card
from model.training.commands import DEFAULT_CACHE
from model.training.corpora.composite import CompositeCorpus
from model.training.measure import evaluate_split
from model.training.progress import FitReport
from model.training.report import tables
from model.training.run import Workplace, fit, prepare
from model.training.settings import Recipe

SEEDS = (0, 1, 2, 3, 4)


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
        data: folder of the composite corpus's parts.
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
    place = Workplace(work, cache, cores, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    corpus = CompositeCorpus(data)
    prepared = prepare(corpus, recipe, place)
    console.print(f"prepared in {time.monotonic() - started:.0f} s")
    # Small networks gain little from a second thread, so seeds run side by side instead, one thread each.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(seeds), cores), mp_context=context, initializer=_one_thread) as pool:
        runs = [pool.submit(_train_seed, data, recipe, place, seed, resume) for seed in seeds]
        reports = {seed: run.result() for seed, run in zip(seeds, runs, strict=True)}
    console.print(f"trained in {time.monotonic() - started:.0f} s")
    networks = {seed: _network(recipe, place, seed) for seed in seeds}
    evaluations = {
        seed: evaluate_split(network, corpus, "test", prepared.features, place.device)
        for seed, network in networks.items()
    }
    best = max(seeds, key=lambda seed: reports[seed].best_macro_f1)
    card = model_card(recipe, corpus, reports, evaluations, best)
    version = save_checkpoint(out, networks[best], prepared.preprocessing, prepared.adapters, card)
    results: dict[str, Any] = {
        "version": version,
        "seed": best,
        "test": evaluations[best],
        "seeds": {str(seed): {"validation": asdict(reports[seed]), "test": evaluations[seed]} for seed in seeds},
        "recipe": recipe.model_dump(mode="json"),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(*tables(evaluations[best]))
    console.print(f"{out}: version {version}, seed {best}, {time.monotonic() - started:.0f} s in all")


def _train_seed(data: Path, recipe: Recipe, place: Workplace, seed: int, resume: bool) -> FitReport:
    corpus = CompositeCorpus(data)
    network, report = fit(
        corpus, prepare(corpus, recipe, place), recipe, seed, place, resume=resume, console=Console(width=200)
    )
    save_file(network.state_dict(), _weights(place, seed))
    return report


def _network(recipe: Recipe, place: Workplace, seed: int) -> EMMR:
    network = EMMR(recipe.model)
    network.load_state_dict(load_file(_weights(place, seed)))
    return network.to(place.device).eval()


def _weights(place: Workplace, seed: int) -> Path:
    return place.folder / f"seed-{seed}" / "best.safetensors"


def _one_thread() -> None:
    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Train the shipped weights.")
    parser.add_argument("--data", type=Path, required=True, help="folder with composite/, ravdess/, meld/ and mosi/")
    parser.add_argument("--out", type=Path, default=Path("weights/default"))
    parser.add_argument("--work", type=Path, default=Path("weights/runs/default"))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted build")
    chosen = parser.parse_args(arguments)
    build(chosen.data, chosen.out, chosen.work, chosen.cache, tuple(chosen.seeds), resume=chosen.resume)


if __name__ == "__main__":
    main()
