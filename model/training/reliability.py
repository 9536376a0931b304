"""Fit calibration, familiarity, the key-missing verdict and the speech check (`model.network.reliability`).

All of it is fitted on people, sentences and corpora that the answering network was not trained on: the validation part,
and the test parts of cross-fitting folds (`model.training.crossfit`), each answered by its own network.

Shapes: N utterances, d features of a slot, K directions, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, argmax
from model.network.emmr import EMMR
from model.network.reliability import (
    FAMILIAR,
    PLAIN_SIZE,
    Familiarity,
    Observed,
    Reliability,
    Verdict,
    given_sets,
    moderate,
    observe,
    subset_number,
    verdict_features,
)
from model.training.datasets.base import Example, Source
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import paired_bootstrap
from model.training.unimodal_experts import corpus_weights
from model.types import DoubleArray, FloatArray, IntArray

TEMPERATURES: Final = tuple(np.geomspace(0.2, 2.0, 47).tolist())
SHRINKAGE: Final = 0.1  # of the covariance towards its diagonal
NEAR, FAR = 0.5, 0.99  # quantiles of unseen people's distances
BATCH: Final = 256
VERDICT_STEPS: Final = 3000
VERDICT_BATCH: Final = 512
VERDICT_RATE: Final = 3e-3
VERDICT_DECAY: Final = 1.0
MIN_NAMED: Final = 50  # cases of a class to fit a temperature of its own
FLOORS: Final = tuple(k / 10 for k in range(11))
USUAL_FLOOR: Final = 0.5
MIN_UNFAMILIAR: Final = 100  # cases that a trial needs to count for a floor
MIN_ROWS: Final = 200  # below so many incomplete cases no verdict is fitted
SPEECH_PENALTY: Final = 1e-3
SPEECH_STEPS: Final = 400
SPEECH_FALSE_ALARMS: Final = 0.005  # of unseen speakers' clips at a probability of 0.5


@dataclass(frozen=True, slots=True)
class Witness:
    """A network and complete utterances it was not trained on.

    Args:
        network: in eval mode.
        training: examples it was trained on, with those of a single modality.
        unseen: examples it was not trained on, the same; for familiarity.
        complete: examples it was not trained on that hold all modalities.
        features: normalised slots of all of them, as the network takes them.
        weight: of its utterances together.
    """

    network: EMMR
    training: Sequence[Example]
    unseen: Sequence[Example]
    complete: Sequence[Example]
    features: Mapping[Source, FloatArray]
    weight: float = 1.0

    def utterances(self) -> tuple[list[Utterance], list[int]]:
        """The complete utterances and their classes' indices."""
        classes = self.network.config.classes
        held = [e for e in self.complete if all(m in e.sources and e.sources[m] in self.features for m in MODALITIES)]
        return (
            [Utterance({m: self.features[e.sources[m]] for m in MODALITIES}) for e in held],
            [classes.index(e.label) for e in held],
        )


