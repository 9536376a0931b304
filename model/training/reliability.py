"""Fit of `model.network.reliability`: familiarity, calibration, gate, verdict and speech check.

Only examples that a network was not trained on are used: the validation part, and the test parts of cross-fitting.
"""
# Shapes: N utterances or sources, d features of a slot, K projection directions, C classes.

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.baselines.systems import Network
from model.config import EMMR, ModelConfig
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.decision import argmax
from model.network.familiarity import FAMILIAR, Familiarity
from model.network.reliability import Reliability, calibrate_decision, run_network
from model.training.crossfit import BATCH, CrossFitPart, SubsetDecisions, decide_subsets
from model.training.datasets.base import Example, Source
from model.training.decision_table import items_of
from model.training.evaluate_split import NetworkPredictor
from model.training.metrics import paired_bootstrap
from model.training.unimodal_experts import corpus_weights
from model.training.verdict import STEPS, choose_threshold, fit_verdict, minimise, verdict_dataset, weighted_quantile
from model.types import DoubleArray, FloatArray, IntArray

TEMPERATURES: Final = tuple(np.geomspace(0.2, 2.0, 47).tolist())
SHRINKAGE: Final = 0.1  # of the covariance towards its diagonal
NEAR, FAR = 0.5, 0.99  # quantiles of the distances of unseen people
MIN_PREDICTED: Final = 50  # cases of a predicted class to fit a temperature for it
FLOORS: Final = tuple(k / 10 for k in range(11))
DEFAULT_FLOOR: Final = 0.5
MIN_UNFAMILIAR: Final = 100  # cases that a part needs to be used for a floor
MIN_CASES: Final = 200  # incomplete cases to fit the verdict
MIN_CALIBRATED: Final = 30
"""Validation utterances of a subset from which its temperature is fitted where some lack modalities."""
SPEECH_PENALTY: Final = 1e-3
SPEECH_STEPS: Final = 400
SPEECH_FALSE_ALARMS: Final = 0.005  # share of clips of unseen speakers with a probability below 0.5


def fit_reliability(
    parts: Sequence[CrossFitPart],
    device: torch.device,
    speech: tuple[FloatArray, FloatArray, FloatArray] | None = None,
    steps: int = STEPS,
) -> Reliability:
    """Fit everything for the network of the first part.

    Args:
        parts: the network with the validation part first, then the networks of cross-fitting folds, if any.
        device: of the networks.
        speech: normalised audio slots `(N, d)` of training speech, of unseen speech, and of other sounds.
        steps: of the verdict.
    """
    config = parts[0].network.config
    reliability = Reliability(config).eval()
    decided: list[SubsetDecisions] = []
    for part in parts:
        own = Reliability(config).eval()
        for modality in MODALITIES:
            fit_familiarity(own, modality, part)
        # The gate is decided on for the first network only, so the others need not compute both paths.
        if (decisions := decide_subsets(part, own, device, both_paths=not decided)) is not None:
            decided.append(decisions)
        if part is parts[0]:
            reliability.load_state_dict(own.state_dict())
    if decided:
        _fit_floors(reliability, decided)
        _fit_temperatures(reliability, decided)
    if decided and config.system == EMMR:  # the baselines have neither a gate nor a verdict
        reliability.gated.fill_(value=gate_is_accurate(reliability, decided[0]))
        cases = verdict_dataset(reliability, decided)
        if len(cases.inputs) >= MIN_CASES:
            fit_verdict(reliability.verdict, cases, steps)
            for missing in range(1, len(MODALITIES)):
                reliability.threshold[missing - 1] = choose_threshold(reliability.verdict, cases, missing)
    if speech is not None:
        _fit_speech(reliability, *speech)
    return reliability.requires_grad_(requires_grad=False)


