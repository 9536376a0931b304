"""Training of the guidance network and of EMMR: epochs, schedule, validation, early stopping, resumption.

For: `fit`, from prepared features to the best network by validation macro-F1.
Does not know: files of a corpus, feature extraction, model cards.
Source: paper 3.7 and Table 7; schedule, moving average and class balance were chosen on validation data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from model.config import ModelConfig
from model.emmr.batch import collate
from model.emmr.guidance import GuidanceNetwork
from model.emmr.inference import decide
from model.emmr.losses import total_loss
from model.emmr.network import EMMR
from model.errors import ConfigError
from model.modality import SUBSETS, Presence
from model.training.batches import BatchSource, TrainingBatch, to_device
from model.training.corpora.base import Corpus, Example, Source
from model.training.evaluation import Item, items_of
from model.training.metrics import macro_f1
from model.training.optimisation import build_optimiser, set_rate
from model.training.pretraining import PretrainingTask, single_modality_examples
from model.training.settings import TrainingSettings
from model.training.state import (
    MovingAverage,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
    under,
)

FloatArray = npt.NDArray[np.float32]
VALIDATION_BATCH = 256
_PRETRAINING = 1_000_000  # its epochs' numbers, apart from those of the network's


@dataclass(slots=True)
class FitReport:
    """How a run went.

    Args:
        best_epoch: counted from 1.
        best_macro_f1: validation macro-F1 of that epoch, the mean over the missing patterns.
        by_pattern: the same by pattern.
        history: mean validation macro-F1 of every epoch.
    """

    best_epoch: int = 0
    best_macro_f1: float = -1.0
    by_pattern: dict[str, float] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)


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

        Raises:
            ConfigError: the corpus has no validation part to select on, or no training example with features.
        """
        self.corpus, self.features, self.config, self.settings = corpus, features, config, settings
        self.seed, self.device, self.folder = seed, device, folder
        self.console = console or Console()
        self.source = BatchSource(config, settings, features, seed)
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
        recipe = self._recipe()
        state = load_state(self.folder) if resume else None
        if state is None:
            self._pretrain(network)
        optimiser = build_optimiser(network, self.settings)
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
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start + 1)
        for epoch in range(start, self.settings.epochs):
            if self._stale(report):
                break
            self._train_epoch(network, guidance, optimiser, average, epoch, writer)
            average.swap(network)
            by_pattern = self.validate(network)
            average.swap(network)
            self._record(report, epoch, by_pattern, writer)
            if report.best_epoch == epoch + 1:
                best = {name: value.clone() for name, value in average.values.items()}
            groups = {"network.": network.state_dict(), "average.": average.values, "best.": best}
            if guidance is not None:
                groups["guidance."] = guidance.state_dict()
            tensors = {prefix + name: value for prefix, values in groups.items() for name, value in values.items()}
            save_state(
                self.folder,
                tensors | optimiser_tensors(optimiser),
                {"epoch": epoch + 1, "steps": average.steps, "recipe": recipe, "report": asdict(report)},
            )
        writer.close()
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

    def _decide(self, network: EMMR, items: Sequence[Item], subset: Presence) -> list[int]:
        batch = collate([i.utterance.keep(subset) for i in items], self.config).to(self.device)
        return [d.label_index for d in decide(network, batch)]

    def _train_epoch(
        self,
        network: EMMR,
        guidance: GuidanceNetwork | None,
        optimiser: torch.optim.Optimizer,
        average: MovingAverage,
        epoch: int,
        writer: SummaryWriter,
    ) -> None:
        settings = self.settings
        total_steps = settings.epochs * self._steps
        sums: dict[str, torch.Tensor] = {}
        steps = 0

        def step(item: TrainingBatch) -> None:
            nonlocal steps
            set_rate(optimiser, settings, epoch * self._steps + steps, total_steps)
            with self._precision():
                output = network(item.batch)
                target = None if guidance is None else guidance.guide(item.batch)
                loss, parts = total_loss(output, item.targets, item.batch.held, target, settings.losses)
            self._update(network, optimiser, loss)
            average.update(network)
            for name, part in parts.items():
                sums[name] = sums.get(name, part.new_zeros(())) + part  # stays on the device until the epoch's end
            steps += 1

        torch.manual_seed(_seed_of(self.seed, epoch))
        self._run(self._examples(epoch), epoch, f"Epoch {epoch + 1:>3}", step)
        for name, value in sums.items():
            writer.add_scalar(f"loss/{name}", float(value) / max(steps, 1), epoch + 1)

    def _pretrain(self, network: EMMR) -> None:
        """Let the voice and face encoders learn what each carries alone (`model.training.pretraining`)."""
        settings = self.settings
        clips = single_modality_examples(self.fixed, self.features)
        if not clips or not settings.pretraining_epochs:
            return
        task = PretrainingTask(network, clips, settings)
        optimiser = build_optimiser(task, settings, encoder_rate=1.0)
        total_steps = settings.pretraining_epochs * -(-len(clips) // settings.batch_size)
        done = 0

        def step(item: TrainingBatch) -> None:
            nonlocal done
            set_rate(optimiser, settings, done, total_steps)
            with self._precision():
                loss = task(item)
            self._update(task, optimiser, loss)
            done += 1

        torch.manual_seed(_seed_of(self.seed, -500))
        with self._progress("Encoders", total_steps) as advance:
            for epoch in range(settings.pretraining_epochs):
                for item in self.source.epoch(clips, _PRETRAINING + epoch):
                    step(to_device(item, self.device))
                    advance()

    def _fit_guidance(self, network: EMMR) -> GuidanceNetwork | None:
        """Train on complete inputs, from the network's encoders; None where there are none or none is wanted."""
        if not self.settings.guidance_epochs or not self.settings.losses.forward_weight:
            return None
        if not self.guidable:
            return None
        guidance = GuidanceNetwork(self.config).to(self.device)
        guidance.encoder.load_state_dict(network.encoder.state_dict())
        optimiser = build_optimiser(guidance, self.settings)
        total_steps = self.settings.guidance_epochs * self._steps
        done = 0

        def step(item: TrainingBatch) -> None:
            nonlocal done
            set_rate(optimiser, self.settings, done, total_steps)
            with self._precision():
                logits = guidance(item.batch)
            loss = F.cross_entropy(logits.float(), item.targets.labels, item.targets.class_weights)
            self._update(guidance, optimiser, loss)
            done += 1

        for epoch in range(self.settings.guidance_epochs):
            torch.manual_seed(_seed_of(self.seed, -1 - epoch))
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
    def _steps(self) -> int:
        """Steps of one epoch, at most."""
        return -(-len(self.fixed) // self.settings.batch_size)

    def _run(
        self,
        examples: Sequence[Example],
        epoch: int,
        title: str,
        step: Callable[[TrainingBatch], None],
        *,
        complete: bool = False,
    ) -> None:
        with self._progress(title, self._steps) as advance:
            for item in self.source.epoch(examples, epoch, complete=complete):
                step(to_device(item, self.device))
                advance()

    @contextmanager
    def _progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def _update(self, network: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip_norm)
        optimiser.step()

    def _record(self, report: FitReport, epoch: int, by_pattern: dict[str, float], writer: SummaryWriter) -> None:
        mean = float(np.mean(list(by_pattern.values())))
        report.history.append(mean)
        if mean > report.best_macro_f1:
            report.best_epoch, report.best_macro_f1, report.by_pattern = epoch + 1, mean, by_pattern
        writer.add_scalar("validation/macro_f1", mean, epoch + 1)
        for name, score in by_pattern.items():
            writer.add_scalar(f"validation/{name}", score, epoch + 1)
        figures = "  ".join(f"{name} {score:.3f}" for name, score in by_pattern.items())
        mark = "*" if report.best_epoch == epoch + 1 else " "
        self.console.print(f"epoch {epoch + 1:>3} {mark} validation macro-F1 {mean:.4f}   {figures}", highlight=False)

    def _stale(self, report: FitReport) -> bool:
        return len(report.history) - report.best_epoch >= self.settings.patience

    def _recipe(self) -> str:
        return f"{self.corpus.name} {self.seed} {self.config.model_dump_json()} {self.settings.model_dump_json()}"


def _seed_of(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch + 1_000]).generate_state(1)[0])


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[i : i + VALIDATION_BATCH] for i in range(0, len(items), VALIDATION_BATCH))
