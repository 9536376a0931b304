"""Training of EMMR and of the baselines: stages, epochs, schedule, validation, early stopping and resumption.

Paper 3.7 and Table 7; EMMR's schedule, moving average and class balance were chosen on validation data.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from model.baselines.base import AnswerLoss, NeuralBaseline, Reference
from model.baselines.systems import BASELINES, Network, build_network, decide
from model.checkpoint import Checkpoint
from model.config import EMMR as EMMR_NAME
from model.config import System
from model.errors import ConfigError
from model.modality import SUBSETS
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.guidance import GuidanceNetwork
from model.network.losses import SoftTargets, total_loss
from model.training.batches import BatchSource, TrainingBatch
from model.training.datasets.base import Corpus, Example
from model.training.decision_table import items_of
from model.training.distributed import SINGLE_PROCESS, DistributedContext
from model.training.initial import SHARES, average, select_share, take_over
from model.training.metrics import macro_f1
from model.training.prepare import PreparedCorpus
from model.training.pretraining import PRETRAINED, PretrainingTask, draw_clips, single_modality_examples
from model.training.progress import FitReport, Monitor, progress_bar
from model.training.settings import Recipe, TrainingSettings
from model.training.training_state import (
    MovingAverage,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
    with_prefix,
)

VALIDATION_BATCH: Final = 256
_PRETRAINING: Final = 1_000_000  # added to the epoch numbers of pretraining, so that its draws differ

Loss = Callable[[TrainingBatch, SoftTargets | None], Tensor]
"""The scalar to minimise, of a batch and the teacher's soft targets."""


def build_optimiser(network: nn.Module, settings: TrainingSettings, *, encoder_rate: float = 1.0) -> AdamW:
    """AdamW, with the factor `encoder_rate` on the learning rate of the pretrained parameters."""
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if not name.startswith(PRETRAINED)], "factor": 1.0},
        {"params": [p for name, p in trained if name.startswith(PRETRAINED)], "factor": encoder_rate},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_rate(optimiser: Optimizer, settings: TrainingSettings, step: int, total: int) -> None:
    """Set the learning rate of a step: linear warm-up, then a cosine to zero; nothing has to be stored to resume."""
    warm = max(1, int(settings.warmup * total))
    factor = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * factor * group["factor"]


