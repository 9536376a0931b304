"""Training of the guidance network and of EMMR: epochs, schedule, validation, early stopping, resumption.

For: `fit`, from prepared features to the best network by validation macro-F1.
Does not know: files of a corpus, feature extraction, model cards.
Source: paper 3.7 and Table 7; schedule, moving average and class balance were chosen on validation data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from model.config import ModelConfig
from model.errors import ConfigError
from model.modality import SUBSETS, ModalitySet
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.guidance import GuidanceNetwork
from model.network.inference.sparse import decide
from model.network.losses import SoftTargets, total_loss
from model.training.batches import BatchSource, TrainingBatch, to_device
from model.training.datasets.base import Corpus, Example, Source
from model.training.distributed import ALONE, DistributedContext
from model.training.evaluation import Item, items_of
from model.training.metrics import macro_f1
from model.training.optimisation import build_optimiser, set_rate
from model.training.pretraining import PretrainingTask, draw_clips, single_modality_examples
from model.training.progress import FitReport, Monitor, progress_bar
from model.training.settings import TrainingSettings
from model.training.teacher import Teacher
from model.training.training_state import (
    MovingAverage,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
    under,
)
from model.types import FloatArray

VALIDATION_BATCH = 256
_PRETRAINING = 1_000_000  # its epochs' numbers, apart from those of the network's


class Trainer:
    """One run: a corpus, a config, a seed, a folder."""

    def __init__(
        self,
        corpus: Corpus,
        features: Mapping[Source, FloatArray],
        config: ModelConfig,
        settings: TrainingSettings,
        *,
        seed: int,
        device: torch.device,
        folder: Path,
        console: Console | None = None,
        world: DistributedContext = ALONE,
        teacher: Teacher | None = None,
    ) -> None:
        """Set up.

        Args:
            corpus: gives training and validation examples.
            features: normalised slots of every source of both.
            config: of the network.
            settings: of the training.
            seed: of everything random here.
            device: CUDA trains in mixed precision (bfloat16), the CPU in float32.
            folder: where the run's state and its TensorBoard scalars are kept.
            console: where progress is shown.
            world: the processes that train together.
            teacher: whose soft targets take the place of the labels.

        Raises:
            ConfigError: the corpus has no validation part to select on, or no training example with features.
        """
        self.corpus, self.features, self.config, self.settings = corpus, features, config, settings
        self.seed, self.device, self.folder = seed, device, folder
        self.world, self.teacher = world, teacher
        self.console = (console or Console()) if world.leads else Console(quiet=True)
        self.source = BatchSource(config, settings, features, seed, taught=teacher is not None)
        self.validation = items_of(corpus.examples("val"), features, config.classes)
        self.fixed = corpus.examples("train")
        if not self.validation:
            raise ConfigError("the corpus has no validation examples, and selection needs some")
        training = items_of(self.fixed, features, config.classes)
        if not training:
            raise ConfigError("the corpus has no training example with any features")
        self.guidable = any(item.utterance.presence.complete for item in training)

    def fit(self, *, resume: bool = False) -> tuple[EMMR, FitReport]:
        """Train guidance network and EMMR; the network returned is the best epoch's, in eval mode.

        Args:
            resume: go on where an interrupted run in the same folder stopped; a finished one returns its result.

        Raises:
            ConfigError: the run to resume had another recipe.
            CheckpointError: its state cannot be read.
        """
        torch.manual_seed(self.seed)
        network = EMMR(self.config).to(self.device)
        self.world.equal_start(network)
        recipe = self._recipe()
        state = load_state(self.folder) if resume else None
        if state is None:
            self._pretrain(network)
        optimiser = build_optimiser(network, self.settings, encoder_rate=self._encoder_rate)
        average = MovingAverage(network, self.settings.average_decay)
        report, start = FitReport(), 0
        best = {name: value.clone() for name, value in average.values.items()}
        if state is None:
            guidance = self._fit_guidance(network)
        else:
            tensors, facts = state
            if facts["recipe"] != recipe:
                raise ConfigError(f"{self.folder} holds a run with another recipe: start anew or use its own")
            guidance = self._restore_guidance(under(tensors, "guidance."))
            network.load_state_dict(under(tensors, "network."))
            restore_optimiser(optimiser, tensors)
            average.load(under(tensors, "average."), facts["steps"])
            best = {name: value.to(self.device) for name, value in under(tensors, "best.").items()}
            report, start = FitReport(**facts["report"]), facts["epoch"]
        monitor = Monitor(self.console, self.folder if self.world.leads else None, start)
        for epoch in range(start, self.settings.epochs):
            if report.stale(self.settings.patience):
                break
            self._train_epoch(network, guidance, optimiser, average, epoch, monitor)
            average.swap(network)
            # The leader's figures count: another machine's last bits must not lead its process elsewhere.
            by_pattern = self.world.agree(self.validate(network) if self.world.leads else {})
            average.swap(network)
            improved = report.record(by_pattern)
            monitor.validated(epoch, by_pattern, best=improved)
            if improved:
                best = {name: value.clone() for name, value in average.values.items()}
            groups = {"network.": network.state_dict(), "average.": average.values, "best.": best}
            if guidance is not None:
                groups["guidance."] = guidance.state_dict()
            tensors = {prefix + name: value for prefix, values in groups.items() for name, value in values.items()}
            if self.world.leads:
                save_state(
                    self.folder,
                    tensors | optimiser_tensors(optimiser),
                    {"epoch": epoch + 1, "steps": average.steps, "recipe": recipe, "report": asdict(report)},
                )
        monitor.close()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(best[name])
        return network.eval(), report

    def validate(self, network: EMMR) -> dict[str, float]:
        """Validation macro-F1 of every pattern that some item has the modalities for."""
        network.eval()
        scores = {}
        for subset in SUBSETS:
            items = [i for i in self.validation if subset.present <= i.utterance.presence.present]
            if items:
                decided = [d for chunk in _chunks(items) for d in self._decide(network, chunk, subset)]
                scores[subset.name] = macro_f1(np.array([i.label for i in items]), np.array(decided))
        network.train()
        return scores

    def _decide(self, network: EMMR, items: Sequence[Item], subset: ModalitySet) -> list[int]:
        batch = collate([i.utterance.keep(subset) for i in items], self.config).to(self.device)
        return [d.label_index for d in decide(network, batch)]

    def _train_epoch(
        self,
        network: EMMR,
        guidance: GuidanceNetwork | None,
        optimiser: torch.optim.Optimizer,
        average: MovingAverage,
        epoch: int,
        monitor: Monitor,
    ) -> None:
        settings = self.settings
        total_steps = settings.epochs * self._steps
        sums: dict[str, torch.Tensor] = {}
        steps = 0

        def step(item: TrainingBatch, factor: float) -> None:
            nonlocal steps
            set_rate(optimiser, settings, epoch * self._steps + steps, total_steps)
            lesson = self._lesson(item)
            with self._precision():
                output = network(item.batch)
                target = None if guidance is None else guidance.guide(item.batch)
                loss, parts = total_loss(output, item.targets, item.batch.held, target, settings.losses, lesson)
            self._update(network, optimiser, factor * loss)
            average.update(network)
            for name, part in parts.items():
                sums[name] = sums.get(name, part.new_zeros(())) + part  # stays on the device until the epoch's end
            steps += 1

        self._seed(epoch)
        self._run(self._examples(epoch), epoch, f"Epoch {epoch + 1:>3}", step)
        monitor.losses(epoch, {name: float(value) / max(steps, 1) for name, value in sums.items()})

    def _pretrain(self, network: EMMR) -> None:
        """Let the voice and face encoders learn what each carries alone (`model.training.pretraining`)."""
        settings, epochs = self.settings, self._pretraining_epochs
        clips = single_modality_examples([*self.fixed, *self.corpus.unimodal("train")], self.features)
        if not clips or not epochs:
            return
        task = PretrainingTask(network, clips, settings)
        optimiser = build_optimiser(task, settings)
        rng = np.random.default_rng([self.seed, _PRETRAINING])
        total_steps = epochs * -(-len(draw_clips(clips, settings.pretraining_clips, rng)) // settings.batch_size)
        done = 0

        def step(item: TrainingBatch, factor: float) -> None:
            nonlocal done
            set_rate(optimiser, settings, done, total_steps)
            lesson = self._lesson(item)
            with self._precision():
                loss = task(item, lesson)
            self._update(task, optimiser, factor * loss)
            done += 1

        self._seed(-500)
        with progress_bar(self.console, "Encoders", total_steps) as advance:
            for epoch in range(epochs):
                drawn = draw_clips(clips, settings.pretraining_clips, rng)
                for item in self.source.epoch(drawn, _PRETRAINING + epoch):
                    self._share(item, step)
                    advance()

    def _fit_guidance(self, network: EMMR) -> GuidanceNetwork | None:
        """Train on complete inputs, from the network's encoders; None where there are none or none is wanted."""
        if not self.settings.guidance_epochs or not self.settings.losses.forward_weight:
            return None
        if not self.guidable:
            return None
        guidance = GuidanceNetwork(self.config).to(self.device)
        guidance.encoder.load_state_dict(network.encoder.state_dict())
        self.world.equal_start(guidance)
        optimiser = build_optimiser(guidance, self.settings, encoder_rate=self._encoder_rate)
        total_steps = self.settings.guidance_epochs * self._steps
        done = 0

        def step(item: TrainingBatch, factor: float) -> None:
            nonlocal done
            set_rate(optimiser, self.settings, done, total_steps)
            with self._precision():
                logits = guidance(item.batch)
            lesson = self._lesson(item)
            wanted = item.targets.labels if lesson is None else lesson.answer
            loss = F.cross_entropy(logits.float(), wanted, item.targets.class_weights)
            self._update(guidance, optimiser, factor * loss)
            done += 1

        for epoch in range(self.settings.guidance_epochs):
            self._seed(-1 - epoch)
            self._run(self._examples(epoch), epoch, f"Guidance {epoch + 1}", step, complete=True)
        return guidance.eval().requires_grad_(requires_grad=False)

    def _restore_guidance(self, tensors: Mapping[str, torch.Tensor]) -> GuidanceNetwork | None:
        if not tensors:
            return None
        guidance = GuidanceNetwork(self.config).to(self.device)
        guidance.load_state_dict(dict(tensors))
        return guidance.eval().requires_grad_(requires_grad=False)

    def _examples(self, epoch: int) -> Sequence[Example]:
        if not self.settings.redraw:
            return self.fixed
        return self.corpus.redraw(np.random.default_rng([self.seed, epoch, 2]))

    @property
    def _pretraining_epochs(self) -> int:
        taught = self.teacher is not None
        return self.settings.taught_pretraining_epochs if taught else self.settings.pretraining_epochs

    @property
    def _encoder_rate(self) -> float:
        return self.settings.encoder_rate if self._pretraining_epochs else 1.0

    @property
    def _steps(self) -> int:
        """Steps of one epoch, at most."""
        return -(-len(self.fixed) // self.settings.batch_size)

    def _run(
        self,
        examples: Sequence[Example],
        epoch: int,
        title: str,
        step: Callable[[TrainingBatch, float], None],
        *,
        complete: bool = False,
    ) -> None:
        with progress_bar(self.console, title, self._steps) as advance:
            for item in self.source.epoch(examples, epoch, complete=complete):
                self._share(item, step)
                advance()

    def _share(self, item: TrainingBatch, step: Callable[[TrainingBatch, float], None]) -> None:
        """Take a step on this process's rows of a batch, with the factor on their loss."""
        own, factor = self.world.share(item)
        step(to_device(own, self.device), factor)

    def _lesson(self, item: TrainingBatch) -> SoftTargets | None:
        return None if self.teacher is None else self.teacher(item.batch)

    def _seed(self, epoch: int) -> None:
        """Seed dropout: another mask for each epoch and, as each has rows of its own, each process."""
        seed = np.random.SeedSequence([self.seed, epoch + 1_000]).generate_state(1)[0]
        torch.manual_seed(int(seed) + self.world.rank)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def _update(self, network: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.world.average_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip_norm)
        optimiser.step()

    def _recipe(self) -> str:
        return f"{self.corpus.name} {self.seed} {self.config.model_dump_json()} {self.settings.model_dump_json()}"


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[i : i + VALIDATION_BATCH] for i in range(0, len(items), VALIDATION_BATCH))
