"""The commands that train weights and compare them; each imports what it needs when it runs."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from app.cli.common import Device, Engine, Weights, errors_as_messages, read_settings


def train(
    corpus: Annotated[
        str,
        typer.Option(
            help="composite, composite2, mosi, mmsa, csd, meld, iemocap-4, ravdess, … (docs/data.md lists all), or "
            "manifest for your own: a CSV or JSON lines file of clips."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(exists=True, help="The folder of the corpora or the corpus's, or its file.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the weights to.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Model and training configuration, JSON."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="What to train: emmr, ae, cra, mctn, transm, mmin, tate, late-fusion or classical.",
            show_default="the configuration's, else emmr",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Weights to start from, such as weights/default; recommended for small sets.",
            show_default="random weights",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace weights that --out holds.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs to train.", show_default="the configuration's")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for computed features, kept between runs.")] = Path(
        ".cache/features"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes computing features.", show_default="one a processor")
    ] = None,
    engine: Engine = "process",
    processes: Annotated[int, typer.Option(min=1, help="Processes that train together, with --engine ray.")] = 1,
) -> None:
    """Train weights on a corpus; the epoch that is best on its validation part is kept."""
    with errors_as_messages():
        if engine == "ray":
            from app.ray.training import train as train_on_ray

            run: Callable[..., int] = partial(train_on_ray, processes)
        else:
            from model.training.commands import train as train_alone

            run = train_alone
        status = run(
            corpus=corpus,
            data=data,
            out=out,
            config=config,
            seed=seed,
            epochs=epochs,
            resume=resume,
            device=device,
            cache=cache,
            workers=workers or os.cpu_count() or 1,
            system=system,
            init=init,
            overwrite=overwrite,
        )
    raise typer.Exit(status)


def evaluate(
    corpus: Annotated[
        str,
        typer.Option(help="As for train, also voices and faces; manifest for your own file of clips."),
    ],
    data: Annotated[
        Path,
        typer.Option(exists=True, help="The folder of the corpora or the corpus's, or its file.", show_default=False),
    ],
    split: Annotated[
        str, typer.Option(help="train, val, test, or ood: corpora that are in no training part.")
    ] = "test",
    weights: Weights = None,
    system: Annotated[
        str | None,
        typer.Option(help="Weights of this system: the folder of that name beside the shipped weights, or --weights."),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="File to write every figure to.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="HTML file to write figures and diagrams to; needs the train extra."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
) -> None:
    """Score weights: each subset of modalities, missing rate and corpus, key-missing detection and the gate."""
    settings = read_settings(weights=weights)
    if system is not None and weights is None and system != "emmr":
        settings = read_settings(weights=settings.weights.parent / system)
    with errors_as_messages():
        from model.training.commands import evaluate as run

        status = run(
            corpus=corpus,
            data=data,
            split=split,
            weights=settings.weights,
            json_out=json_out,
            device=device,
            report=report,
            system=system,
        )
    raise typer.Exit(status)


def reproduce(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="The folder of the corpora.", show_default=False)
    ],
    grid: Annotated[str, typer.Option(help="full, quick, or a YAML file of corpora, variants and seeds.")] = "full",
    quick: Annotated[bool, typer.Option("--quick", help="The same as --grid quick: minutes instead of hours.")] = False,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write the report to.")] = Path("docs/results"),
    work: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the runs; those that are finished are not run again.")
    ] = Path(".cache/reproduce"),
    cache: Annotated[Path, typer.Option(help="Folder for computed features, kept between runs.")] = Path(
        ".cache/features"
    ),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes, each with one thread.", show_default="one a processor")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only these runs: corpus=…, variant=… or seed=…; repeat it for several."),
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing, write the report.")] = False,
) -> None:
    """Train and compare every system on every corpus, and write the paper's tables and figures beside its own."""
    with errors_as_messages():
        from model.experiments.reproduce import reproduce as run

        status = run(
            "quick" if quick else grid,
            data,
            out,
            work,
            cache,
            jobs or os.cpu_count() or 1,
            only=only or (),
            report_only=report_only,
        )
    raise typer.Exit(status)


def compare(
    first: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A weights folder.")],
    second: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Another one.")],
    manifest: Annotated[
        Path,
        typer.Option(
            exists=True,
            help="CSV or JSON lines of utterances: text, audio, openface, and optionally id and label; or a folder.",
        ),
    ],
    json_out: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write every figure to.")
    ] = None,
    device: Device = None,
) -> None:
    """Compare two weights on the same utterances: agreement, flips, and with labels their scores and calibration."""
    settings = [read_settings(weights=weights, device=device) for weights in (first, second)]
    with errors_as_messages():
        from app.compare import compare as run

        status = run(settings, manifest, json_out)
    raise typer.Exit(status)