def stage_settings(system: System, settings: TrainingSettings) -> list[TrainingSettings]:
    """The settings of each stage of a system's training: for EMMR the given ones, for a reference none.

    For a baseline the given ones, with the schedule and optimiser of its source. What is not of the stage is common to
    all systems: missing patterns, augmentation, soft targets, class balance and moving average.
    """
    if system == EMMR_NAME:
        return [settings]
    baseline = BASELINES[system]
    found = []
    for stage in baseline.stages if issubclass(baseline, NeuralBaseline) else ():
        own: dict[str, object] = {"complete_share": 1.0, "one_missing_share": 0.0} if stage.complete else {}
        for name in ("learning_rate", "weight_decay", "clip_norm", "batch_size", "patience"):
            if (value := getattr(stage, name)) is not None:
                own[name] = value
        own["epochs"], own["select_epoch"] = settings.baseline_epochs or stage.epochs, True
        found.append(settings.model_copy(update=own))
    return found


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Folders and resources of a run.

    Args:
        folder: for adapters, teacher, and the state and TensorBoard scalars of each seed.
        cache: feature cache, shared by runs.
        workers: processes for computing features.
        device: of encoder and network.
        distributed: the processes that train together.
    """

    folder: Path
    cache: Path
    workers: int
    device: torch.device
    distributed: DistributedContext = SINGLE_PROCESS


@dataclass
class Trainer:
    """One training run.

    Args:
        corpus: gives training and validation examples.
        prepared: features of both; the soft targets of its teacher, if any, replace the labels.
        recipe: config of the network and settings of the training.
        seed: of every random draw.
        paths: of the run. CUDA trains in mixed precision (bfloat16), the CPU in float32.
        console: for progress; other processes than the main one print nothing.
        initial: weights to start EMMR from instead of random ones; the encoders are then not pretrained, and the
            result is averaged with these weights where the classes are the same.

    Raises:
        ConfigError: the corpus has no validation examples, or no training example with features.
    """

    corpus: Corpus
    prepared: PreparedCorpus
    recipe: Recipe
    seed: int
    paths: RunPaths
    console: Console = field(default_factory=Console)
    initial: Checkpoint | None = None

    def __post_init__(self) -> None:
        corpus, features = self.corpus, self.prepared.features
        self.config, self.settings, self.teacher = self.recipe.model, self.recipe.training, self.prepared.teacher
        self.device, self.distributed = self.paths.device, self.paths.distributed
        self.folder = self.paths.folder / f"seed-{self.seed}"
        config, settings = self.config, self.settings
        self.stages = stage_settings(config.system, settings)
        if not self.distributed.is_main:
            self.console = Console(quiet=True)
        self.source = self._batches(settings)
        self.validation = items_of(corpus.examples("val"), features, config.classes)
        self.fixed = corpus.examples("train")
        if not self.validation:
            raise ConfigError("the corpus has no validation examples, which are needed to select an epoch")
        training = items_of(self.fixed, features, config.classes)
        if not training:
            raise ConfigError("the corpus has no training example with any features")
        self.pretraining_epochs = settings.taught_pretraining_epochs if self.teacher else settings.pretraining_epochs
        self.encoder_rate = settings.encoder_rate if self.pretraining_epochs or self.initial else 1.0
        self.guided = (
            config.system == EMMR_NAME
            and bool(settings.guidance_epochs and settings.losses.forward_weight)
            and any(item.utterance.presence.complete for item in training)
        )

    def fit(self, *, resume: bool = False) -> tuple[Network, FitReport]:
        """Train the config's system; returns the network of the best epoch, in eval mode, and the scores.

        EMMR is trained in one stage, after its encoders and guidance network. A baseline may have several stages, each
        of which starts from the best epoch of the one before. The report is that of the last stage.

        Args:
            resume: continue an interrupted run in the same folder; a finished one returns its result.

        Raises:
            ConfigError: the run to resume had another recipe.
            CheckpointError: its state cannot be read.
        """
        torch.manual_seed(self.seed)
        network = build_network(self.config).to(self.device)
        if isinstance(network, Reference):
            return self._fit_reference(network)
        assert isinstance(network, EMMR | NeuralBaseline)
        self.distributed.broadcast_parameters(network)
        state = load_state(self.folder) if resume else None
        if state is not None and state[1]["recipe"] != self._recipe():
            raise ConfigError(f"{self.folder} holds a run with another recipe: start anew or use its own")
        if state is None and isinstance(network, EMMR):
            if self.initial is None:
                self._pretrain(network)
            else:
                take_over(network, self.initial)
        epoch = 0 if state is None else int(state[1]["epoch"])  # number of epochs that the state has, over all stages
        monitor = Monitor(self.console, self.folder if self.distributed.is_main else None, epoch)
        report, first = FitReport(), 0
        for number, settings in enumerate(self.stages):
            if first + settings.epochs >= epoch:
                report = self._fit_stage(network, number, first, state if epoch > first else None, monitor)
            first += settings.epochs
        monitor.close()
        if self.initial is not None and self.initial.config.classes == self.config.classes:
            self._average(network, self.initial, report)
        return network.eval(), report

    def _average(self, network: EMMR | NeuralBaseline, initial: Checkpoint, report: FitReport) -> None:
        """Average a trained network with the weights that it started from, and report the average's scores."""
        trained = {name: value.clone() for name, value in network.state_dict().items()}
        by_share = {}
        for share in SHARES:
            average(network, trained, initial, share)
            by_share[share] = self.validate(network)
        means = {share: float(np.mean(list(scores.values()))) for share, scores in by_share.items()}
        share = self.distributed.broadcast(select_share(means, len(self.validation)))
        average(network, trained, initial, share)
        report.trained_share, report.best_macro_f1, report.by_pattern = share, means[share], by_share[share]

    def _fit_stage(
        self,
        network: EMMR | NeuralBaseline,
        number: int,
        first: int,
        state: tuple[dict[str, Tensor], dict[str, Any]] | None,
        monitor: Monitor,
    ) -> FitReport:
        """Train one stage, from its state if there is one; `network` is that of its best epoch afterwards.

        `first` is the number of the stage's first epoch, counted over the stages' full lengths.
        """
        settings = self.stages[number]
        self.source, last = self._batches(settings), first + settings.epochs
        if isinstance(network, NeuralBaseline):
            network.begin(number)
        if state is None:
            optimiser = self._optimiser(network, settings)
            average, report, start = MovingAverage(network, settings.average_decay), FitReport(), first
            best = {name: value.clone() for name, value in average.module.state_dict().items()}
            guidance = self._fit_guidance(network) if self.guided and isinstance(network, EMMR) else None
        else:
            tensors, facts = state
            network.load_state_dict(with_prefix(tensors, "network."))
            optimiser = self._optimiser(network, settings)
            restore_optimiser(optimiser, tensors)
            average = MovingAverage(network, settings.average_decay, facts["steps"])
            average.module.load_state_dict(with_prefix(tensors, "average."))
            report, start = FitReport(**facts["report"]), facts["epoch"]
            best = with_prefix(tensors, "best.")
            guidance = GuidanceNetwork(self.config).to(self.device) if self.guided else None
            if guidance is not None:
                guidance.load_state_dict(with_prefix(tensors, "guidance."))
        if guidance is not None:
            guidance.eval().requires_grad_(requires_grad=False)
        optimiser.register_step_post_hook(lambda *_: average.update_parameters(network))
        for epoch in range(start, last):
            if report.stale(settings.patience):
                break
            losses = self._train_epoch(network, guidance, optimiser, settings, epoch, first)
            monitor.losses(epoch, losses)
            report.losses.append(losses)
            # All processes use the scores of the main one: rounding differences must not separate them.
            by_pattern = self.distributed.broadcast(self.validate(average.module) if self.distributed.is_main else {})
            improved = report.record(by_pattern, select=settings.select_epoch)
            monitor.validated(epoch, by_pattern, best=improved)
            if improved:
                best = {name: value.clone() for name, value in average.module.state_dict().items()}
            if self.distributed.is_main:
                states = {"network": network.state_dict(), "average": average.module.state_dict(), "best": best}
                states |= {} if guidance is None else {"guidance": guidance.state_dict()}
                tensors = {f"{group}.{name}": x for group, state in states.items() for name, x in state.items()}
                facts = {"steps": average.updates, "recipe": self._recipe(), "report": asdict(report)}
                save_state(self.folder, tensors | optimiser_tensors(optimiser), {"epoch": epoch + 1, **facts})
        network.load_state_dict(best)
        return report

    def _fit_reference(self, network: Reference) -> tuple[Network, FitReport]:
        """Fit a reference to the fixed examples, with nothing made missing."""
        training = items_of(self.fixed, self.prepared.features, self.config.classes)
        network.fit(
            [(item.utterance, item.label) for item in training],
            [(item.utterance, item.label) for item in self.validation],
            self.seed,
        )
        report = FitReport()
        report.record(self.validate(network))
        return network.to(self.device).eval(), report

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Validation macro-F1 of every subset that some item has the modalities for."""
        assert isinstance(network, Network)
        network.eval()
        scores = {}
        for subset in SUBSETS:
            items = [i for i in self.validation if subset.present <= i.utterance.presence.present]
            predicted: list[int] = []
            for start in range(0, len(items), VALIDATION_BATCH):
                utterances = [i.utterance.keep(subset) for i in items[start : start + VALIDATION_BATCH]]
                batch = collate(utterances, self.config).to(self.device)
                predicted += [d.label_index for d in decide(network, batch)]
            if items:
                scores[subset.name] = macro_f1(np.array([i.label for i in items]), np.array(predicted))
        return scores

    def _train_epoch(
        self,
        network: EMMR | NeuralBaseline,
        guidance: GuidanceNetwork | None,
        optimiser: Optimizer,
        settings: TrainingSettings,
        epoch: int,
        first: int,
    ) -> dict[str, float]:
        """Train one epoch of the stage whose first is `first`; returns the mean of each part of the loss."""
        parts: dict[str, list[Tensor]] = defaultdict(list)  # on the device, so that no step waits for it

        def loss(item: TrainingBatch, soft_targets: SoftTargets | None) -> Tensor:
            if isinstance(network, NeuralBaseline):
                total, values = network.loss(item.batch, AnswerLoss(item.targets, settings.losses, soft_targets))
            else:
                output = network(item.batch)
                guided = None if guidance is None else guidance.guide(item.batch)
                total, values = total_loss(output, item.targets, item.batch.held, guided, settings.losses, soft_targets)
            for name, value in {"total": total.detach(), **values}.items():
                parts[name].append(value)
            return total

        steps = self._steps(settings)
        self._seed(epoch)
        self._optimise(
            network,
            optimiser,
            self.source.epoch(self._examples(epoch), epoch),
            loss,
            f"Epoch {epoch + 1:>3}",
            steps,
            settings,
            first=(epoch - first) * steps,
            total=settings.epochs * steps,
        )
        return {name: float(torch.stack(values).mean()) for name, values in parts.items()}

    def _pretrain(self, network: EMMR) -> None:
        """Pretrain the audio and visual encoders (`model.training.pretraining`)."""
        settings = self.settings
        clips = single_modality_examples([*self.fixed, *self.corpus.unimodal("train")], self.prepared.features)
        if not clips or not self.pretraining_epochs:
            return
        task = PretrainingTask(network, clips, settings)
        rng = np.random.default_rng([self.seed, _PRETRAINING])
        steps = -(-len(draw_clips(clips, settings.pretraining_clips, rng)) // settings.batch_size)
        batches = (
            item
            for epoch in range(self.pretraining_epochs)
            for item in self.source.epoch(draw_clips(clips, settings.pretraining_clips, rng), _PRETRAINING + epoch)
        )
        self._seed(-500)
        optimiser = build_optimiser(task, settings)
        self._optimise(task, optimiser, batches, task, "Encoders", self.pretraining_epochs * steps, settings)

    def _fit_guidance(self, network: EMMR) -> GuidanceNetwork:
        """Train the guidance network on complete inputs, starting from the network's encoders."""
        guidance = GuidanceNetwork(self.config).to(self.device)
        guidance.encoder.load_state_dict(network.encoder.state_dict())
        self.distributed.broadcast_parameters(guidance)

        def loss(item: TrainingBatch, soft_targets: SoftTargets | None) -> Tensor:
            target = item.targets.labels if soft_targets is None else soft_targets.answer
            return F.cross_entropy(guidance(item.batch).float(), target, item.targets.class_weights)

        def batches() -> Iterator[TrainingBatch]:
            for epoch in range(self.settings.guidance_epochs):
                self._seed(-1 - epoch)
                yield from self.source.epoch(self._examples(epoch), epoch, complete=True)

        optimiser = build_optimiser(guidance, self.settings, encoder_rate=self.encoder_rate)
        steps = self.settings.guidance_epochs * self._steps(self.settings)
        self._optimise(guidance, optimiser, batches(), loss, "Guidance", steps, self.settings)
        return guidance

    def _optimise(
        self,
        network: nn.Module,
        optimiser: Optimizer,
        batches: Iterable[TrainingBatch],
        loss: Loss,
        title: str,
        steps: int,
        settings: TrainingSettings,
        *,
        first: int = 0,
        total: int | None = None,
    ) -> None:
        """Take one step for each batch, on this process's rows; `steps` is the length of the progress bar.

        `first` is the number of the first step in the learning-rate schedule of `total` (by default `steps`) steps.
        A baseline's rate is constant.
        """
        network.train()
        with progress_bar(self.console, title, steps) as advance:
            for step, whole in enumerate(batches, first):
                if isinstance(optimiser, AdamW):
                    set_rate(optimiser, settings, step, total or steps)
                item, factor = self.distributed.shard(whole)
                item = item.to(self.device)
                soft_targets = None if self.teacher is None else self.teacher(item.batch)
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
                    value = loss(item, soft_targets)
                optimiser.zero_grad(set_to_none=True)
                (factor * value).backward()
                self.distributed.average_gradients(network)
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
                optimiser.step()
                advance()

    def _optimiser(self, network: EMMR | NeuralBaseline, settings: TrainingSettings) -> Optimizer:
        if isinstance(network, EMMR):
            return build_optimiser(network, settings, encoder_rate=self.encoder_rate)
        trained = [p for p in network.parameters() if p.requires_grad]
        return Adam(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def _batches(self, settings: TrainingSettings) -> BatchSource:
        return BatchSource(self.config, settings, self.prepared.features, self.seed, self.teacher is not None)

    def _steps(self, settings: TrainingSettings) -> int:
        """Steps of an epoch, at most."""
        return -(-len(self.fixed) // settings.batch_size)

    def _examples(self, epoch: int) -> Sequence[Example]:
        if not self.settings.redraw:
            return self.fixed
        return self.corpus.redraw(np.random.default_rng([self.seed, epoch, 2]))

    def _seed(self, epoch: int) -> None:
        """Seed dropout: different masks for each epoch and for the rows of each process."""
        seed = np.random.SeedSequence([self.seed, epoch + 1_000]).generate_state(1)[0]
        torch.manual_seed(int(seed) + self.distributed.rank)

    def _recipe(self) -> str:
        origin = "" if self.initial is None else f"{self.initial.version} "
        return (
            f"{origin}{self.corpus.name} {self.seed} {self.config.model_dump_json()} {self.settings.model_dump_json()}"
        )
