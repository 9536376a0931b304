"""`emmr train` on small sets, each a manifest as a user writes it: from random weights, and from the shipped ones.

Needs the corpora. Figures of earlier runs in the `--json` file are kept, so that sections and seeds can be added.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from app.settings import DEFAULT_WEIGHTS
from benchmarks.harness import machine_line
from benchmarks.own_clips import (
    CLIPS,
    all_but_one,
    draw_clips,
    few_speakers,
    recordings_of,
    write_clips,
    write_csv,
)
from model.baselines.systems import TITLES
from model.checkpoint import CONFIG, Checkpoint, load_checkpoint
from model.features.visual.table import ACTION_UNIT_COLUMNS
from model.modality import COMPLETE, Modality, ModalitySet
from model.network.batch import collate
from model.training.commands import COMPARISON, DEFAULT_CACHE, read_recipe, suited_settings, train
from model.training.comparison import REFERENCES, fit_references, predict
from model.training.datasets.base import (
    ActionUnitMeansSource,
    Example,
    FixedCorpus,
    OpenFaceSource,
    SoundSource,
    Source,
    Split,
    TextSource,
    example_of,
)
from model.training.datasets.composite import Composite2Corpus
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.mosi import MosiCorpus
from model.training.datasets.recordings import STILLS, FacesCorpus, VoicesCorpus
from model.training.decision_table import Item, items_of
from model.training.experiment import adapted_config, prepare
from model.training.initial import SHARES, average, fine_tuned_config
from model.training.metrics import Interval, macro_f1, paired_bootstrap
from model.training.prepare import prepare_split
from model.training.settings import Recipe
from model.training.trainer import RunPaths, Trainer
from model.training.training_state import load_state, with_prefix
from model.types import FloatArray, IntArray

Figures = dict[str, Any]

DOCUMENT: Final = Path("docs/training.md")
CASES: Final = {
    "voice": ModalitySet.of(Modality.AUDIO),
    "face": ModalitySet.of(Modality.VISUAL),
    "words": ModalitySet.of(Modality.TEXT),
    "composite2": COMPLETE,
}
NAMES: Final = {
    "voice": "voices of nEMO, by speaker",
    "face": "faces of photographs",
    "words": "sentences of CMU-MOSI, by video",
    "composite2": "sentences, voices and faces of composite2",
}
SIZES: Final = (50, 200, 0)
"""Training and validation utterances together; 0 for all."""
VALIDATION_SHARE: Final = 0.2
TEST_ROWS: Final = 400
"""Of the test part at most, drawn once."""
COLUMNS: Final = ("id", "split", "text", "audio", "openface", "label")
OWN: Final = "urdu"
"""The corpus of voices of the section `own`, which the shipped weights do not have."""
CHOICE: Final = ("emovo", "turev")
"""Corpora of voices by which the share of the trained parameters is chosen; the shipped weights do not have them."""
EPOCHS: Final = ("training prior", "selected prior", "best epoch", "last epoch")
"""What the section `epochs` compares."""
CPU: Final = torch.device("cpu")


def open_case(case: str, data: Path) -> FixedCorpus:
    """The corpus of a case.

    Raises:
        CorpusError: its data is missing or has an error.
    """
    kinds: Mapping[str, Callable[[Path], FixedCorpus]] = {
        "voice": VoicesCorpus, "face": FacesCorpus, "words": MosiCorpus, "composite2": Composite2Corpus,
    }  # fmt: skip
    return kinds[case](data)


def examples_of(case: str, corpus: FixedCorpus, size: int, seed: int) -> Mapping[Split, Sequence[Example]]:
    """The examples of each part: `size` drawn from training and validation, at most `TEST_ROWS` of the test part.

    A training part without a class, which `emmr train` refuses, is drawn again.
    """
    origin = {"voice": "nemo", "face": STILLS}.get(case)
    parts: dict[Split, Sequence[Example]] = {}
    shares: dict[Split, float] = {"train": 1 - VALIDATION_SHARE, "val": VALIDATION_SHARE, "test": 0}
    for part, share in shares.items():
        own = [e for e in corpus.examples(part) if CASES[case].present <= e.sources.keys()]
        if origin is not None:
            own = [e for e in own if origin in e.origins.values()]
        count = TEST_ROWS if part == "test" else round(size * share) or len(own)
        rng = np.random.default_rng(0 if part == "test" else seed)
        drawn: list[Example] = []
        while not drawn or (part == "train" and {e.label for e in drawn} != {e.label for e in own}):
            drawn = [own[i] for i in sorted(rng.permutation(len(own))[:count])]
        parts[part] = drawn
    return parts


def write_manifest(folder: Path, parts: Mapping[Split, Sequence[Example]]) -> Path:
    """Write the list of examples, and OpenFace files of those whose action units are known."""
    rows: list[dict[str, Any]] = []
    for part, examples in parts.items():
        for number, example in enumerate(examples):
            row: dict[str, Any] = {"id": f"{part}-{number}", "split": part, "label": example.label}
            for source in example.sources.values():
                match source:
                    case TextSource(text):
                        row["text"] = text
                    case SoundSource(path):
                        row["audio"] = str(path.resolve())
                    case OpenFaceSource(path):
                        row["openface"] = str(path.resolve())
                    case ActionUnitMeansSource(_, values):
                        row["openface"] = f"faces/{part}-{number}.csv"
                        _write_face(folder / row["openface"], values)
            rows.append(row)
    path = folder / "manifest.csv"
    write_csv(path, COLUMNS, rows)
    return path


def _write_face(path: Path, values: Sequence[float]) -> None:
    frame = {"frame": 1, "face_id": 0, "timestamp": 0, "confidence": 1, "success": 1}
    row = frame | dict(zip(ACTION_UNIT_COLUMNS, values, strict=True))
    write_csv(path, tuple(row), [row])


def measure(
    case: str, size: int, seed: int, data: Path, cache: Path, config: Path | None = None, init: Path | None = None
) -> Figures:
    """Train on one set and return its comparison with the references."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_manifest(folder, examples_of(case, open_case(case, data), size, seed))
        train(
            corpus="manifest", data=manifest, out=folder / "weights", config=config, seed=seed, epochs=None,
            resume=False, device="cpu", cache=cache, workers=1, init=init,
        )  # fmt: skip
        found: Figures = json.loads((folder / "weights" / COMPARISON).read_text(encoding="utf-8"))
        found["training"] = len(ManifestCorpus(manifest).examples("train"))
    return found