def fit_reliability(
    witnesses: Sequence[Witness],
    device: torch.device,
    speech: tuple[FloatArray, FloatArray, FloatArray] | None = None,
    steps: int = VERDICT_STEPS,
) -> Reliability:
    """Fit everything for the first witness's network.

    Args:
        witnesses: the network itself with validation content first; then those of cross-fitting folds, if any.
        device: of the networks.
        speech: normalised voice slots `(N, d)` of training speech, of unseen speech, and of sounds that are no speech.
        steps: of the verdict.
    """
    config = witnesses[0].network.config
    reliability = Reliability(config).eval()
    trials: list[Trial] = []
    for witness in witnesses:
        own = Reliability(config).eval()
        for modality in MODALITIES:
            fit_familiarity(own, modality, witness)
        # The gate is chosen for the first network: only there both paths are worth their cost.
        if (trial := run_trial(witness, own, device, both_paths=not trials)) is not None:
            trials.append(trial)
        if witness is witnesses[0]:
            reliability.load_state_dict(own.state_dict())
    if trials:
        _fit_floors(reliability, trials)
        _fit_temperatures(reliability, trials)
        reliability.gated.fill_(value=gate_pays(reliability, trials[0]))
        _fit_verdict(reliability, trials, steps)
    if speech is not None:
        _fit_speech(reliability, *speech)
    return reliability.requires_grad_(requires_grad=False)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one witness's network found, at every subset, on complete utterances it was not trained on.

    Args:
        seen: subset → the network's findings.
        labels: class indices.
        weight: of these utterances together.
    """

    seen: Mapping[ModalitySet, Observed]
    labels: Sequence[int]
    weight: float

    def moderated(self, reliability: Reliability, subset: ModalitySet) -> list[Decision]:
        """The answers from what is present, as `judge` has them when it asks for the verdict."""
        seen = self.seen[subset]
        return [
            moderate(reliability, decision, subset, familiarity, seen.familiar.get(i))
            for i, (decision, familiarity) in enumerate(zip(seen.decisions, seen.familiarities, strict=True))
        ]


def fit_familiarity(reliability: Reliability, modality: Modality, witness: Witness) -> None:
    """Centres of the classes, directions of their common covariance, and unseen people's distances."""
    config = reliability.config
    x, classes, weights = _means(witness.training, modality, witness.features, config)
    y, _, unseen_weights = _means(witness.unseen, modality, witness.features, config)
    familiarity = reliability.familiarity[modality]
    assert isinstance(familiarity, Familiarity)
    if len(x) <= x.shape[1] or len(y) < 1 / (1 - FAR) or len(set(classes.tolist())) < len(config.classes):
        return
    mean = weights @ x
    centred = x - mean
    centres = np.stack(
        [np.average(centred[classes == k], axis=0, weights=weights[classes == k]) for k in range(len(config.classes))]
    )  # (C, d)
    rest = centred - centres[classes]
    covariance = (rest * weights[:, None]).T @ rest
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance) + 1e-6)
    values, vectors = np.linalg.eigh(covariance)
    kept = familiarity.projection.shape[1]
    directions, left = vectors[:, ::-1][:, :kept] / np.sqrt(values[::-1][:kept]), values[::-1][kept:]
    familiarity.mean.copy_(_tensor(mean))
    familiarity.projection.copy_(_tensor(directions))
    familiarity.centres.copy_(_tensor(centres @ directions))
    familiarity.residual.fill_(1 / float(left.mean()) if len(left) else 0.0)
    distances = familiarity.distances(_tensor(y)).numpy()
    near, far = (_weighted_quantile(distances, unseen_weights, q) for q in (NEAR, FAR))
    familiarity.bounds.copy_(torch.tensor([near, max(far, near * 1.01 + 1e-6)]))


def _means(
    examples: Sequence[Example], modality: Modality, features: Mapping[Source, FloatArray], config: ModelConfig
) -> tuple[DoubleArray, IntArray, DoubleArray]:
    """Means over slots `(N, d)` of distinct sources, their classes, and weights under which corpora count equally."""
    found: dict[Source, tuple[int, str]] = {}
    for example in examples:
        source = example.sources.get(modality)
        if source is not None and source in features and source not in found:
            label = example.modality_labels.get(modality, example.label)
            found[source] = config.classes.index(label), example.origins.get(modality, "")
    size = config.feature_size(modality)
    x = np.array([features[source].mean(axis=0) for source in found], dtype=np.float64).reshape(-1, size)
    classes = np.array([k for k, _ in found.values()], dtype=np.int64)
    weights = corpus_weights([origin for _, origin in found.values()], classes) if found else np.zeros(0)
    return x, classes, weights


def _weighted_quantile(values: npt.NDArray[np.floating], weights: DoubleArray, quantile: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, quantile)), len(values) - 1)])


def run_trial(witness: Witness, reliability: Reliability, device: torch.device, *, both_paths: bool) -> Trial | None:
    """Have a witness's network decide on every subset of its complete utterances; None where it has none.

    Args:
        witness: whose.
        reliability: with the familiarity of this network.
        device: of the network.
        both_paths: also compute the ensemble where the gate does not ask for it.
    """
    utterances, labels = witness.utterances()
    if not utterances:
        return None
    seen = {
        subset: _observe(witness.network, reliability, [u.keep(subset) for u in utterances], device, both_paths)
        for subset in SUBSETS
    }
    return Trial(seen, labels, witness.weight)


def _observe(
    network: EMMR, reliability: Reliability, utterances: Sequence[Utterance], device: torch.device, both_paths: bool
) -> Observed:
    predictor = NetworkPredictor(network, device, reliability)
    chunks = [
        observe(predictor.network_decide, reliability, utterances[start : start + BATCH], both_paths=both_paths)
        for start in range(0, len(utterances), BATCH)
    ]
    return Observed(
        [decision for chunk in chunks for decision in chunk.decisions],
        [presence for chunk in chunks for presence in chunk.presences],
        [familiarity for chunk in chunks for familiarity in chunk.familiarities],
        {k * BATCH + i: decision for k, chunk in enumerate(chunks) for i, decision in chunk.familiar.items()},
    )


