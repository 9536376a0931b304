"""The commands `emmr train` and `emmr evaluate`: one function each, which returns the exit status 0."""

import json
import os
import sys
from pathlib import Path
from typing import cast, get_args

from pydantic import ValidationError
from rich.console import Console

from model.checkpoint import save_checkpoint
from model.config import EMMR, SYSTEMS
from model.errors import ConfigError
from model.pipeline import Pipeline, choose_device
from model.training.datasets.base import Split
from model.training.datasets.registry import open_corpus
from model.training.evaluate_split import evaluate_split
from model.training.plots import check_packages, write_report
from model.training.prepare import prepare_split
from model.training.report import tables, write_json
from model.training.settings import Recipe

DEFAULT_CACHE = Path(".cache") / "features"
RUNS = "runs"
WIDTH = 140  # characters of a line of the tables if the output is a file or a pipe


def train(
    corpus: str,
    data: Path,
    out: Path,
    config: Path | None,
    seed: int,
    epochs: int | None,
    resume: bool,
    device: str,
    cache: Path,
    workers: int,
    system: str | None = None,
) -> int:
    """Train on a corpus and write a weights folder.

    Args:
        corpus: see `open_corpus`.
        data: folder of the corpora, or of one, or a file.
        out: the weights folder; the run's state is kept in `runs/` beside it, until the next run of that name.
        config: a recipe as JSON (`Recipe`); the default one otherwise.
        seed: of everything random but the text adapters.
        epochs: instead of the recipe's; of each stage of a baseline.
        resume: continue an interrupted run.
        device: `auto`, `cpu`, `cuda`, …
        cache: folder of the feature cache.
        workers: processes for features.
        system: one of `SYSTEMS`, instead of the recipe's.

    Raises:
        CorpusError: bad data; names file and row.
        ConfigError: an unknown system, or a recipe that cannot be used.
    """
    # Not at the top: they import packages of the `train` extra that `evaluate` does not need.
    from model.training.crossfit import CrossFitPart
    from model.training.distributed import DistributedContext
    from model.training.experiment import adapted_config, prepare
    from model.training.model_card import model_card
    from model.training.reliability import fit_reliability
    from model.training.trainer import RunPaths, Trainer

    recipe = read_recipe(config)
    network_config = recipe.model.model_copy(update={"system": _known_system(system or recipe.model.system)})
    source = open_corpus(corpus, data)
    changed = {} if epochs is None else {"epochs": epochs, "baseline_epochs": epochs}
    settings = recipe.training.model_copy(update=changed)
    recipe = Recipe(model=adapted_config(network_config, source, out.name), training=settings)
    chosen = choose_device(device)
    with DistributedContext.join(chosen) as distributed:
        paths = RunPaths(out.parent / RUNS / out.name, cache, workers, distributed.device(chosen), distributed)
        console = Console(quiet=not distributed.is_main)
        prepared = prepare(source, recipe, paths)
        network, report = Trainer(source, prepared, recipe, seed, paths, console).fit(resume=resume)
    if not distributed.is_main:
        return 0
    training, validation = ([*source.examples(split), *source.unimodal(split)] for split in ("train", "val"))
    part = CrossFitPart(network, training, unseen=validation, complete=validation, features=prepared.features)
    reliability = fit_reliability([part], paths.device, steps=recipe.training.verdict_steps)
    figures = {}
    if source.examples("test"):
        figures["test"] = evaluate_split(network, reliability, source, "test", prepared.features, paths.device)
    card = model_card(recipe, source, {seed: report}, {seed: figures}, seed)
    version = save_checkpoint(out, network, prepared.preprocessing, prepared.adapters, card, reliability)
    epoch, macro_f1 = report.best_epoch, report.best_macro_f1
    console.print(f"{out}: version {version}, epoch {epoch}, validation macro-F1 {macro_f1:.4f}")
    for evaluation in figures.values():
        write_json(evaluation, out / "results.json")
        console.print(*tables(evaluation))
    return 0


def evaluate(
    corpus: str,
    data: Path,
    split: str,
    weights: Path,
    json_out: Path | None,
    device: str,
    report: Path | None = None,
    system: str | None = None,
) -> int:
    """Measure a weights folder by every protocol and print the figures.

    Args:
        corpus: see `open_corpus`.
        data: folder of the corpora, or the manifest file.
        split: `train`, `val`, `test` or `ood`.
        weights: the weights folder.
        json_out: JSON file to write every figure to.
        device: `auto`, `cpu`, `cuda`, …
        report: HTML file to write figures and diagrams to.
        system: one of `SYSTEMS` that the weights must be of; any if None.

    Raises:
        CorpusError: bad data; names file and row.
        CheckpointError: a weights folder that cannot be loaded.
        ConfigError: an unknown corpus, split or system, weights of another system, an empty split, classes that are
            not the weights', or a report without Matplotlib.
    """
    if report is not None:
        check_packages()
    if split not in get_args(Split):
        raise ConfigError(f"unknown split {split!r}; known are {', '.join(get_args(Split))}")
    _known_system(system or EMMR)
    source = open_corpus(corpus, data)
    pipeline = Pipeline.load(weights, device)
    if system not in (None, pipeline.config.system):
        raise ConfigError(f"the weights {weights} are of {pipeline.config.system}, not of {system}")
    if unknown := set(source.classes) - set(pipeline.config.classes):
        raise ConfigError(f"the weights do not know the class {min(unknown)!r}")
    part = cast(Split, split)
    if not source.examples(part):
        raise ConfigError(f"the corpus has no {split} examples")
    checkpoint = pipeline.checkpoint
    encoder, encoder_id = checkpoint.text_encoder, f"checkpoint {checkpoint.version}"
    preprocessing, workers = checkpoint.preprocessing, os.cpu_count() or 1
    features = prepare_split(source, part, pipeline.config, preprocessing, encoder, encoder_id, DEFAULT_CACHE, workers)
    evaluation = evaluate_split(checkpoint.network, checkpoint.reliability, source, part, features, pipeline.device)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(*tables(evaluation))
    if json_out is not None:
        write_json(evaluation, json_out)
        console.print(f"written to {json_out}")
    if report is not None:
        write_report(evaluation, report, f"{source.name}, {split}: weights {checkpoint.version}")
        console.print(f"written to {report}")
    return 0


def _known_system(name: str) -> str:
    if name not in SYSTEMS:
        raise ConfigError(f"unknown system {name!r}; known are {', '.join(SYSTEMS)}")
    return name


def read_recipe(path: Path | None) -> Recipe:
    """Read a recipe from a JSON file; the default one without a file.

    Raises:
        ConfigError: the file cannot be read or does not hold a recipe.
    """
    if path is None:
        return Recipe.default()
    try:
        return Recipe.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{path} holds no recipe: {error}") from error