def fit_available_temperatures(
    reliability: Reliability,
    network: Network,
    examples: Sequence[Example],
    features: Mapping[Source, FloatArray],
    device: torch.device,
) -> dict[ModalitySet, int]:
    """Fit the temperature of each subset to all examples that have its modalities, not only to complete ones.

    A subset with fewer than `MIN_CALIBRATED` of them gets the temperature 1: it is not calibrated.

    Args:
        reliability: of the network; its temperatures are replaced.
        network: in eval mode and on `device`.
        examples: of the validation part.
        features: normalised slots of the examples.
        device: of the network.

    Returns:
        The number of examples of each subset that has some.
    """
    items, counts = items_of(examples, features, network.config.classes), {}
    decide = NetworkPredictor(network, device, reliability).network_decide
    for subset in SUBSETS:
        held = [item for item in items if subset.present <= item.utterance.presence.present]
        reliability.temperatures[subset.number] = 1.0
        if held:
            counts[subset] = len(held)
        if len(held) < MIN_CALIBRATED:
            continue
        raw = [
            decision
            for start in range(0, len(held), BATCH)
            for decision in run_network(
                decide, reliability, [item.utterance.keep(subset) for item in held[start : start + BATCH]]
            )
        ]
        answers = torch.tensor([calibrate_decision(reliability, each).available for each in raw])
        labels, weights = torch.tensor([item.label for item in held]), torch.full((len(held),), 1 / len(held))
        reliability.temperatures[subset.number] = _best_temperature(answers.clamp(min=1e-9).log(), labels, weights)
    return counts


def fit_familiarity(reliability: Reliability, modality: Modality, part: CrossFitPart) -> None:
    """Fit class centres, directions of their common covariance, and the distances of unseen people.

    Nothing is fitted with too few sources, or if a class has none.
    """
    config = reliability.config
    x, classes, weights = _source_means(part.training, modality, part.features, config)
    y, _, unseen_weights = _source_means(part.unseen, modality, part.features, config)
    familiarity = reliability.familiarity[modality]
    assert isinstance(familiarity, Familiarity)
    if len(x) <= x.shape[1] or len(y) < 1 / (1 - FAR) or len(set(classes.tolist())) < len(config.classes):
        return
    mean = weights @ x
    centred = x - mean
    centres = np.stack(
        [np.average(centred[classes == k], axis=0, weights=weights[classes == k]) for k in range(len(config.classes))]
    )  # (C, d)
    within = centred - centres[classes]
    covariance = (within * weights[:, None]).T @ within
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance) + 1e-6)
    values, vectors = np.linalg.eigh(covariance)
    kept = familiarity.projection.shape[1]
    directions, residual = vectors[:, ::-1][:, :kept] / np.sqrt(values[::-1][:kept]), values[::-1][kept:]
    familiarity.mean.copy_(torch.from_numpy(mean))
    familiarity.projection.copy_(torch.from_numpy(directions))
    familiarity.centres.copy_(torch.from_numpy(centres @ directions))
    familiarity.residual.fill_(1 / float(residual.mean()) if len(residual) else 0.0)
    distances = familiarity.distances(torch.from_numpy(y).float()).numpy()
    near, far = (weighted_quantile(distances, unseen_weights, q) for q in (NEAR, FAR))
    familiarity.bounds.copy_(torch.tensor([near, max(far, near * 1.01 + 1e-6)]))


def _source_means(
    examples: Sequence[Example], modality: Modality, features: Mapping[Source, FloatArray], config: ModelConfig
) -> tuple[DoubleArray, IntArray, DoubleArray]:
    """Means over slots `(N, d)` of distinct sources, their classes, and weights that balance the corpora."""
    found: dict[Source, tuple[int, str]] = {}
    for example in examples:
        source = example.sources.get(modality)
        if source is not None and source in features:
            label = example.modality_labels.get(modality, example.label)
            found.setdefault(source, (config.classes.index(label), example.origins.get(modality, "")))
    size = config.feature_size(modality)
    x = np.array([features[source].mean(axis=0) for source in found], dtype=np.float64).reshape(-1, size)
    classes = np.array([k for k, _ in found.values()], dtype=np.int64)
    weights = corpus_weights([origin for _, origin in found.values()], classes) if found else np.zeros(0)
    return x, classes, weights


def _fit_temperatures(reliability: Reliability, parts: Sequence[SubsetDecisions]) -> None:
    """Minimise the log loss of each subset over all parts, then of each predicted class.

    A class that is rarely predicted gets no temperature of its own.
    """
    for subset in SUBSETS:
        reliability.temperatures[subset.number] = _best_temperature(*_log_answers(reliability, parts, subset))
    for subset in SUBSETS[1:]:
        logs, labels, weights = _log_answers(reliability, parts, subset)
        predicted = logs.argmax(dim=1)
        for k in range(logs.shape[1]):
            rows = predicted == k
            if int(rows.sum()) >= MIN_PREDICTED:
                reliability.doubts[subset.number, k] = _best_temperature(logs[rows], labels[rows], weights[rows])