def features_of(examples: Sequence[Example], checkpoint: Checkpoint, cache: Path) -> tuple[list[Item], IntArray]:
    """The examples as inputs of the network of a checkpoint, and their class indices."""
    corpus, encoder_id = FixedCorpus({"test": examples}), f"checkpoint {checkpoint.version}"
    config, preprocessing, encoder = checkpoint.config, checkpoint.preprocessing, checkpoint.text_encoder
    features: Mapping[Source, FloatArray] = prepare_split(
        corpus, "test", config, preprocessing, encoder, encoder_id, cache, 1
    )
    items = items_of(examples, features, config.classes)
    return items, np.array([item.label for item in items], dtype=np.int64)


def write_own(data: Path, seed: int, folder: Path) -> tuple[Path, list[Example]]:
    """Write the clips of a person of the section `own`; returns their list, and the clips of other speakers."""
    recordings = recordings_of(data, OWN)
    clips, others = draw_clips(data, recordings, few_speakers(recordings, seed), seed)
    return write_clips(folder, clips), others


def fine_tune(data: Path, seed: int, cache: Path, config: Path | None = None, folder: Path | None = None) -> Figures:
    """Fine-tune the shipped weights on 50 clips, and compare them with those and the references on other speakers.

    The reference is the one with the better macro-F1 on the validation clips.

    Args:
        data: of the corpora.
        seed: of speakers, clips, sentences and the training.
        cache: of features.
        config: a recipe instead of the default one.
        folder: for clips and weights, which are not trained again if they are there; a temporary one if None.
    """
    shipped = load_checkpoint(DEFAULT_WEIGHTS, CPU)
    with nullcontext(folder) if folder is not None else tempfile.TemporaryDirectory() as name:
        path, others = write_own(data, seed, Path(name))
        out = Path(name) / "weights" / "mine"
        if not (out / CONFIG).exists():
            train(
                corpus="manifest", data=path, out=out, config=config, seed=seed, epochs=None,
                resume=False, device="cpu", cache=cache, workers=1, init=DEFAULT_WEIGHTS,
            )  # fmt: skip
        tuned, own = load_checkpoint(out, CPU), ManifestCorpus(path)
        (training, _), (validation, labels) = (features_of(own.examples(p), shipped, cache) for p in ("train", "val"))
        items, truth = features_of(others, shipped, cache)
    references = fit_references(shipped.config, training, validation, seed)
    best = max(REFERENCES, key=lambda system: macro_f1(labels, predict(references[system], CPU, validation)))
    networks = {"fine-tuned": tuned.network, "shipped": shipped.network, "reference": references[best]}
    predicted = {name: predict(network, CPU, items).tolist() for name, network in networks.items()}
    counts = {"train": len(training), "val": len(validation)}
    return {"labels": truth.tolist(), "predicted": predicted, "best": best, "counts": counts}


