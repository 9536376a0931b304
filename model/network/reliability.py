"""Calibration of decisions and the verdict on missing modalities; fitted by `model.training.reliability`.

Shapes: N utterances, T slots, d features of a slot, C classes.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from model.config import TRANSFORMER, ModelConfig
from model.modality import MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, Distribution, argmax
from model.network.familiarity import FAMILIAR, Familiarity, familiar_part
from model.types import FloatArray

DIRECTIONS: Final = 64  # maximum, of a `Familiarity`
HIDDEN: Final = 32  # units of the verdict's layers
PLAIN_SIZE: Final = 1 + len(SUBSETS[1:]) + len(MODALITIES)
"""Leading inputs of the verdict: log-odds of the doubt, the incomplete subset present, the modalities provided."""

NetworkDecide = Callable[[Sequence[Utterance]], Sequence[Decision]]


class Verdict(nn.Module):
    """Probability that providing missing modalities would change the answer.

    The mean of a logistic regression on the answer's doubt, which generalises to other corpora, and of a perceptron on
    all inputs, which is more accurate on corpora like those it was fitted to; with Platt scaling (Platt 1999).

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(verdict_size(classes), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1),
        )
        self.plain = nn.Linear(PLAIN_SIZE, 1)
        self.scale = nn.Buffer(torch.tensor([1.0, 0.0]))  # slope and intercept of the mean's log-odds
        self.fitted = nn.Buffer(torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of `verdict_features`, `(N, verdict_size)` → `(N,)` in [0, 1]."""
        slope, intercept = self.scale
        probability: Tensor = (self.log_odds(x) * slope + intercept).sigmoid()
        return probability

    def log_odds(self, x: Tensor) -> Tensor:
        """Log-odds `(N,)` before Platt scaling."""
        mean: Tensor = (self.layers(x).sigmoid() + self.plain(x[:, :PLAIN_SIZE]).sigmoid()) / 2
        return mean.squeeze(-1).logit(eps=1e-6)  # (N, 1) → (N,)


class Reliability(nn.Module):
    """Everything fitted after the network. Unfitted, it changes no answer, and the verdict is 1 − max probability.

    Attributes:
        temperatures: `(8,)` factor on the answer's log-probabilities (Guo et al., ICML 2017), by `ModalitySet.number`.
        doubts: `(8, C)` the same by predicted class as well, for the verdict only: an answer that is often wrong is
            likely to change.
        floors: `(3,)` minimum weight of an unfamiliar modality.
        familiarity: by modality.
        verdict: see `Verdict`.
        threshold: `(2,)` score from which a key missing modality is reported, if one or two are missing.
        gated: whether the answer follows the paper's gate (Eq. 13), instead of always taking the transformer path.
        speech: linear map of a normalised audio slot `(d,)` to the log-odds of speech.
        speech_fitted: whether `speech` was fitted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.temperatures = nn.Buffer(torch.ones(2 ** len(MODALITIES)))
        self.doubts = nn.Buffer(torch.ones(2 ** len(MODALITIES), len(config.classes)))
        self.floors = nn.Buffer(torch.zeros(len(MODALITIES)))
        self.threshold = nn.Buffer(torch.full((len(MODALITIES) - 1,), 0.5))
        self.gated = nn.Buffer(torch.ones((), dtype=torch.bool))
        self.speech_fitted = nn.Buffer(torch.zeros((), dtype=torch.bool))
        self.familiarity = nn.ModuleDict(
            {
                m: Familiarity(config.feature_size(m), min(DIRECTIONS, config.feature_size(m)), len(config.classes))
                for m in MODALITIES
            }
        )
        # Unfitted parameters are reproducible, so that equal checkpoints have equal hashes.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.verdict = Verdict(len(config.classes))
            self.speech = nn.Linear(config.feature_size(Modality.AUDIO), 1)

    def speech_probability(self, voice: FloatArray) -> float | None:
        """Probability that normalised audio slots `(T, d)` contain speech; None if `speech` was not fitted."""
        if not bool(self.speech_fitted):
            return None
        with torch.inference_mode():
            return float(self.speech(torch.from_numpy(voice.mean(axis=0))).sigmoid())

    def familiarities(self, utterances: Sequence[Utterance]) -> list[dict[Modality, float]]:
        """Familiarity of each present modality, by utterance."""
        found: list[dict[Modality, float]] = [{} for _ in utterances]
        with torch.inference_mode():
            for modality in MODALITIES:
                rows = [i for i, u in enumerate(utterances) if modality in u.features]
                if rows:
                    means = np.stack([utterances[i].features[modality].mean(axis=0) for i in rows])  # (N, d)
                    values = self.familiarity[modality](torch.from_numpy(means)).tolist()
                    for i, value in zip(rows, values, strict=True):
                        found[i][modality] = value
        return found

    def calibrate(self, probabilities: Distribution, presence: ModalitySet) -> Distribution:
        """Apply the temperature of the present modalities to an answer."""
        return _scale(probabilities, float(self.temperatures[presence.number]))

    def doubt(self, answer: Distribution, presence: ModalitySet) -> float:
        """Estimated probability that an answer is wrong, by present modalities and predicted class, in [0, 1]."""
        return 1.0 - max(_scale(answer, float(self.doubts[presence.number, argmax(answer)])))

    def weight(self, familiarity: Mapping[Modality, float]) -> float:
        """Weight in [0, 1] of an answer from modalities of this familiarity; 0 if one has familiarity 0."""
        least = min(familiarity, key=lambda m: familiarity[m], default=None)
        if least is None or familiarity[least] <= 0:
            return 1.0 if least is None else 0.0
        floor = float(self.floors[MODALITIES.index(least)])
        return floor + (1 - floor) * min(1.0, familiarity[least] / FAMILIAR)


def _scale(distribution: Distribution, factor: float) -> Distribution:
    """Multiply log-probabilities by a factor and normalise."""
    powers = [max(p, 1e-12) ** factor for p in distribution]
    total = sum(powers)
    return tuple(p / total for p in powers)


def decide_with_reliability(
    decide: NetworkDecide,
    reliability: Reliability,
    utterances: Sequence[Utterance],
    doubtful: Sequence[Collection[Modality]] = (),
    thresholds: Sequence[float | None] | None = None,
) -> list[Decision]:
    """Decide on utterances: calibrated, weighted by familiarity, with the verdict on missing modalities.

    Args:
        decide: gives the network's decisions, in order.
        reliability: fitted for the network.
        utterances: of any mixture of subsets.
        doubtful: as for `run_network`.
        thresholds: as for `finalize`.
    """
    return finalize(reliability, run_network(decide, reliability, utterances, doubtful), thresholds)


@dataclass(frozen=True, slots=True)
class RawDecision:
    """The network's decision on an utterance, with what `finalize` needs.

    Args:
        decision: the network's.
        presence: the modalities of the utterance.
        familiarity: of each of them; 0 for doubtful ones.
        familiar: the network's decision on `familiar_part`, if there is one.
    """

    decision: Decision
    presence: ModalitySet
    familiarity: Mapping[Modality, float]
    familiar: Decision | None = None


def run_network(
    decide: NetworkDecide,
    reliability: Reliability,
    utterances: Sequence[Utterance],
    doubtful: Sequence[Collection[Modality]] = (),
) -> list[RawDecision]:
    """Run the network on utterances and, in the same batch, on the familiar part of each.

    Args:
        decide: gives the network's decisions, in order.
        reliability: fitted for the network.
        utterances: of any mixture of subsets.
        doubtful: for each utterance, modalities of familiarity 0 whatever their features are, because their content was
            found to be of another kind than the training content: another language, no words, no speech.
    """
    familiarities = reliability.familiarities(utterances)
    for familiarity, modalities in zip(familiarities, doubtful, strict=False):
        familiarity.update(dict.fromkeys(modalities, 0.0))
    parts = [familiar_part(u, familiarity) for u, familiarity in zip(utterances, familiarities, strict=True)]
    found = iter(decide([*utterances, *(part for part in parts if part is not None)]))
    decisions = [next(found) for _ in utterances]
    return [
        RawDecision(decision, utterance.presence, familiarity, None if part is None else next(found))
        for decision, utterance, familiarity, part in zip(decisions, utterances, familiarities, parts, strict=True)
    ]


def finalize(
    reliability: Reliability, raw: Sequence[RawDecision], thresholds: Sequence[float | None] | None = None
) -> list[Decision]:
    """Calibrate the network's decisions and add the verdict on missing modalities.

    Args:
        reliability: of the same network.
        raw: of `run_network`.
        thresholds: for each, the score from which a key missing modality is reported; None for the fitted one.
    """
    calibrated = [calibrate_decision(reliability, each) for each in raw]
    judged = [(i, each.presence) for i, each in enumerate(raw) if each.decision.key_score is not None]
    cases = [(i, provided) for i, presence in judged for provided in provided_sets(presence)]
    scores: list[dict[ModalitySet, float]] = [{} for _ in raw]
    for (i, provided), score in zip(cases, _verdicts(reliability, raw, calibrated, cases), strict=True):
        scores[i][provided] = score
    fitted = reliability.threshold.tolist()
    return [
        _report_key_modalities(
            decision, each.presence, own, fitted[max(len(each.presence.missing), 1) - 1] if chosen is None else chosen
        )
        for decision, each, own, chosen in zip(calibrated, raw, scores, thresholds or [None] * len(raw), strict=True)
    ]


def calibrate_decision(reliability: Reliability, raw: RawDecision) -> Decision:
    """Calibrate one decision and weight it by familiarity; without a verdict.

    An answer from an unfamiliar modality is mixed, in proportion, with the answer from the familiar ones, or with equal
    probabilities if there are none.
    """
    decision, presence, familiarity = raw.decision, raw.presence, raw.familiarity
    weight = reliability.weight(familiarity)
    rest: Distribution = (1 / len(decision.probabilities),) * len(decision.probabilities)
    if raw.familiar is not None:
        kept = ModalitySet(frozenset(m for m in presence if familiarity.get(m, 1.0) >= FAMILIAR))
        rest = reliability.calibrate(raw.familiar.transformer or raw.familiar.probabilities, kept)

    def mix(distribution: Distribution) -> Distribution:
        calibrated = reliability.calibrate(distribution, presence)
        return tuple(weight * p + (1 - weight) * q for p, q in zip(calibrated, rest, strict=True))

    transformer = mix(decision.transformer or decision.probabilities)
    ensemble = None if decision.ensemble is None else mix(decision.ensemble)
    gated = decision.ensemble_used and bool(reliability.gated)
    return replace(
        decision,
        probabilities=transformer if ensemble is None or not gated else ensemble,
        ensemble_used=gated,
        branch_weights={b: p if gated else float(b == TRANSFORMER) for b, p in decision.branch_weights.items()},
        available=transformer,
        vote_full=decision.full,
        vote_available=decision.available,
        rule=decision.key_modalities,
        familiarity=dict(familiarity),
        transformer=transformer,
        ensemble=ensemble,
    )


def _verdicts(
    reliability: Reliability,
    raw: Sequence[RawDecision],
    calibrated: Sequence[Decision],
    cases: Sequence[tuple[int, ModalitySet]],
) -> list[float]:
    """The verdict on each case: index of an utterance, and missing modalities that would be provided."""
    if not cases or not bool(reliability.verdict.fitted):
        return [1.0 - max(calibrated[i].available) for i, _ in cases]
    inputs = []
    for i, provided in cases:
        doubt = reliability.doubt(calibrated[i].available, raw[i].presence)
        inputs.append(verdict_features(calibrated[i], raw[i].presence, provided, doubt))
    with torch.inference_mode():
        return [float(score) for score in reliability.verdict(torch.tensor(inputs)).tolist()]


def provided_sets(presence: ModalitySet) -> list[ModalitySet]:
    """Sets of missing modalities that might be provided: each alone, and both if two are missing."""
    missing = presence.missing
    alone = [ModalitySet.of(m) for m in missing]
    return [*alone, ModalitySet.of(*missing)] if len(missing) > 1 else alone


def verdict_size(classes: int) -> int:
    """Length of `verdict_features`."""
    return PLAIN_SIZE + 6 * classes + 5 + len(MODALITIES)


def verdict_features(decision: Decision, presence: ModalitySet, provided: ModalitySet, doubt: float) -> list[float]:
    """The input of `Verdict` for an incomplete utterance.

    Args:
        decision: of `calibrate_decision`; `available` is the answer from the present modalities.
        presence: the present modalities.
        provided: the missing modalities that would be provided.
        doubt: of the answer.
    """
    answer = decision.available
    ordered = sorted(answer, reverse=True)
    entropy = -sum(p * math.log(max(p, 1e-12)) for p in answer)
    vote_available, vote_full = decision.vote_available or answer, decision.vote_full or answer
    doubt = min(max(doubt, 1e-4), 1 - 1e-4)
    return [
        math.log(doubt / (1 - doubt)),
        *(float(presence == subset) for subset in SUBSETS[1:]),
        *(float(m in provided) for m in MODALITIES),
        *answer,
        *vote_available,
        *vote_full,
        *(math.log(max(p, 1e-4)) for vote in (answer, vote_available, vote_full) for p in vote),
        1 - sum(p * q for p, q in zip(vote_available, vote_full, strict=True)),
        ordered[0],
        ordered[0] - ordered[1],
        entropy,
        *(decision.familiarity.get(m, 0.0) for m in MODALITIES),
        float(argmax(vote_full) != argmax(vote_available)),
    ]


def _report_key_modalities(
    decision: Decision, presence: ModalitySet, scores: Mapping[ModalitySet, float], threshold: float
) -> Decision:
    """Compare the score with the threshold; without a key missing modality, both votes equal the answer."""
    if decision.key_score is None:
        return replace(decision, full=decision.probabilities, available=decision.probabilities, threshold=None)
    by_modality = {m: scores[ModalitySet.of(m)] for m in presence.missing}
    score = scores[ModalitySet.of(*presence.missing)] if presence.missing else 0.0
    answer = decision.probabilities
    detected = bool(by_modality) and score >= threshold
    ordered = sorted(by_modality, key=lambda m: -by_modality[m])
    key = [m for i, m in enumerate(ordered) if i == 0 or by_modality[m] >= threshold] if detected else []
    return replace(
        decision,
        full=answer,
        available=decision.available if detected else answer,
        key_modalities=tuple(key),
        key_score=score,
        key_by_modality=by_modality,
        threshold=threshold,
    )
