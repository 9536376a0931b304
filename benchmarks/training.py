"""Steps of training: the default recipe's, the paper's size, and what caching and sorting by length save.

For: `python -m benchmarks.training --json FILE [--device cuda]`. The minutes for the shipped weights are steps counted
times steps timed; `python -m model.training.weights` says how long it really took.
Does not know: corpora. Features are random numbers of real shapes: a step takes as long on them.

Shapes: B utterances of a batch.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, ratio_of, time_rounds
from model.checkpoint import load_checkpoint
from model.config import ModelConfig
from model.emmr.losses import total_loss
from model.emmr.network import EMMR
from model.features.audio import SAMPLE_RATE, acoustic_features
from model.modality import MODALITIES, Modality
from model.training.batches import BatchSource, TrainingBatch, to_device
from model.training.corpora.base import ActionUnitMeansSource, Example, SoundSource, Source, TextSource
from model.training.optimisation import build_optimiser
from model.training.settings import Recipe, TrainingSettings

ROOT: Final = Path(__file__).resolve().parent.parent
SENTENCE_TOKENS: Final = (4, 30)  # from a short to a long sentence of the composite corpus
UTTERANCES: Final = 12_104  # training rows of the composite corpus
CLIPS: Final = 1_664  # its voices and faces, each a row of pretraining
SEEDS: Final = 3
GOAL_MINUTES: Final = 25.0


class Training:
    """Steps of one config on random utterances."""

    def __init__(self, config: ModelConfig, settings: TrainingSettings, rows: int, device: torch.device) -> None:
        rng = np.random.default_rng(0)
        self.device, self.config, self.settings = device, config, settings
        features: dict[Source, np.ndarray] = {}
        self.examples = []
        for number in range(rows):
            sources: dict[Modality, Source] = {
                Modality.TEXT: TextSource(str(number)),
                Modality.AUDIO: SoundSource(Path(str(number))),
                Modality.VISUAL: ActionUnitMeansSource(str(number), (0.0,)),
            }
            for modality, source in sources.items():
                slots = config.slots.of(modality)
                if modality == Modality.TEXT:
                    slots = min(slots, int(rng.integers(*SENTENCE_TOKENS)))
                features[source] = rng.standard_normal((slots, config.feature_size(modality)), dtype=np.float32)
            label = config.classes[number % len(config.classes)]
            own = dict.fromkeys(MODALITIES, label)
            self.examples.append(Example(str(number), label, sources, modality_labels=own))
        self.source = BatchSource(config, settings, features, 0)
        self.network = EMMR(config).to(device)
        self.optimiser = build_optimiser(self.network, settings)

    def batches(self, count: int) -> list[TrainingBatch]:
        """The first batches of an epoch, on the device."""
        return [to_device(item, self.device) for item in islice(self.source.epoch(self.examples, 0), count)]

    def step(self, item: TrainingBatch) -> None:
        """One step, as the trainer takes it."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, _ = total_loss(self.network(item.batch), item.targets, item.batch.held, None, self.settings.losses)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def run(self, items: Sequence[TrainingBatch]) -> Callable[[], None]:
        """Steps over batches, and the wait for the last of them."""

        def steps() -> None:
            for item in items:
                self.step(item)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return steps


def default_recipe(report: Report, rounds: int, count: int, device: torch.device) -> None:
    """Steps of the default recipe, random order beside sorted by length, and the minutes for the shipped weights."""
    recipe = Recipe.default()
    plain = Training(recipe.model, recipe.training, recipe.training.batch_size * count, device)
    bucketed = Training(
        recipe.model,
        recipe.training.model_copy(update={"length_bucket": count}),
        recipe.training.batch_size * count,
        device,
    )
    seconds = time_rounds(
        {"random": plain.run(plain.batches(count)), "by_length": bucketed.run(bucketed.batches(count))}, rounds
    )
    medians = {name: value / count for name, value in medians_of(seconds).items()}
    report.medians.update({f"default_step_{name}_ms": 1e3 * value for name, value in medians.items()})
    report.ratios["steps_sorted_by_length"] = ratio_of(seconds, "random", "by_length")
    settings = recipe.training
    steps = -(-UTTERANCES // settings.batch_size) * (settings.epochs + settings.guidance_epochs)
    steps += -(-CLIPS // settings.batch_size) * settings.pretraining_epochs
    # Steps of guidance and pretraining run a part of the network: counting them as whole ones errs upwards.
    minutes = steps * medians["random"] / 60
    report.facts.update(
        {
            "steps_a_seed": steps,
            "minutes_a_seed_at_most": minutes,
            "minutes_for_the_shipped_weights_on_two_cores_at_most": minutes * -(-SEEDS // 2),
            "within_goal": minutes * -(-SEEDS // 2) <= GOAL_MINUTES,
        }
    )


def paper_size(report: Report, rounds: int, device: torch.device) -> None:
    """A step of the paper's size and batch; on CUDA samples a second in large batches as well."""
    config = ModelConfig.paper()
    for size in (32, 256) if device.type == "cuda" else (32,):
        settings = TrainingSettings(batch_size=size)
        training = Training(config, settings, size, device)
        seconds = time_rounds({"step": training.run(training.batches(1))}, rounds)
        step = medians_of(seconds)["step"]
        report.medians[f"paper_step_{size}_ms"] = 1e3 * step
        report.medians[f"paper_samples_{size}_per_s"] = size / step


def cached_features(report: Report, rounds: int) -> None:
    """One utterance's features computed, beside read from memory as every epoch but the first does."""
    checkpoint = load_checkpoint(ROOT / "weights" / "default", torch.device("cpu"))
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(4 * SAMPLE_RATE)).astype(np.float32)  # as long as a clip of the corpus
    sentence = "I did not expect to like it, and then it was over too soon"
    kept = {number: rng.standard_normal((20, 384), dtype=np.float32) for number in range(1_000)}
    seconds = time_rounds(
        {
            "computed": lambda: (acoustic_features(waveform), checkpoint.text_encoder([sentence])),
            "cached": lambda: [np.array(kept[number]) for number in range(2)],
        },
        rounds,
    )
    report.medians.update({f"features_{name}_ms": 1e3 * value for name, value in medians_of(seconds).items()})
    report.ratios["features_from_the_cache"] = ratio_of(seconds, "computed", "cached")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    parser.add_argument("--quick", action="store_true", help="fewer steps, one round")
    options = parser.parse_args(argv)
    rounds, count = (1, 2) if options.quick else (options.rounds, 12)
    device = torch.device(options.device)
    torch.set_num_threads(1)  # as seeds are trained: side by side, a thread each
    torch.manual_seed(0)
    began = time.perf_counter()
    report = Report("training", machine_line())
    default_recipe(report, rounds, count, device)
    paper_size(report, 1 if options.quick else min(rounds, 3), device)
    cached_features(report, rounds)
    report.facts.update({"rounds": rounds, "device": str(device), "seconds": time.perf_counter() - began})
    finish(report, options.json)


if __name__ == "__main__":
    main()