def choose_share(data: Path, corpus: str, seed: int, cache: Path, config: Path | None = None) -> Figures:
    """Macro-F1 on another speaker with each share of the trained parameters, after training on 50 clips of a corpus."""
    recordings = recordings_of(data, corpus)
    clips, others = draw_clips(data, recordings, all_but_one(recordings, seed), seed)
    shipped = load_checkpoint(DEFAULT_WEIGHTS, CPU)
    with tempfile.TemporaryDirectory() as name:
        own, recipe = ManifestCorpus(write_clips(Path(name), clips)), read_recipe(config)
        settings = suited_settings(recipe.training, own, tuned=True) if config is None else recipe.training
        recipe = Recipe(model=fine_tuned_config(shipped, own.classes, "mine"), training=settings)
        paths = RunPaths(Path(name) / "run", cache, 1, CPU)
        prepared = prepare(own, recipe, paths, shipped)
        trainer = Trainer(own, prepared, recipe, seed, paths, Console(quiet=True), shipped)
        network, _ = trainer.fit()
        state = load_state(trainer.folder)
    assert state is not None
    trained, found = with_prefix(state[0], "best."), {}
    items, truth = features_of(others, shipped, cache)
    for share in SHARES:
        average(network, trained, shipped, share)
        found[str(share)] = macro_f1(truth, predict(network, CPU, items))
    return {"n": len(items), "macro_f1": found}


