"""The commands `emmr train` and `emmr evaluate`: one function each, which returns the exit status 0."""

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, get_args

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from model.baselines.systems import Network
from model.checkpoint import CONFIG, HASHES, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from model.config import EMMR, SYSTEMS
from model.errors import ConfigError
from model.pipeline import Pipeline, choose_device
from model.training.datasets.base import Corpus, Split
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.registry import open_corpus
from model.training.evaluate_split import evaluate_split
from model.training.plots import check_packages, write_report
from model.training.prepare import PreparedCorpus, prepare_split
from model.training.pretraining import MODALITIES_PRETRAINED
from model.training.report import tables, write_json, write_whole
from model.training.settings import Recipe, TrainingSettings

if TYPE_CHECKING:
    from model.training.progress import FitReport
    from model.training.trainer import RunPaths

DEFAULT_CACHE = Path(".cache") / "features"
RUNS = "runs"
REPORT = "report.html"
COMPARISON = "comparison.json"
LICENSE = "LICENSE"
WIDTH = 140  # characters of a line of the tables if the output is a file or a pipe

SMALL_SET_STEPS: Final = 60
"""Optimiser steps that the default recipe takes at least on a manifest; its epochs may have one step."""
SMALL_SET_PRETRAINING_STEPS: Final = 1000
"""Optimiser steps of the pretraining of encoders on soft targets, at least, on a manifest."""
SMALL_SET_EXPERT_STEPS: Final = 500
"""Optimiser steps of an expert, at most, where a manifest takes more epochs than the recipe's."""


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
    init: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Train on a corpus and write a weights folder, with a report and a comparison with references.

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
        init: weights of EMMR to start from; the model is then theirs, and the recipe's `model` is not used.
        overwrite: write to a folder that holds weights.

    Raises:
        CorpusError: bad data; names file and row.
        CheckpointError: `init` cannot be loaded.
        ConfigError: an unknown system, a recipe or `init` that cannot be used, or a folder that holds weights.
    """
    # Not at the top: they import packages of the `train` extra that `evaluate` does not need.
    from model.training.distributed import DistributedContext
    from model.training.experiment import adapted_config, prepare
    from model.training.initial import fine_tuned_config
    from model.training.trainer import RunPaths, Trainer
    from model.training.training_state import FACTS

    recipe = read_recipe(config)
    network_config = recipe.model.model_copy(update={"system": _known_system(system or recipe.model.system)})
    run = out.parent / RUNS / out.name
    resumed = resume and (run / f"seed-{seed}" / FACTS).is_file()
    _check_folder(out, allowed=overwrite or resumed)
    source = open_corpus(corpus, data)
    initial = None
    if init is not None:
        if network_config.system != EMMR:
            raise ConfigError(f"--init starts a training of emmr, not of {network_config.system}")
        initial = load_checkpoint(init, torch.device("cpu"))
        network_config = fine_tuned_config(initial, source.classes, out.name)
    settings = recipe.training
    if config is None:
        settings = suited_settings(settings, source, tuned=init is not None)
    if epochs is not None:
        settings = settings.model_copy(update={"epochs": epochs, "baseline_epochs": epochs})
    recipe = Recipe(model=adapted_config(network_config, source, out.name), training=settings)
    chosen = choose_device(device)
    with DistributedContext.join(chosen) as distributed:
        paths = RunPaths(run, cache, workers, distributed.device(chosen), distributed)
        console = Console(quiet=not distributed.is_main)
        for notice in source.notices if isinstance(source, ManifestCorpus) else ():
            console.print(Text(f"warning: {notice}", style="yellow"), soft_wrap=True)
        prepared = prepare(source, recipe, paths, initial)
        network, report = Trainer(source, prepared, recipe, seed, paths, console, initial).fit(resume=resume)
    if distributed.is_main:
        _finish(out, source, recipe, seed, paths, prepared, network, report, initial, console)
    return 0


def _finish(
    out: Path,
    corpus: Corpus,
    recipe: Recipe,
    seed: int,
    paths: "RunPaths",
    prepared: PreparedCorpus,
    network: Network,
    course: "FitReport",
    initial: Checkpoint | None,
    console: Console,
) -> None:
    """Calibrate, measure and compare a trained network, and write and print everything."""
    from model.training.comparison import REFERENCES, compare_with_references
    from model.training.crossfit import CrossFitPart
    from model.training.model_card import OwnData, model_card
    from model.training.reliability import fit_available_temperatures, fit_reliability

    features, device = prepared.features, paths.device
    training, validation = ([*corpus.examples(split), *corpus.unimodal(split)] for split in ("train", "val"))
    held_out = CrossFitPart(network, training, unseen=validation, complete=validation, features=features)
    reliability = fit_reliability([held_out], device, steps=recipe.training.verdict_steps)
    if initial is not None:  # the check for speech depends on features alone, and a manifest has no other sounds
        reliability.speech.load_state_dict(initial.reliability.speech.state_dict())
        reliability.speech_fitted.copy_(initial.reliability.speech_fitted)
    calibrated = {}
    if isinstance(corpus, ManifestCorpus):
        calibrated = fit_available_temperatures(reliability, network, corpus.examples("val"), features, device)
    part: Split = "test" if corpus.examples("test") else "val"
    evaluation = evaluate_split(network, reliability, corpus, part, features, device)
    figures = {"test": evaluation} if part == "test" else {}
    comparison = None
    if recipe.model.system not in REFERENCES:
        comparison = compare_with_references(network, corpus, features, recipe.model, seed, device)
    own = None
    if isinstance(corpus, ManifestCorpus):
        origin = None if initial is None else f"the weights {initial.config.name}, version {initial.version}"
        own = OwnData(corpus, comparison, calibrated, origin, course.trained_share)
    card = model_card(recipe, corpus, {seed: course}, {seed: figures}, seed, own)
    version = save_checkpoint(out, network, prepared.preprocessing, prepared.adapters, card, reliability)
    if initial is not None and (initial.folder / LICENSE).is_file() and initial.folder.resolve() != out.resolve():
        shutil.copyfile(initial.folder / LICENSE, out / LICENSE)
    macro_f1 = course.best_macro_f1
    console.print(f"{out}: version {version}, epoch {course.best_epoch}, validation macro-F1 {macro_f1:.4f}")
    if figures:
        write_json(evaluation, out / "results.json")
        console.print(*tables(evaluation))
    notes = [f"Trained on {corpus.name}; figures of the {part} part.", *(own.corpus.notices if own else ())]
    compared = [] if comparison is None else [comparison.table()]
    console.print(*compared)
    console.print(f"report: {out / REPORT}", highlight=False, soft_wrap=True)
    console.print(f"curves: tensorboard --logdir {paths.folder}", highlight=False, soft_wrap=True)
    if comparison is not None:
        write_whole(comparison.as_json(), out / COMPARISON)
        notes.append(comparison.verdict())
        console.print(Text(notes[-1], style="bold red" if comparison.below else ""), soft_wrap=True)
    write_report(evaluation, out / REPORT, f"{out.name}: weights {version}", course, notes, compared)


def _check_folder(out: Path, *, allowed: bool) -> None:
    """Make sure that no weights are overwritten unless that is wanted.

    Raises:
        ConfigError: the folder holds weights, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, and the weights need a folder")
    if not allowed and any((out / name).exists() for name in (CONFIG, WEIGHTS, HASHES)):
        raise ConfigError(f"{out} holds weights: --overwrite replaces them, and another --out keeps them")


