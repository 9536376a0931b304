"""The ensemble and the check distilled into one pass: fidelity of a student on composite2, and counted operations.

Needs the corpora. The student is fitted on the training part, chosen on the validation part and measured on both parts.
"""

# The frozen encoders, filled slots, transformer encoder and its pooling give what a complete utterance needs already. A
# perceptron on the pooled feature corrects the answer and the key score that follow from it. Complete utterances have
# neither ensemble nor check, so that only incomplete ones are measured. Familiarity is weighed as in the service.
#
# Shapes: N cases (items × incomplete subsets), P subsets, D hidden, C classes, I inputs of the student.

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.settings import DEFAULT_WEIGHTS
from benchmarks.harness import (
    Report,
    arguments,
    finish,
    machine_line,
    write_section,
)
from benchmarks.network import CASES, inconsistent_share, operations, time_pass, utterances
from model.config import TRANSFORMER, ModelConfig
from model.experiments.cell_measures import count_operations
from model.modality import MODALITIES, Utterance
from model.network.batch import Batch, collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.familiarity import FAMILIAR
from model.network.inference.fused import FusedNetwork
from model.network.reliability import decide_with_reliability
from model.pipeline import Pipeline
from model.training.commands import DEFAULT_CACHE
from model.training.datasets.base import Split
from model.training.datasets.composite import Composite2Corpus
from model.training.decision_table import BATCH_SIZE, DecisionTable, Item, items_of
from model.training.key_missing import INCOMPLETE, IncompleteCases
from model.training.metrics import auroc, macro_f1
from model.training.prepare import prepare_split
from model.types import BoolArray, DoubleArray, IntArray

RESULTS: Final = Path("benchmarks/results/distillation.json")
DOCUMENT: Final = Path("docs/development/performance.md")
WIDTHS: Final = (64, 256, 1024)
"""Hidden units that are compared on the validation part."""
EPOCHS: Final = 30
LEARNING_RATE: Final = 1e-3
STUDENT_BATCH: Final = 512  # cases of one optimiser step
LIMIT: Final = 1e-3
"""Largest change of a probability that an optimisation may make (docs/development/performance.md)."""
INCOMPLETE_CASES: Final = {missing: case for missing, case in CASES.items() if missing}
MISSING: Final = {**{case: (missing,) for missing, case in INCOMPLETE_CASES.items()}, "incomplete": (1, 2)}
OPTIONS: Final = {
    "student": "student",
    "transformer": "transformer path alone, calibrated",
    "uncalibrated": "transformer path alone, not calibrated",
}