def choose_epoch(data: Path, seed: int, cache: Path, config: Path | None = None) -> Figures:
    """Macro-F1 on a speaker of nEMO outside its test part, after training on 50 clips of other such speakers.

    Of the soft targets with the prior of the training part and with the selected one, and of the network of the best
    validation epoch and of the last one.
    """
    recordings = [r for r in recordings_of(data, "nemo") if r.split != "test"]
    names = sorted({str(r.speaker) for r in recordings})
    test, validation = names[seed % len(names)], names[(seed + 1) % len(names)]
    order = np.random.default_rng(seed).permutation(len(recordings)).tolist()

    def drawn(keeps: Callable[[str], bool], count: int | None = None) -> list[Example]:
        signals = [recordings[i].signal for i in order if keeps(str(recordings[i].speaker))][:count]
        return [example_of(str(k), str(s.polarity), [s]) for k, s in enumerate(signals)]

    parts: dict[Split, Sequence[Example]] = {
        "train": drawn(lambda name: name not in (test, validation), round(CLIPS * (1 - VALIDATION_SHARE))),
        "val": drawn(lambda name: name == validation, round(CLIPS * VALIDATION_SHARE)),
        "test": drawn(lambda name: name == test),
    }
    with tempfile.TemporaryDirectory() as name:
        own, recipe = ManifestCorpus(write_manifest(Path(name), parts)), read_recipe(config)
        settings = suited_settings(recipe.training, own, tuned=False) if config is None else recipe.training
        settings = settings.model_copy(update={"select_epoch": True, "patience": settings.epochs})
        recipe = Recipe(model=adapted_config(recipe.model, own, "mine"), training=settings)
        paths = RunPaths(Path(name) / "run", cache, 1, CPU)
        prepared = prepare(own, recipe, paths)
        trainer = Trainer(own, prepared, recipe, seed, paths, Console(quiet=True))
        network, _ = trainer.fit()
        state = load_state(trainer.folder)
    assert state is not None
    assert prepared.teacher is not None
    items = {part: items_of(own.examples(part), prepared.features, recipe.model.classes) for part in parts}
    truth = np.array([item.label for item in items["test"]], dtype=np.int64)
    batch = collate([item.utterance for item in items["test"]], recipe.model)
    predicted = {"selected prior": prepared.teacher(batch).answer.argmax(dim=1).numpy()}
    prepared.teacher.balance.zero_()
    predicted["training prior"] = prepared.teacher(batch).answer.argmax(dim=1).numpy()
    predicted["best epoch"] = predict(network, CPU, items["test"])
    network.load_state_dict(with_prefix(state[0], "average."))
    predicted["last epoch"] = predict(network, CPU, items["test"])
    for system, reference in fit_references(recipe.model, items["train"], items["val"], seed).items():
        predicted[system] = predict(reference, CPU, items["test"])
    return {"n": len(truth), "macro_f1": {name: macro_f1(truth, found) for name, found in predicted.items()}}


