"""Training steps of the default recipe and of the paper's size, and the gain of caching and of sorting by length.

Features are random, of real shapes; the minutes for the shipped weights are counted steps times timed steps.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, ratio_of, time_rounds
from model.checkpoint import load_checkpoint
from model.config import ModelConfig
from model.features.audio import SAMPLE_RATE
from model.features.audio.acoustic import acoustic_features
from model.modality import MODALITIES, Modality
from model.network.emmr import EMMR
from model.network.guidance import GuidanceNetwork
from model.network.losses import SoftTargets, total_loss
from model.training.batches import BatchSource, TrainingBatch
from model.training.datasets.base import ActionUnitMeansSource, Example, FixedCorpus, SoundSource, Source, TextSource
from model.training.pretraining import PretrainingTask, single_modality_examples
from model.training.settings import Recipe, TrainingSettings
from model.training.teacher import fit_teacher
from model.training.trainer import build_optimiser

ROOT: Final = Path(__file__).resolve().parent.parent
SENTENCE_TOKENS: Final = (4, 30)  # from a short to a long sentence of the composite corpus
UTTERANCES: Final = 12_104  # training rows of the composite corpus
CLIPS: Final = 1_664  # its voices and faces, each a row of pretraining
SEEDS: Final = 5
TEACHER_ROWS: Final = 48  # rows that the teacher is fitted to
GOAL_MINUTES: Final = 25.0


class Training:
    """Steps of one config on random utterances, with labels or a teacher's soft targets."""

    def __init__(
        self, config: ModelConfig, settings: TrainingSettings, rows: int, device: torch.device, *, taught: bool = False
    ) -> None:
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
        self.teacher = None
        if taught:  # fitted to random features; its time does not depend on them
            known = self.examples[:TEACHER_ROWS]
            self.teacher = fit_teacher(FixedCorpus({"train": known, "val": known}), features, config, variants=0)
            assert self.teacher is not None
            self.teacher.to(device)
        self.source = BatchSource(config, settings, features, 0, taught=taught)
        self.clips = single_modality_examples(self.examples, features)
        self.network = EMMR(config).to(device)
        self.guidance = GuidanceNetwork(config).to(device)
        self.pretraining = PretrainingTask(self.network, self.clips, settings)
        self.optimiser = build_optimiser(self.network, settings, encoder_rate=settings.encoder_rate)
        self.guidance_optimiser = build_optimiser(self.guidance, settings, encoder_rate=settings.encoder_rate)

    def batches(self, count: int, *, clips: bool = False) -> list[TrainingBatch]:
        """Return the first batches of an epoch, of utterances or of single clips, on the device."""
        epoch = self.source.epoch(self.clips if clips else self.examples, 0)
        return [item.to(self.device) for item in islice(epoch, count)]

    def step(self, item: TrainingBatch) -> None:
        """Run one step of the network, as the trainer does."""
        soft_targets = self._soft_targets(item)
        with self._precision():
            guided, output = self.guidance.guide(item.batch), self.network(item.batch)
            loss, _ = total_loss(output, item.targets, item.batch.held, guided, self.settings.losses, soft_targets)
        self._update(self.optimiser, loss)

    def guidance_step(self, item: TrainingBatch) -> None:
        """Run one step of the guidance network."""
        with self._precision():
            logits = self.guidance(item.batch)
        soft_targets = self._soft_targets(item)
        labels = item.targets.labels if soft_targets is None else soft_targets.answer
        loss = F.cross_entropy(logits.float(), labels, item.targets.class_weights)
        self._update(self.guidance_optimiser, loss)

    def pretraining_step(self, item: TrainingBatch) -> None:
        """Run one pretraining step of the encoders."""
        soft_targets = self._soft_targets(item)
        with self._precision():
            loss = self.pretraining(item, soft_targets)
        self._update(self.optimiser, loss)

    def _soft_targets(self, item: TrainingBatch) -> SoftTargets | None:
        return None if self.teacher is None else self.teacher(item.batch)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    @staticmethod
    def _update(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def run(self, items: Sequence[TrainingBatch], step: Callable[[TrainingBatch], None]) -> Callable[[], None]:
        """Return a function that runs the steps and waits for the device."""

        def steps() -> None:
            for item in items:
                step(item)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return steps


def default_recipe(report: Report, rounds: int, count: int, device: torch.device) -> None:
    """Time steps of the default recipe, in random order and sorted by length, and compute the minutes of a training."""
    recipe = Recipe.default()
    plain = Training(recipe.model, recipe.training, recipe.training.batch_size * count, device, taught=True)
    bucketed = Training(
        recipe.model,
        recipe.training.model_copy(update={"length_bucket": count}),
        recipe.training.batch_size * count,
        device,
        taught=True,
    )
    seconds = time_rounds(
        {
            "random": plain.run(plain.batches(count), plain.step),
            "by_length": bucketed.run(bucketed.batches(count), bucketed.step),
            "guidance": plain.run(plain.batches(count), plain.guidance_step),
            "pretraining": plain.run(plain.batches(count, clips=True), plain.pretraining_step),
        },
        rounds,
    )
    medians = {name: value / count for name, value in medians_of(seconds).items()}
    report.medians.update({f"default_step_{name}_ms": 1e3 * value for name, value in medians.items()})
    report.ratios["steps_sorted_by_length"] = ratio_of(seconds, "random", "by_length")
    settings = recipe.training
    an_epoch = -(-UTTERANCES // settings.batch_size)
    steps = {
        "random": an_epoch * settings.epochs,
        "guidance": an_epoch * settings.guidance_epochs,
        "pretraining": -(-CLIPS // settings.batch_size) * settings.taught_pretraining_epochs,
    }
    minutes = sum(count * medians[name] for name, count in steps.items()) / 60
    report.facts.update(
        {
            "steps_a_seed": sum(steps.values()),
            "minutes_of_steps_a_seed": minutes,
            "minutes_of_steps_on_two_cores": minutes * -(-SEEDS // 2),
            "within_goal": minutes * -(-SEEDS // 2) <= GOAL_MINUTES,
        }
    )


def paper_size(report: Report, rounds: int, device: torch.device) -> None:
    """Time a step of the paper's size and batch; on CUDA in large batches as well."""
    config = ModelConfig.paper()
    for size in (32, 256) if device.type == "cuda" else (32,):
        settings = TrainingSettings(batch_size=size)
        training = Training(config, settings, size, device)
        seconds = time_rounds({"step": training.run(training.batches(1), training.step)}, rounds)
        step = medians_of(seconds)["step"]
        report.medians[f"paper_step_{size}_ms"] = 1e3 * step
        report.medians[f"paper_samples_{size}_per_s"] = size / step


def cached_features(report: Report, rounds: int) -> None:
    """Time the features of one utterance computed, and read from memory as in every epoch but the first."""
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
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    parser.add_argument("--quick", action="store_true", help="fewer steps, one round")
    options = parser.parse_args(argv)
    rounds, count = (1, 2) if options.quick else (options.rounds, 12)
    device = torch.device(options.device)
    torch.set_num_threads(1)  # seeds are trained in parallel, one thread each
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