def _fit_temperatures(reliability: Reliability, trials: Sequence[Trial]) -> None:
    """Of each subset, the factor on log-probabilities with the least log loss over all trials; then of each class.

    A class that is named in few cases gets the factor of the whole subset.
    """
    for subset in SUBSETS:
        logs, labels, weights = _answers(reliability, trials, subset)
        reliability.temperatures[subset_number(subset)] = _best_factor(logs, labels, weights)
    for subset in SUBSETS[1:]:
        logs, labels, weights = _answers(reliability, trials, subset)
        named, number = logs.argmax(dim=1), subset_number(subset)
        for k in range(logs.shape[1]):
            rows = named == k
            if int(rows.sum()) >= MIN_NAMED:
                reliability.doubts[number, k] = _best_factor(logs[rows], labels[rows], weights[rows])


def _fit_floors(reliability: Reliability, trials: Sequence[Trial]) -> None:
    """Of each modality, the greatest weight that unfamiliar content of it is worth.

    Where it is alone and unfamiliar, the greatest weight whose log loss is not above the least by more than that
    figure's standard error; each trial, which lacks another corpus, counts equally.
    """
    for column, modality in enumerate(MODALITIES):
        subset = ModalitySet.of(modality)
        rows = [
            torch.tensor([familiarity[modality] < FAMILIAR for familiarity in trial.seen[subset].familiarities])
            for trial in trials
        ]
        counted = [i for i, here in enumerate(rows) if int(here.sum()) >= MIN_UNFAMILIAR]
        if not counted:
            reliability.floors[column] = USUAL_FLOOR
            continue
        means, errors = {}, {}
        for floor in FLOORS:
            reliability.floors[column] = floor
            losses = []
            for i in counted:
                logs, labels, _ = _answers(reliability, [trials[i]], subset)
                losses.append(F.nll_loss(logs[rows[i]], labels[rows[i]], reduction="none"))
            means[floor] = float(np.mean([float(loss.mean()) for loss in losses]))
            errors[floor] = math.sqrt(sum(float(loss.var()) / len(loss) for loss in losses)) / len(losses)
        best = min(means, key=means.__getitem__)
        reliability.floors[column] = max(f for f in FLOORS if means[f] <= means[best] + errors[best])