def lists_table(found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """A row for each list, with means over seeds."""
    systems = [TITLES["emmr"], *(TITLES[system] for system in REFERENCES)]
    lines = [
        "| List | Training, validation, test | Seeds | EMMR | `late-fusion` | `classical` | EMMR minus the better |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, runs in found.items():
        first = next(iter(runs.values()))
        truth = np.array(first["labels"]["test"])
        predicted = {s: np.array([run["predicted"][s]["test"] for run in runs.values()]) for s in systems}  # (S, N)
        means = {s: float(np.mean([macro_f1(truth, row) for row in rows])) for s, rows in predicted.items()}
        better = max(systems[1:], key=means.__getitem__)
        interval = paired_bootstrap(truth, predicted[systems[0]], predicted[better])
        cells = [
            NAMES[key.partition(",")[0]],
            f"{first['training']}, {len(first['labels']['val'])}, {len(truth)}",
            str(len(runs)),
            *(f"{means[s]:.3f}" for s in systems),
            _written(interval),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def own_table(found: Mapping[str, Figures]) -> list[str]:
    """A row for each draw of speakers."""
    lines = [
        "| Draw | Training, validation, others | Shipped | Fine-tuned | Reference | Minus shipped | Minus reference |",
        "| ---: | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for seed, run in found.items():
        truth = np.array(run["labels"])
        tuned, shipped, other = (np.array(run["predicted"][n]) for n in ("fine-tuned", "shipped", "reference"))
        cells = [
            seed,
            f"{run['counts']['train']}, {run['counts']['val']}, {len(truth)}",
            f"{macro_f1(truth, shipped):.3f}",
            f"{macro_f1(truth, tuned):.3f}",
            f"`{run['best']}` {macro_f1(truth, other):.3f}",
            _written(paired_bootstrap(truth, tuned, shipped)),
            _written(paired_bootstrap(truth, tuned, other)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def shares_table(found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """A row for each share, with means over speakers."""
    lines = [
        f"| Share of the trained parameters | {' | '.join(found)} | mean |",
        f"| ---: {'| ---: ' * len(found)}| ---: |",
    ]
    for share in SHARES:
        means = [np.mean([run["macro_f1"][str(share)] for run in runs.values()]) for runs in found.values()]
        cells = [f"{share:g}", *(f"{mean:.3f}" for mean in (*means, np.mean(means)))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def epochs_table(found: Mapping[str, Figures]) -> list[str]:
    """A row for each speaker, and the means."""
    columns = (*EPOCHS, *REFERENCES)
    lines = [
        "| Speaker | Targets, own prior | Selected prior | Best epoch | Last epoch | `late-fusion` | `classical` |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = {str(number): run["macro_f1"] for number, run in enumerate(found.values(), start=1)}
    rows["mean"] = {name: float(np.mean([row[name] for row in rows.values()])) for name in columns}
    return lines + [
        f"| {name} | {' | '.join(f'{row[column]:.3f}' for column in columns)} |" for name, row in rows.items()
    ]


TABLES: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "lists": lists_table,
    "own": own_table,
    "shares": shares_table,
    "epochs": epochs_table,
}


def record(found: Mapping[str, Any], page: str) -> str:
    """The page with the table of each section between its markers, `<!-- small-sets: lists -->` and so on."""
    for section, table in TABLES.items():
        if section in found:
            before, begin, rest = page.partition(f"<!-- small-sets: {section} -->\n")
            _, end, after = rest.partition("<!-- /small-sets -->")
            page = "".join([before, begin, *(line + "\n" for line in table(found[section])), end, after])
    return page


def _written(interval: Interval) -> str:
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def jobs(chosen: argparse.Namespace) -> dict[tuple[str, ...], Callable[[], Figures]]:
    """What is measured, by its keys in the figures."""
    found: dict[tuple[str, ...], Callable[[], Figures]] = {}
    paths = (chosen.cache, chosen.config)
    for case, size, seed in product(chosen.cases, chosen.sizes, chosen.seeds):
        key = ("lists", f"{case}, {size or 'all'}", str(seed))
        found[key] = partial(measure, case, size, seed, chosen.data, *paths)
    for seed in chosen.seeds:
        folder = None if chosen.folder is None else chosen.folder / str(seed)
        found["own", str(seed)] = partial(fine_tune, chosen.data, seed, *paths, folder)
    for corpus, seed in product(CHOICE, chosen.seeds):
        found["shares", corpus, str(seed)] = partial(choose_share, chosen.data, corpus, seed, *paths)
    for seed in chosen.seeds:
        found["epochs", str(seed)] = partial(choose_epoch, chosen.data, seed, *paths)
    return {key: job for key, job in found.items() if key[0] in chosen.sections}


def main(given: Sequence[str] | None = None) -> None:
    """Measure every section, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the corpora")
    parser.add_argument("--sections", nargs="*", choices=tuple(TABLES), default=list(TABLES))
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES), help="of `lists`")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="of `lists`: utterances; 0 for all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", type=Path, default=None, help="a recipe instead of the default one")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="figures of earlier runs are kept")
    parser.add_argument("--record", action="store_true", help=f"write the tables to {DOCUMENT}")
    parser.add_argument(
        "--folder", type=Path, default=None, help="of the clips of `own`, and of weights trained on them"
    )
    chosen = parser.parse_args(given)
    for seed in chosen.seeds if chosen.folder is not None else ():
        print(write_own(chosen.data, seed, chosen.folder / str(seed))[0])
    found: Figures = {}
    if chosen.json is not None and chosen.json.exists():
        found = json.loads(chosen.json.read_text(encoding="utf-8"))
    found["machine"] = machine_line()
    for (*keys, last), job in jobs(chosen).items():
        place = found
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = job()
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found) + "\n", encoding="utf-8")
    for section, table in TABLES.items():
        if section in found:
            print("\n".join([f"\n{section}\n", *table(found[section])]))
    if chosen.record:
        DOCUMENT.write_text(record(found, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