def _fit_floors(reliability: Reliability, parts: Sequence[SubsetDecisions]) -> None:
    """Set the weight of unfamiliar content of each modality.

    Of the weights whose log loss, where the modality is alone and unfamiliar, is within one standard error of the
    minimum, the greatest. Parts have equal weight, as each holds out another corpus.
    """
    for column, modality in enumerate(MODALITIES):
        subset = ModalitySet.of(modality)
        unfamiliar = [
            torch.tensor([raw.familiarity[modality] < FAMILIAR for raw in part.raw[subset]]) for part in parts
        ]
        used = [(part, rows) for part, rows in zip(parts, unfamiliar, strict=True) if int(rows.sum()) >= MIN_UNFAMILIAR]
        if not used:
            reliability.floors[column] = DEFAULT_FLOOR
            continue
        means, errors = {}, {}
        for floor in FLOORS:
            reliability.floors[column] = floor
            losses = []
            for part, rows in used:
                logs, labels, _ = _log_answers(reliability, [part], subset)
                losses.append(F.nll_loss(logs[rows], labels[rows], reduction="none"))
            means[floor] = float(np.mean([float(loss.mean()) for loss in losses]))
            errors[floor] = math.sqrt(sum(float(loss.var()) / len(loss) for loss in losses)) / len(losses)
        best = min(means, key=means.__getitem__)
        reliability.floors[column] = max(f for f in FLOORS if means[f] <= means[best] + errors[best])


def _log_answers(
    reliability: Reliability, parts: Sequence[SubsetDecisions], subset: ModalitySet
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities `(N, C)` of the answers under a subset, labels `(N,)` and weights `(N,)`."""
    answers = [d.available for part in parts for d in part.calibrated(reliability, subset)]
    return (
        torch.tensor(answers).clamp(min=1e-9).log(),
        torch.tensor([label for part in parts for label in part.labels]),
        torch.tensor([part.weight / len(part.labels) for part in parts for _ in part.labels]),
    )


def _best_temperature(logs: Tensor, labels: Tensor, weights: Tensor) -> float:
    losses = {t: float((weights * F.cross_entropy(logs * t, labels, reduction="none")).sum()) for t in TEMPERATURES}
    return float(min(losses, key=losses.__getitem__))


def gate_is_accurate(reliability: Reliability, decisions: SubsetDecisions) -> bool:
    """Whether the paper's gate is not less accurate than the transformer path alone.

    It is less accurate if the paired confidence interval of the difference over incomplete subsets lies below 0.
    """
    gated, transformer = [], []
    for subset in SUBSETS[1:]:
        calibrated = decisions.calibrated(reliability, subset)
        transformer.append([argmax(d.available) for d in calibrated])
        gated.append([argmax(d.ensemble if d.rule and d.ensemble else d.available) for d in calibrated])
    truth = np.array(decisions.labels, dtype=np.int64)
    interval = paired_bootstrap(truth, np.array(gated), np.array(transformer), metric="accuracy", runs="pool")
    return bool(interval.high >= 0)


def _fit_speech(reliability: Reliability, speech: FloatArray, unseen: FloatArray, other: FloatArray) -> None:
    """Logistic regression on audio slots; its bias is reduced so that few unseen speakers are below 0.5."""
    x = torch.from_numpy(np.concatenate([speech, other]))
    y = torch.cat([torch.ones(len(speech)), torch.zeros(len(other))])
    weights = torch.cat(
        [torch.full((len(speech),), 0.5 / len(speech)), torch.full((len(other),), 0.5 / max(len(other), 1))]
    )
    layer = reliability.speech
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()

    def loss() -> Tensor:
        losses = F.binary_cross_entropy_with_logits(layer(x).squeeze(-1), y, reduction="none")
        total: Tensor = (weights * losses).sum() + SPEECH_PENALTY * layer.weight.square().sum()
        return total

    minimise(layer.parameters(), loss, SPEECH_STEPS)
    with torch.no_grad():
        quantile = float(np.quantile(layer(torch.from_numpy(unseen)).squeeze(-1).numpy(), SPEECH_FALSE_ALARMS))
        layer.bias.sub_(min(quantile, 0.0))
    reliability.speech_fitted.fill_(value=True)