def _answers(
    reliability: Reliability, trials: Sequence[Trial], subset: ModalitySet
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities `(N, C)` of the answers from a subset, labels `(N,)` and weights `(N,)`, over all trials."""
    parts = [
        (
            torch.tensor([d.available for d in trial.moderated(reliability, subset)]).clamp(min=1e-9).log(),
            torch.tensor(trial.labels),
            torch.full((len(trial.labels),), trial.weight / len(trial.labels)),
        )
        for trial in trials
    ]
    logs, labels, weights = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return logs, labels, weights


def _best_factor(logs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    def loss(factor: float) -> float:
        return float((weights * F.cross_entropy(logs * factor, labels, reduction="none")).sum())

    best: float = min(TEMPERATURES, key=loss)
    return best


def gate_pays(reliability: Reliability, trial: Trial) -> bool:
    """Whether following the paper's gate is not less accurate than the transformer path alone.

    It is followed unless the paired interval of the accuracies' difference over the incomplete subsets lies below 0.
    """
    gated, never = [], []
    for subset in SUBSETS[1:]:
        decided = trial.moderated(reliability, subset)
        never.append([argmax(d.available) for d in decided])
        gated.append([argmax(d.ensemble if d.rule and d.ensemble else d.available) for d in decided])
    truth = np.array(trial.labels, dtype=np.int64)
    interval = paired_bootstrap(truth, np.array(gated), np.array(never), metric="accuracy", runs="pool")
    return bool(interval.high >= 0)


@dataclass(frozen=True, slots=True)
class VerdictRows:
    """Cases of something missing that might be given.

    Args:
        inputs: `(N, verdict_size)`.
        changed: `(N,)`, whether giving it changed the answer.
        missing: `(N,)`, how many modalities were missing where all of them are given, else 0.
        better: `(N,)`, whether the complete answer differs and is right.
        weights: `(N,)`.
    """

    inputs: FloatArray
    changed: FloatArray
    missing: IntArray
    better: FloatArray
    weights: FloatArray


def verdict_rows(reliability: Reliability, trial: Trial) -> VerdictRows:
    """Every incomplete subset of every utterance, with each set of missing modalities that might be given."""
    decided = {subset: trial.moderated(reliability, subset) for subset in SUBSETS}
    answers = {subset: [argmax(d.available) for d in decisions] for subset, decisions in decided.items()}
    inputs, changed, missing, better = [], [], [], []
    for subset in SUBSETS[1:]:
        for given in given_sets(subset):
            union = ModalitySet(subset.present | given.present)
            for i, decision in enumerate(decided[subset]):
                doubt = reliability.doubt(decision.available, subset)
                inputs.append(verdict_features(decision, subset, given, doubt))
                differs = answers[union][i] != answers[subset][i]
                changed.append(differs)
                missing.append(len(subset.missing) if union == COMPLETE else 0)
                better.append(differs and answers[union][i] == trial.labels[i])
    return VerdictRows(
        np.array(inputs, dtype=np.float32),
        np.array(changed, dtype=np.float32),
        np.array(missing, dtype=np.int64),
        np.array(better, dtype=np.float32),
        np.full(len(inputs), trial.weight / max(len(inputs), 1), dtype=np.float32),
    )


def _fit_verdict(reliability: Reliability, trials: Sequence[Trial], steps: int) -> None:
    parts = [verdict_rows(reliability, trial) for trial in trials]
    rows = VerdictRows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in VerdictRows.__dataclass_fields__)
    )
    if len(rows.inputs) < MIN_ROWS:
        return
    fit_verdict(reliability.verdict, rows, steps)
    for missing in range(1, len(MODALITIES)):
        reliability.threshold[missing - 1] = choose_threshold(reliability.verdict, rows, missing)


def fit_verdict(verdict: Verdict, rows: VerdictRows, steps: int = VERDICT_STEPS) -> None:
    """Minimise the cross-entropy of whether the answer changes; inputs are standardised into the first layer."""
    x, y, weights = torch.from_numpy(rows.inputs), torch.from_numpy(rows.changed), torch.from_numpy(rows.weights)
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-3)
    standardised = (x - mean) / scale
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        verdict.load_state_dict(Verdict(len_classes(verdict)).state_dict())
        optimiser = torch.optim.AdamW(verdict.parameters(), lr=VERDICT_RATE, weight_decay=VERDICT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, VERDICT_RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.multinomial(weights, VERDICT_BATCH, replacement=True, generator=generator)
            shown = standardised[chosen]
            loss = sum(
                F.binary_cross_entropy_with_logits(logits.squeeze(-1), y[chosen])
                for logits in (verdict.layers(shown), verdict.plain(shown[:, :PLAIN_SIZE]))
            )
            assert isinstance(loss, torch.Tensor)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    first = verdict.layers[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        for layer in (first, verdict.plain):
            width = layer.in_features
            layer.weight.div_(scale[:width])
            layer.bias.sub_(layer.weight @ mean[:width])
    _fit_scale(verdict, x, y, weights)
    verdict.fitted.fill_(value=True)
    verdict.eval().requires_grad_(requires_grad=False)


def _fit_scale(verdict: Verdict, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> None:
    """Slope and intercept of the log-odds with the least cross-entropy."""
    with torch.no_grad():
        odds = verdict.log_odds(x)
    scale = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        each = F.binary_cross_entropy_with_logits(odds * scale[0] + scale[1], y, reduction="none")
        value: torch.Tensor = (weights * each).sum() / weights.sum()
        value.backward()
        return value

    optimiser.step(loss)
    verdict.scale.copy_(scale.detach())


def len_classes(verdict: Verdict) -> int:
    """C of a verdict's first layer."""
    first = verdict.layers[0]
    assert isinstance(first, torch.nn.Linear)
    return (first.in_features - PLAIN_SIZE - 5 - len(MODALITIES)) // 6


def choose_threshold(verdict: Verdict, rows: VerdictRows, missing: int) -> float:
    """The score that, of so many missing, reports as many as there are whose answer would change to the right one."""
    here = rows.missing == missing
    with torch.inference_mode():
        scores = verdict(torch.from_numpy(rows.inputs[here])).numpy()
    weights = rows.weights[here].astype(np.float64)
    return _weighted_quantile(scores, weights, 1 - float(np.average(rows.better[here], weights=weights)))


def _fit_speech(reliability: Reliability, speech: FloatArray, unseen: FloatArray, other: FloatArray) -> None:
    """Logistic regression on voice slots; shifted so that few unseen speakers fall below a probability of 0.5."""
    x = torch.from_numpy(np.concatenate([speech, other]))
    y = torch.cat([torch.ones(len(speech)), torch.zeros(len(other))])
    weights = torch.cat(
        [torch.full((len(speech),), 0.5 / len(speech)), torch.full((len(other),), 0.5 / max(len(other), 1))]
    )
    layer = reliability.speech
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=SPEECH_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        each = F.binary_cross_entropy_with_logits(layer(x).squeeze(-1), y, reduction="none")
        value: torch.Tensor = (weights * each).sum() + SPEECH_PENALTY * layer.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        least = float(np.quantile(layer(torch.from_numpy(unseen)).squeeze(-1).numpy(), SPEECH_FALSE_ALARMS))
        layer.bias.sub_(min(least, 0.0))
    reliability.speech_fitted.fill_(value=True)


def _tensor(array: npt.NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
