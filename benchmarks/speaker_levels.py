"""composite2 with voices and faces relative to their speakers' levels, and without: macro-F1, calibration, key missing.

Needs `../shared/data`. A level depends on the order of a speaker's clips, so figures are means over several orders.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.recordings.levels import PRIOR, SHARE, SpeakerLevels
from app.settings import DEFAULT_WEIGHTS
from benchmarks.harness import Report, arguments, finish, machine_line
from model.modality import COMPLETE, SUBSETS, Modality
from model.pipeline import Pipeline
from model.training.commands import DEFAULT_CACHE
from model.training.datasets import ravdess
from model.training.datasets.base import Example, Source, Split
from model.training.datasets.composite import Composite2Corpus
from model.training.datasets.recordings import Recording
from model.training.decision_table import BATCH_SIZE, DecisionTable, Item, Predictor, items_of
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import class_figures, detection, macro_f1, paired_bootstrap
from model.training.prepare import prepare_split
from model.types import FloatArray, IntArray

PARTS: Final[Sequence[Split]] = ("val", "test", "ood")
GRID: Final = [(share, prior) for share in (0.25, 0.5, 0.75, 1.0) for prior in (0.0, PRIOR, 10.0)]
"""Share and prior that are compared on the validation part."""
SEED: Final = 0

Features = Mapping[Source, FloatArray]


@dataclass(frozen=True, slots=True)
class Clip:
    """A voice or face whose speaker is known."""

    source: Source
    modality: Modality
    speaker: str


def clips_of(corpus: Composite2Corpus, features: Features) -> list[Clip]:
    """Return the clips with features and a speaker, in the order of the corpus; photographs have no speaker."""
    found = ((recording.signal, speaker_of(recording)) for recording in corpus.recordings())
    return [
        Clip(signal.source, signal.modality, speaker)
        for signal, speaker in found
        if speaker is not None and signal.source in features
    ]


def speaker_of(recording: Recording) -> str | None:
    """Return the speaker of a recording; that of a face of RAVDESS is the actor in its name."""
    if recording.speaker is None and recording.id.startswith(f"{ravdess.ORIGIN}/"):
        return recording.id.rpartition("-")[2]
    return recording.speaker


def relative(features: Features, clips: Sequence[Clip], levels: SpeakerLevels) -> Features:
    """Return the features with those of the clips, in this order, relative to their speakers' levels."""
    found = {clip.source: levels.relative(clip.speaker, clip.modality, features[clip.source]) for clip in clips}
    return {**features, **found}


def orders(clips: Sequence[Clip], count: int) -> Iterator[list[Clip]]:
    """Yield random orders of the clips."""
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        yield [clips[i] for i in rng.permutation(len(clips))]


def figures(table: DecisionTable) -> tuple[dict[str, float], dict[str, IntArray]]:
    """Return figures by name, and the predicted classes of each subset."""
    found: dict[str, float] = {}
    predictions: dict[str, IntArray] = {}
    changed: list[bool] = []
    scores: list[float] = []
    for subset in SUBSETS:
        cases = table.cases(subset)
        truth, predicted, probabilities = table.arrays(cases)
        predictions[subset.name] = predicted
        of_subset: Mapping[str, Any] = class_figures(truth, predicted, probabilities)
        found |= {f"{subset.name}_{name}": of_subset[name] for name in ("macro_f1", "log_loss", "calibration_error")}
        for index, _ in () if subset.complete else cases:
            complete = table[index, COMPLETE]
            changed.append(table[index, subset].label_index != complete.label_index)
            scores.append(table[index, subset].key_score or 0.0)
    key = detection(np.array(changed), np.zeros(len(changed), dtype=bool), np.array(scores))
    return found | {f"key_missing_{name}": key[name] for name in ("auroc", "calibration_error")}, predictions


def macro_f1_of(predictor: Predictor, items: Sequence[Item]) -> float:
    """Return macro-F1 with all modalities that an item has."""
    starts = range(0, len(items), BATCH_SIZE)
    decided = [predictor.decide([item.utterance for item in items[at : at + BATCH_SIZE]]) for at in starts]
    predicted = np.array([decision.label_index for batch in decided for decision in batch])
    return macro_f1(np.array([item.label for item in items]), predicted)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the corpora")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="of features")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    options = parser.parse_args()
    pipeline = Pipeline.load(options.weights, "cpu")
    checkpoint, config = pipeline.checkpoint, pipeline.config
    predictor = NetworkPredictor(checkpoint.network, pipeline.device, checkpoint.reliability)
    corpus, report = Composite2Corpus(options.data), Report("speaker_levels", machine_line())
    facts = report.facts
    facts.update(share=SHARE, prior=PRIOR, orders=options.rounds, weights=checkpoint.version)
    for part in PARTS:
        encoder_id = f"checkpoint {checkpoint.version}"
        features: Features = prepare_split(
            corpus, part, config, checkpoint.preprocessing, checkpoint.text_encoder, encoder_id, options.cache, 1
        )
        examples, clips = corpus.examples(part), clips_of(corpus, features)

        def items(given: Features, examples: Sequence[Example] = examples) -> list[Item]:
            return items_of(examples, given, config.classes)

        facts[f"{part}_speakers"] = len({(clip.speaker, clip.modality) for clip in clips})
        plain, without = figures(DecisionTable(predictor, items(features), len(config.classes)))
        runs = [
            figures(DecisionTable(predictor, items(relative(features, order, SpeakerLevels())), len(config.classes)))
            for order in orders(clips, options.rounds)
        ]
        for name, value in plain.items():
            facts[f"{part}_{name}"] = value
            facts[f"{part}_{name}_relative"] = float(np.mean([found[name] for found, _ in runs]))
        truth = np.array([item.label for item in items(features)])
        with_levels = np.stack([predicted[COMPLETE.name] for _, predicted in runs])
        gain = paired_bootstrap(truth, with_levels, without[COMPLETE.name])
        facts.update({f"{part}_gain": gain.difference, f"{part}_gain_low": gain.low, f"{part}_gain_high": gain.high})
        if part == "val":
            for share, prior in GRID:
                found = [
                    macro_f1_of(predictor, items(relative(features, order, SpeakerLevels(share, prior))))
                    for order in orders(clips, options.rounds)
                ]
                facts[f"val_macro_f1_share_{share:g}_prior_{prior:g}"] = float(np.mean(found))
    finish(report, options.json)


if __name__ == "__main__":
    main()
