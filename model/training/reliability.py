"""Fit calibration, familiarity, the key-missing verdict and the speech check (`model.emmr.reliability`).

All of it is fitted on people, sentences and corpora that the answering network was not trained on: the validation part,
and the test parts of cross-fitting folds (`model.training.crossfit`), each answered by its own network.

Shapes: N utterances, d features of a slot, K directions, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from model.config import ModelConfig
from model.emmr.decision import Decision, argmax
from model.emmr.network import EMMR
from model.emmr.reliability import (
    Familiarity,
    Reliability,
    Verdict,
    given_sets,
    subset_number,
    verdict_features,
)
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, Presence, Utterance
from model.training.corpora.base import Example, Source
from model.training.experts import corpus_weights
from model.training.measure import NetworkPredictor

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TEMPERATURES: Final = tuple(np.geomspace(0.2, 2.0, 47).tolist())
SHRINKAGE: Final = 0.1  # of the covariance towards its diagonal
NEAR, FAR = 0.5, 0.99  # quantiles of unseen people's distances
BATCH: Final = 256
VERDICT_STEPS: Final = 3000
VERDICT_BATCH: Final = 512
VERDICT_RATE: Final = 3e-3
VERDICT_DECAY: Final = 1e-2
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
        found, labels = [], []
        for example in self.complete:
            if all(m in example.sources and example.sources[m] in self.features for m in MODALITIES):
                found.append(Utterance({m: self.features[example.sources[m]] for m in MODALITIES}))
                labels.append(self.network.config.classes.index(example.label))
        return found, labels


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
    fitted = [Reliability(config).eval() for _ in witnesses]
    for witness, reliability in zip(witnesses, fitted, strict=True):
        for modality in MODALITIES:
            fit_familiarity(reliability, modality, witness)
    shown = [witness.utterances() for witness in witnesses]
    _fit_temperatures(witnesses, fitted, shown, device)
    _fit_verdict(witnesses, fitted, shown, device, steps)
    if speech is not None:
        _fit_speech(fitted[0], *speech)
    return fitted[0].requires_grad_(requires_grad=False)


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
) -> tuple[npt.NDArray[np.float64], IntArray, npt.NDArray[np.float64]]:
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


def _weighted_quantile(values: npt.NDArray[np.floating], weights: npt.NDArray[np.float64], quantile: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, quantile)), len(values) - 1)])


def _decide(
    network: EMMR, reliability: Reliability, utterances: Sequence[Utterance], device: torch.device
) -> list[Decision]:
    predictor = NetworkPredictor(network, device, reliability)
    decisions: list[Decision] = []
    for start in range(0, len(utterances), BATCH):
        decisions += predictor.decide(utterances[start : start + BATCH])
    return decisions


def _fit_temperatures(
    witnesses: Sequence[Witness],
    fitted: Sequence[Reliability],
    shown: Sequence[tuple[Sequence[Utterance], Sequence[int]]],
    device: torch.device,
) -> None:
    """Of each subset, the factor on log-probabilities with the least log loss over all witnesses."""
    for subset in SUBSETS:
        parts = []
        for witness, reliability, (utterances, labels) in zip(witnesses, fitted, shown, strict=True):
            if not utterances:
                continue
            decided = _decide(witness.network, reliability, [u.keep(subset) for u in utterances], device)
            logs = torch.tensor([d.available for d in decided]).clamp(min=1e-9).log()  # (N, C)
            parts.append((logs, torch.tensor(labels), witness.weight))
        if not parts:
            continue

        def loss(factor: float, parts: list[tuple[torch.Tensor, torch.Tensor, float]] = parts) -> float:
            losses = [weight * float(F.cross_entropy(logs * factor, labels)) for logs, labels, weight in parts]
            return sum(losses) / sum(weight for _, _, weight in parts)

        best = min(TEMPERATURES, key=loss)
        for reliability in fitted:
            reliability.temperatures[subset_number(subset)] = best


@dataclass(frozen=True, slots=True)
class VerdictRows:
    """Cases of something missing that might be given.

    Args:
        inputs: `(N, verdict_size)`.
        changed: `(N,)`, whether giving it changed the answer.
        whole: `(N,)` bool, whether all that was missing is given.
        better: `(N,)`, whether the complete answer differs and is right.
        weights: `(N,)`.
    """

    inputs: FloatArray
    changed: FloatArray
    whole: npt.NDArray[np.bool_]
    better: FloatArray
    weights: FloatArray


def verdict_rows(
    witness: Witness,
    reliability: Reliability,
    utterances: Sequence[Utterance],
    labels: Sequence[int],
    device: torch.device,
) -> VerdictRows:
    """Every incomplete subset of every utterance, with each set of missing modalities that might be given."""
    decided: dict[Presence, list[Decision]] = {
        subset: _decide(witness.network, reliability, [u.keep(subset) for u in utterances], device)
        for subset in SUBSETS
    }
    answers = {subset: [argmax(d.available) for d in decisions] for subset, decisions in decided.items()}
    inputs, changed, whole, better = [], [], [], []
    for subset in SUBSETS[1:]:
        for given in given_sets(subset):
            union = Presence(subset.present | given.present)
            for i, decision in enumerate(decided[subset]):
                inputs.append(verdict_features(decision, subset, given))
                differs = answers[union][i] != answers[subset][i]
                changed.append(differs)
                whole.append(union == COMPLETE)
                better.append(differs and answers[union][i] == labels[i])
    weights = np.full(len(inputs), witness.weight / max(len(inputs), 1), dtype=np.float32)
    return VerdictRows(
        np.array(inputs, dtype=np.float32),
        np.array(changed, dtype=np.float32),
        np.array(whole, dtype=np.bool_),
        np.array(better, dtype=np.float32),
        weights,
    )


def _fit_verdict(
    witnesses: Sequence[Witness],
    fitted: Sequence[Reliability],
    shown: Sequence[tuple[Sequence[Utterance], Sequence[int]]],
    device: torch.device,
    steps: int,
) -> None:
    parts = [
        verdict_rows(witness, reliability, utterances, labels, device)
        for witness, reliability, (utterances, labels) in zip(witnesses, fitted, shown, strict=True)
        if utterances
    ]
    if sum(len(part.inputs) for part in parts) < MIN_ROWS:
        return
    rows = VerdictRows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in VerdictRows.__dataclass_fields__)
    )
    verdict = Verdict(len(fitted[0].config.classes))
    fit_verdict(verdict, rows, steps)
    reliability = fitted[0]
    reliability.verdict.load_state_dict(verdict.state_dict())
    reliability.threshold.fill_(choose_threshold(verdict, rows))


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
            logits = verdict.layers(standardised[chosen]).squeeze(-1)
            loss = F.binary_cross_entropy_with_logits(logits, y[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    first = verdict.layers[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        first.weight.div_(scale)
        first.bias.sub_(first.weight @ mean)
    verdict.fitted.fill_(value=True)
    verdict.eval().requires_grad_(requires_grad=False)


def len_classes(verdict: Verdict) -> int:
    """C of a verdict's first layer."""
    first = verdict.layers[0]
    assert isinstance(first, torch.nn.Linear)
    return (first.in_features - 4 - 2 * len(MODALITIES) - len(SUBSETS) + 1) // 4


def choose_threshold(verdict: Verdict, rows: VerdictRows) -> float:
    """The score that reports as many as there are.

    "As many" is the geometric mean of the share whose answer would change and of the share whose answer would change to
    the right one: the first is what the score says, the second what is worth asking for.
    """
    whole = rows.whole
    with torch.inference_mode():
        scores = verdict(torch.from_numpy(rows.inputs[whole])).numpy()
    weights = rows.weights[whole].astype(np.float64)
    shares = [float(np.average(values[whole], weights=weights)) for values in (rows.changed, rows.better)]
    wanted = float(np.sqrt(shares[0] * shares[1]))
    return _weighted_quantile(scores, weights, 1 - wanted)


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