def suited_settings(settings: TrainingSettings, corpus: Corpus, *, tuned: bool) -> TrainingSettings:
    """The default settings, with more epochs for a manifest of few utterances.

    Fine-tuning takes the labels: the classifiers of a teacher, fitted to few utterances, are worse than given weights.
    """
    if tuned:
        settings = settings.model_copy(update={"teacher": False})
    if not isinstance(corpus, ManifestCorpus):
        return settings
    training = corpus.examples("train")
    steps = math.ceil(len(training) / settings.batch_size)
    epochs = max(settings.epochs, math.ceil(SMALL_SET_STEPS / steps))
    clips = [min(sum(m in e.sources for e in training), settings.pretraining_clips) for m in MODALITIES_PRETRAINED]
    pretraining_steps = max(1, math.ceil(sum(clips) / settings.batch_size))
    changes = {
        "epochs": epochs,
        "select_epoch": False,
        "taught_pretraining_epochs": max(
            settings.taught_pretraining_epochs, math.ceil(SMALL_SET_PRETRAINING_STEPS / pretraining_steps)
        ),
    }
    if epochs > settings.epochs:
        changes["expert_steps"] = min(settings.expert_steps, SMALL_SET_EXPERT_STEPS)
    return settings.model_copy(update=changes)


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
