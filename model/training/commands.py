"""What `emmr train` and `emmr evaluate` do.

For: the command line; each function is one command from arguments to exit status.
Does not know: how arguments are parsed or errors shown.
"""

import json
import os
import sys
from pathlib import Path
from typing import cast, get_args

import torch
from pydantic import ValidationError
from rich.console import Console

from model.checkpoint import save_checkpoint
from model.errors import ConfigError
from model.network.emmr import EMMR
from model.network.reliability import Reliability
from model.pipeline import Pipeline, choose_device
from model.training.datasets.base import Corpus, Split
from model.training.datasets.registry import open_corpus
from model.training.evaluate_split import evaluate_split
from model.training.evaluation import Evaluation
from model.training.plots import check_packages, write_report
from model.training.prepare import PreparedCorpus, prepare_split
from model.training.report import tables, write_json
from model.training.settings import Recipe

DEFAULT_CACHE = Path(".cache") / "features"
RUNS = "runs"
WIDTH = 140
"""Of tables that are written to a file or a pipe, in characters."""


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
) -> int:
    """Train on a corpus and write a weights folder.

    Args:
        corpus: `composite` or `manifest`.
        data: its folder, or the manifest file.
        out: the weights folder; the run's state lies beside it, under `runs/`, until the next run of that name.
        config: a recipe as JSON (`Recipe`); the default one otherwise.
        seed: of everything random but the text adapters.
        epochs: instead of the recipe's.
        resume: go on with an interrupted run.
        device: `auto`, `cpu`, `cuda`, …
        cache: folder of the feature cache.
        workers: processes for features.

    Returns:
        0.

    Raises:
        CorpusError: bad data; names file and row.
        ConfigError: a recipe that cannot be used.
    """
    # Here and not above: they need the packages of the `train` extra, and `evaluate` shall not.
    from model.training.distributed import DistributedContext
    from model.training.experiment import RunPaths, adapted_config, fit, prepare
    from model.training.model_card import model_card
    from model.training.reliability import Witness, fit_reliability

    source = open_corpus(corpus, data)
    recipe = read_recipe(config)
    settings = recipe.training if epochs is None else recipe.training.model_copy(update={"epochs": epochs})
    recipe = Recipe(model=adapted_config(recipe.model, source.classes, out.name), training=settings)
    chosen = choose_device(device)
    with DistributedContext.join(chosen) as world:
        place = RunPaths(out.parent / RUNS / out.name, cache, workers, world.device(chosen), world)
        console = Console(quiet=not world.leads)
        prepared = prepare(source, recipe, place)
        network, report = fit(source, prepared, recipe, seed, place, resume=resume, console=console)
    if not world.leads:
        return 0
    validation = [*source.examples("val"), *source.unimodal("val")]
    witness = Witness(
        network=network,
        training=[*source.examples("train"), *source.unimodal("train")],
        unseen=validation,
        complete=validation,
        features=prepared.features,
    )
    reliability = fit_reliability([witness], place.device, steps=recipe.training.verdict_steps)
    test = test_figures(network, reliability, source, prepared, place.device)
    card = model_card(recipe, source, {seed: report}, {} if test is None else {seed: {"test": test}}, seed)
    version = save_checkpoint(out, network, prepared.preprocessing, prepared.adapters, card, reliability)
    console.print(
        f"{out}: version {version}, epoch {report.best_epoch}, validation macro-F1 {report.best_macro_f1:.4f}"
    )
    if test is not None:
        write_json(test, out / "results.json")
        console.print(*tables(test))
    return 0


def evaluate(
    corpus: str,
    data: Path,
    split: str,
    weights: Path,
    json_out: Path | None,
    device: str,
    report: Path | None = None,
) -> int:
    """Measure a weights folder by every protocol; prints tables.

    Args:
        corpus: a name that `open_corpus` knows.
        data: its folder, or the manifest file.
        split: `train`, `val`, `test` or `ood`.
        weights: the weights folder.
        json_out: file to write every figure to.
        device: `auto`, `cpu`, `cuda`, …
        report: file to write an HTML report with diagrams to.

    Returns:
        0.

    Raises:
        CorpusError: bad data; names file and row.
        CheckpointError: a weights folder that cannot be loaded.
        ConfigError: an unknown corpus or split, an empty split, classes that are not the weights', or a report is
            asked for without Matplotlib.
    """
    if report is not None:
        check_packages()
    if split not in get_args(Split):
        raise ConfigError(f"unknown split {split!r}; known are {', '.join(get_args(Split))}")
    source = open_corpus(corpus, data)
    pipeline = Pipeline.load(weights, device)
    unknown = set(source.classes) - set(pipeline.config.classes)
    if unknown:
        raise ConfigError(f"the weights do not know the class {min(unknown)!r}")
    part = cast(Split, split)
    if not source.examples(part):
        raise ConfigError(f"the corpus has no {split} examples")
    checkpoint = pipeline.checkpoint
    features = prepare_split(
        source,
        part,
        pipeline.config,
        checkpoint.preprocessing,
        checkpoint.text_encoder,
        f"checkpoint {checkpoint.version}",
        DEFAULT_CACHE,
        os.cpu_count() or 1,
    )
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


def read_recipe(path: Path | None) -> Recipe:
    """The recipe of a JSON file, or the default one.

    Raises:
        ConfigError: the file cannot be read or does not hold a recipe.
    """
    if path is None:
        return Recipe.default()
    try:
        return Recipe.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{path} holds no recipe: {error}") from error


def test_figures(
    network: EMMR, reliability: Reliability, corpus: Corpus, prepared: PreparedCorpus, device: torch.device
) -> Evaluation | None:
    """The test part's evaluation, or None where the corpus has no test part.

    Args:
        network: in eval mode, on `device`.
        reliability: fitted for the network, or unfitted, on the host.
        corpus: with the test part.
        prepared: its features.
        device: where the network is.
    """
    if not corpus.examples("test"):
        return None
    return evaluate_split(network, reliability, corpus, "test", prepared.features, device)