def one_pass(fused: FusedNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled features `(B, D)` and logits `(B, C)` of the transformer path."""
    pooled: list[Tensor] = []
    hook = fused.network.classifier.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.inference_mode():
        _, logits = fused.transformer_encode(fused.encode(batch))
    hook.remove()
    return pooled[0], logits


def path_alone(fused: FusedNetwork, utterances: Sequence[Utterance]) -> list[Decision]:
    """Decisions of the transformer path without the check; the answer stands for both votes of the verdict."""
    _, logits = one_pass(fused, collate(utterances, fused.network.config))
    # The score is not None, so that there is a verdict.
    return [
        replace(Decision.of_answer(answer), key_score=0.0, branch_weights={TRANSFORMER: 1.0}, transformer=answer)
        for answer in map(tuple, logits.softmax(dim=-1).tolist())
    ]


@dataclass(frozen=True, slots=True)
class SelectedPath:
    """A `Predictor` that computes only the path that the gate selects, as the service does."""

    answer: Callable[[Sequence[Utterance]], list[Decision]]

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        """One decision for each utterance."""
        del both_paths
        return self.answer(utterances)


@dataclass(frozen=True, slots=True)
class Answers:
    """Probabilities `(N, C)` and key scores `(N,)`."""

    probabilities: DoubleArray
    key_score: DoubleArray

    @classmethod
    def of(cls, decisions: Sequence[Sequence[Decision]]) -> "Answers":
        """Collect them, row by row."""
        flat = [decision for row in decisions for decision in row]
        return cls(np.array([d.probabilities for d in flat]), np.array([d.key_score for d in flat], dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Part:
    """Every item of a part of the corpus with each incomplete subset of its modalities, subset by subset.

    Args:
        inputs: `(N, I)` of the student.
        teacher: the answers of the whole network.
        transformer: of `path_alone`, calibrated and with its verdict.
        uncalibrated: of the same network before calibration; the key score is 1 − max probability.
        truth: `(N,)` true classes.
        key: `(N,)` whether a key modality is missing, by the evaluation's protocol.
        missing: `(N,)` number of missing modalities.
        ensemble: `(N,)` whether the teacher's answer is the ensemble's.
        unfamiliar: `(N,)` whether a present modality is unfamiliar.
    """

    inputs: Tensor
    teacher: Answers
    transformer: Answers
    uncalibrated: Answers
    truth: IntArray
    key: BoolArray
    missing: IntArray
    ensemble: BoolArray
    unfamiliar: BoolArray

    @classmethod
    def of(cls, items: Sequence[Item], pipeline: Pipeline) -> "Part":
        """Run the whole network and the one pass.

        Args:
            items: complete ones.
            pipeline: of EMMR weights, on the CPU.
        """
        network, classes = pipeline.checkpoint.network, len(pipeline.config.classes)
        assert isinstance(network, EMMR)
        fused = FusedNetwork(network)
        cases = IncompleteCases.of(DecisionTable(SelectedPath(pipeline.decide), items, classes))
        assert cases is not None
        answer = partial(decide_with_reliability, partial(path_alone, fused), pipeline.checkpoint.reliability)
        alone = DecisionTable(SelectedPath(answer), items, classes)
        decisions = [[alone[index, subset] for index in range(len(items))] for subset in INCOMPLETE]
        parts = [one_pass(fused, collate(batch, network.config)) for batch in _batches(items)]
        pooled, raw = (torch.cat(each) for each in zip(*parts, strict=True))
        flat = [decision for row in decisions for decision in row]
        present = [subset.mask() for subset in INCOMPLETE for _ in items]
        familiarity = [[d.familiarity.get(m, 0.0) for m in MODALITIES] for d in flat]
        transformer, probabilities = Answers.of(decisions), raw.softmax(dim=-1).double().numpy()
        return cls(
            inputs=torch.cat(
                [
                    pooled,
                    torch.tensor(present, dtype=torch.float32),
                    torch.tensor(familiarity),
                    torch.from_numpy(transformer.probabilities).clamp(min=1e-9).log().float(),
                    torch.from_numpy(transformer.key_score).logit(eps=1e-6).float()[:, None],
                ],
                dim=1,
            ),
            teacher=Answers.of(cases.decisions),
            transformer=transformer,
            uncalibrated=Answers(probabilities, 1 - probabilities.max(axis=1)),
            truth=np.tile(cases.truth, len(INCOMPLETE)),
            key=cases.key.ravel(),
            missing=np.repeat([len(subset.missing) for subset in INCOMPLETE], len(items)),
            ensemble=np.array([d.ensemble_used for row in cases.decisions for d in row]),
            unfamiliar=np.array([min(d.familiarity.values()) < FAMILIAR for d in flat]),
        )


def _batches(items: Sequence[Item]) -> Iterator[list[Utterance]]:
    for subset in INCOMPLETE:
        for start in range(0, len(items), BATCH_SIZE):
            yield [item.utterance.keep(subset) for item in items[start : start + BATCH_SIZE]]


class Student(nn.Module):
    """A perceptron that corrects the answer and the key score of the transformer path.

    Args:
        hidden: D.
        classes: C.
        width: of its hidden layer.
    """

    def __init__(self, hidden: int, classes: int, width: int) -> None:
        super().__init__()
        self.corrected = classes + 1  # the last inputs: log-probabilities, and log-odds of the key score
        size = hidden + 2 * len(MODALITIES) + self.corrected  # presence and familiarity of each modality
        self.layers = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, self.corrected))
        self.mean, self.scale = nn.Buffer(torch.zeros(size)), nn.Buffer(torch.ones(size))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of `Part`, `(N, I)` → logits of the classes `(N, C)`, and log-odds of the key score `(N,)`."""
        found = x[:, -self.corrected :] + self.layers((x - self.mean) / self.scale)
        return found[:, :-1], found[:, -1]

    def answers(self, x: Tensor) -> Answers:
        """Its answers to the inputs `(N, I)`."""
        with torch.inference_mode():
            logits, odds = self(x)
            return Answers(logits.double().softmax(dim=-1).numpy(), odds.double().sigmoid().numpy())


def distillation_loss(student: Student, inputs: Tensor, probabilities: Tensor, key_score: Tensor) -> Tensor:
    """KL divergence from the teacher's probabilities, and cross-entropy with its key score, in nats."""
    logits, odds = student(inputs)
    divergence = F.kl_div(logits.log_softmax(dim=-1), probabilities, reduction="batchmean")
    return divergence + F.binary_cross_entropy_with_logits(odds, key_score)


def fit(training: Part, validation: Part, width: int, epochs: int, hidden: int) -> tuple[Student, int, float]:
    """Fit a student; returns that of the epoch with the lowest validation loss, the epoch from 1, and the loss."""
    torch.manual_seed(0)
    student = Student(hidden, training.teacher.probabilities.shape[1], width)
    student.mean.copy_(training.inputs.mean(dim=0))
    student.scale.copy_(training.inputs.std(dim=0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    own, held_out = _tensors(training), _tensors(validation)
    best, best_epoch, best_loss = copy.deepcopy(student), 0, float("inf")
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(training.inputs)).split(STUDENT_BATCH):
            optimizer.zero_grad()
            distillation_loss(student, *(tensor[rows] for tensor in own)).backward()
            optimizer.step()
        schedule.step()
        with torch.inference_mode():
            loss = float(distillation_loss(student, *held_out))
        if loss < best_loss:
            best, best_epoch, best_loss = copy.deepcopy(student), epoch, loss
    return best.eval(), best_epoch, best_loss


def _tensors(part: Part) -> tuple[Tensor, Tensor, Tensor]:
    probabilities, key_score = part.teacher.probabilities, part.teacher.key_score
    return part.inputs, torch.from_numpy(probabilities).float(), torch.from_numpy(key_score).float()


def fidelity(part: Part, given: Answers, rows: BoolArray) -> dict[str, float]:
    """Figures of answers beside the teacher's on some cases, `(N,)` bool.

    Returns:
        `label_agreement`; `mean_difference` and `largest_difference` of a probability; `within_limit`: share of cases
        without a difference above `LIMIT`; `key_correlation` (Pearson) and `key_mean_difference` of the key score;
        `key_auroc` of it, where some but not all cases are key; `macro_f1`.
    """
    classes, theirs = (a.probabilities[rows].argmax(axis=1) for a in (given, part.teacher))
    apart = np.abs(given.probabilities - part.teacher.probabilities)[rows]  # (M, C)
    score, target = given.key_score[rows], part.teacher.key_score[rows]
    area = auroc(part.key[rows], score)
    return {
        "label_agreement": float(np.mean(classes == theirs)),
        "mean_difference": float(apart.mean()),
        "largest_difference": float(apart.max()),
        "within_limit": float(np.mean(apart.max(axis=1) <= LIMIT)),
        "key_correlation": float(np.corrcoef(score, target)[0, 1]),
        "key_mean_difference": float(np.abs(score - target).mean()),
        **({} if area is None else {"key_auroc": area}),
        "macro_f1": macro_f1(part.truth[rows], classes),
    }


def figures(part: Part, student: Student) -> dict[str, float]:
    """Every figure of a part, by number of missing modalities and system."""
    answers = {
        "teacher": part.teacher,
        "student": student.answers(part.inputs),
        "transformer": part.transformer,
        "uncalibrated": part.uncalibrated,
    }
    found: dict[str, float] = {}
    for case, counts in MISSING.items():
        rows = np.isin(part.missing, counts)
        found[f"{case}_n"] = int(rows.sum())
        found[f"{case}_ensemble_share"] = float(part.ensemble[rows].mean())
        found[f"{case}_unfamiliar_share"] = float(part.unfamiliar[rows].mean())
        for system, given in answers.items():
            found |= {f"{case}_{system}_{name}": value for name, value in fidelity(part, given, rows).items()}
    return found


@dataclass(frozen=True, slots=True)
class StudentPass:
    """The one pass with a student, from features to its logits; calibration and familiarity are left out."""

    fused: FusedNetwork
    student: Student

    @classmethod
    def build(cls, network: EMMR, width: int) -> "StudentPass":
        """Build one with an untrained student, whose cost is that of a trained one."""
        config = network.config
        return cls(FusedNetwork(network), Student(config.network.hidden, len(config.classes), width).eval())

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of the classes `(B, C)`."""
        pooled, logits = one_pass(self.fused, batch)
        with torch.inference_mode():
            logs, present = logits.log_softmax(dim=-1), batch.present.float()
            # Familiarity and key score come from outside the network; ones have the same cost.
            inputs = torch.cat([pooled, present, torch.ones_like(present), logs, logs.new_ones(len(logs), 1)], dim=1)
            answer: Tensor = self.student(inputs)[0]
        return answer


def cost(config: ModelConfig, width: int, share: float) -> dict[str, float]:
    """Counted operations of one utterance in units of 10⁹: of the sparse path, and of the one pass with the student.

    Args:
        config: of the network.
        width: of the student.
        share: of incomplete utterances whose check finds an inconsistency.
    """
    sparse, rng = operations(config, share), np.random.default_rng(0)
    run, found = StudentPass.build(EMMR(config).eval(), width), dict[str, float]()
    for missing, case in INCOMPLETE_CASES.items():
        subsets = [s for s in INCOMPLETE if len(s.missing) == missing]
        batches = [collate([item], config, room_to_impute=True) for item in utterances(config, subsets, rng)]
        count = float(np.mean([count_operations(partial(run, batch)) for batch in batches])) / 1e9
        found[f"{case}_sparse_gflop"], found[f"{case}_student_gflop"] = sparse[f"{case}_gflop"], count
        found[f"{case}_fewer_operations"] = sparse[f"{case}_gflop"] / count
    return found


def table(facts: Mapping[str, float | int | str | bool], parts: Sequence[str]) -> str:
    """The figures of each part as Markdown."""
    lines = [
        "| Part, missing | Answer | Same label | Probability | Within 1e-3 | Key score | AUROC | Macro-F1 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for part in parts:
        for missing, case in INCOMPLETE_CASES.items():
            for system, title in {"teacher": "whole network", **OPTIONS}.items():

                def of(figure: str, key: str = f"{part}_{case}_{system}") -> str:
                    value = facts.get(f"{key}_{figure}")
                    return "" if value is None else f"{value:.3f}"

                own = [""] * 4
                if system != "teacher":
                    share = f"{100 * float(facts[f'{part}_{case}_{system}_label_agreement']):.1f} %"
                    within = f"{100 * float(facts[f'{part}_{case}_{system}_within_limit']):.1f} %"
                    own = [share, f"{of('mean_difference')}, {of('largest_difference')}", within]
                    own.append(f"{of('key_correlation')}, {of('key_mean_difference')}")
                cells = [f"{part}, {missing}", title, *own, of("key_auroc"), of("macro_f1")]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the corpora")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="of features")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument(
        "--parts", nargs="+", choices=("val", "test"), default=["val", "test"], help="that are measured"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each student, at most")
    parser.add_argument("--timing", action="store_true", help="also time the one pass at the published size")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS}, and the table of {DOCUMENT}")
    options = parser.parse_args(given)
    pipeline = Pipeline.load(options.weights, "cpu")
    checkpoint, config = pipeline.checkpoint, pipeline.config
    corpus, report = Composite2Corpus(options.data), Report("distillation", machine_line())

    def part_of(split: Split) -> Part:
        features = prepare_split(
            corpus, split, config, checkpoint.preprocessing, checkpoint.text_encoder,
            f"checkpoint {checkpoint.version}", options.cache, 1,
        )  # fmt: skip
        items = items_of(corpus.examples(split), features, config.classes)
        return Part.of([item for item in items if item.utterance.presence.complete], pipeline)

    training, validation = part_of("train"), part_of("val")
    fitted = {w: fit(training, validation, w, options.epochs, config.network.hidden) for w in WIDTHS}
    width = min(fitted, key=lambda w: fitted[w][2])
    student, epoch, _ = fitted[width]
    facts = report.facts
    facts.update(weights=checkpoint.version, training_cases=len(training.inputs), width=width, epoch=epoch)
    facts.update({f"val_loss_width_{w}": loss for w, (_, _, loss) in fitted.items()})
    for name in options.parts:
        part = validation if name == "val" else part_of("test")
        facts.update({f"{name}_{figure}": value for figure, value in figures(part, student).items()})
    share = inconsistent_share()
    facts.update(cost(ModelConfig.paper(), width, share), inconsistent_share=share)
    if options.timing:
        torch.manual_seed(0)
        network = EMMR(ModelConfig.paper()).eval()
        medians, ratios = time_pass(network, StudentPass.build(network, width), share, (1, 32), options.rounds)
        report.medians.update(medians)
        report.ratios.update(ratios)
    finish(report, options.json)
    print(f"\n{table(facts, options.parts)}")
    if options.record:
        report.write(RESULTS)
        write_section(DOCUMENT, "distillation", table(facts, options.parts))


if __name__ == "__main__":
    main()
