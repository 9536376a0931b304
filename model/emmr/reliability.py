"""How far an answer can be trusted: calibration, familiarity of each modality, and the key-missing verdict.

Fitted after the network, on people and corpora that it was not trained on (`model.training.reliability`). Distances are
class-conditional Mahalanobis distances as in Lee et al., NeurIPS 2018; temperatures as in Guo et al., ICML 2017.

Shapes: N utterances, d features of a slot, K directions kept, G centres, C classes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.emmr.decision import Decision, Distribution, argmax
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, Presence, Utterance

FloatArray = npt.NDArray[np.float32]

FAMILIAR: Final = 0.5
"""At this familiarity and above a modality counts in full; 1 % of unseen people's input lies below."""
DIRECTIONS: Final = 64  # K at most
HIDDEN: Final = 32
_BITS: Final = (1, 2, 4)  # of a subset's number, one a modality


class Familiarity(nn.Module):
    """How near one modality's input lies to what it was trained on, in [0, 1].

    The mean over slots is standardised and projected; its squared distance δ to the nearest centre gives
    `1 / (1 + ((δ - near) / (far - near))²)`, and 1 below `near`.

    Args:
        size: d.
        directions: K.
        centres: G.
    """

    def __init__(self, size: int, directions: int, centres: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.projection: Tensor
        self.centres: Tensor
        self.residual: Tensor
        self.bounds: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("projection", torch.zeros(size, directions))  # whitens
        self.register_buffer("centres", torch.zeros(centres, directions))
        self.register_buffer("residual", torch.zeros(()))  # 1 / variance of what the projection leaves out
        self.register_buffer("bounds", torch.tensor([math.inf, math.inf]))  # near, far; not fitted: all is familiar

    def distances(self, x: Tensor) -> Tensor:
        """Means over slots `(N, d)` → squared distances to the nearest centre, by dimension, `(N,)`."""
        centred = x - self.mean
        projected = centred @ self.projection  # (N, K)
        nearest = (projected[:, None] - self.centres).square().sum(dim=-1).amin(dim=1)
        # What lies outside the kept directions has no class: its own energy against that of training content.
        basis = self.projection / self.projection.norm(dim=0).clamp(min=1e-9)
        outside = (centred.square().sum(dim=1) - (centred @ basis).square().sum(dim=1)).clamp(min=0)
        distances: Tensor = (nearest + outside * self.residual) / x.shape[1]
        return distances

    def forward(self, x: Tensor) -> Tensor:
        """Means over slots `(N, d)` → `(N,)`."""
        near, far = self.bounds
        if not bool(torch.isfinite(near)):
            return x.new_ones(len(x))
        excess = ((self.distances(x) - near) / (far - near)).clamp(min=0)
        familiarity: Tensor = 1 / (1 + excess.square())
        return familiarity


class Verdict(nn.Module):
    """Probability that giving missing modalities would change the answer: a perceptron on what is known without them.

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
        self.fitted: Tensor
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """What `verdict_features` gives, `(N, verdict_size)` → `(N,)` in [0, 1]."""
        probability: Tensor = self.layers(x).squeeze(-1).sigmoid()
        return probability


class Reliability(nn.Module):
    """Everything fitted after the network. Unfitted, it changes nothing, and the verdict is 1 − max probability.

    Attributes:
        temperatures: `(8,)` factor on the answer's log-probabilities, by the number of the subset present.
        familiarity: by modality.
        verdict: see `Verdict`.
        threshold: score at and above which a key missing modality is reported.
        speech: linear map of a normalised voice slot `(d,)` to the log-odds that it is speech.
        speech_fitted: whether it was fitted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.temperatures: Tensor
        self.threshold: Tensor
        self.speech_fitted: Tensor
        self.register_buffer("temperatures", torch.ones(2 ** len(MODALITIES)))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("speech_fitted", torch.zeros((), dtype=torch.bool))
        self.familiarity = nn.ModuleDict(
            {
                m: Familiarity(config.feature_size(m), min(DIRECTIONS, config.feature_size(m)), len(config.classes))
                for m in MODALITIES
            }
        )
        self.verdict = Verdict(len(config.classes))
        self.speech = nn.Linear(config.feature_size(Modality.AUDIO), 1)

    def speech_probability(self, voice: FloatArray) -> float | None:
        """Probability that normalised voice slots `(T, d)` hold speech; None where that was not fitted."""
        if not bool(self.speech_fitted):
            return None
        with torch.inference_mode():
            return float(self.speech(torch.from_numpy(voice.mean(axis=0))).sigmoid())

    def familiarities(self, utterances: Sequence[Utterance]) -> list[dict[Modality, float]]:
        """Familiarity of each modality that is there, by utterance."""
        found: list[dict[Modality, float]] = [{} for _ in utterances]
        with torch.inference_mode():
            for modality in MODALITIES:
                rows = [i for i, u in enumerate(utterances) if modality in u.features]
                if rows:
                    means = np.stack([utterances[i].features[modality].mean(axis=0) for i in rows])
                    values = self.familiarity[modality](torch.from_numpy(means)).tolist()
                    for i, value in zip(rows, values, strict=True):
                        found[i][modality] = value
        return found

    def calibrate(self, probabilities: Distribution, presence: Presence) -> Distribution:
        """An answer's distribution at the temperature of what is present."""
        factor = float(self.temperatures[subset_number(presence)])
        powers = [max(p, 1e-12) ** factor for p in probabilities]
        total = sum(powers)
        return tuple(p / total for p in powers)


def subset_number(presence: Presence) -> int:
    """1 to 7: the bits of the modalities present, added up."""
    return sum(bit for bit, here in zip(_BITS, presence.mask(), strict=True) if here)


def familiar_part(utterance: Utterance, familiarity: Mapping[Modality, float]) -> Utterance | None:
    """The utterance without its unfamiliar modalities; None where all of it, or nothing, would be left."""
    kept = [m for m in utterance.presence if familiarity.get(m, 1.0) >= FAMILIAR]
    return utterance.keep(kept) if 0 < len(kept) < len(utterance.presence) else None


class Decide(Protocol):
    """The network's decisions on utterances, one for each, in order."""

    def __call__(self, utterances: Sequence[Utterance], *, explain: bool, both_paths: bool) -> Sequence[Decision]:
        """Decide on each."""


def decide_reliably(
    decide: Decide,
    reliability: Reliability,
    utterances: Sequence[Utterance],
    *,
    explain: bool = False,
    both_paths: bool = False,
    doubtful: Sequence[Collection[Modality]] | None = None,
    thresholds: Sequence[float | None] | None = None,
) -> list[Decision]:
    """Decide on utterances, calibrated, moderated by familiarity, with the verdict on what is missing.

    Args:
        decide: of the network.
        reliability: fitted for it.
        utterances: any mixture of subsets.
        explain: as `model.emmr.inference.decide` takes it.
        both_paths: the same.
        doubtful: of each utterance, modalities whose familiarity is 0 whatever their features say, because their
            content was found not to be what the weights know: a foreign language, no words, no speech.
        thresholds: as `judge` takes them.
    """
    familiarities = reliability.familiarities(utterances)
    for familiarity, modalities in zip(familiarities, doubtful or (), strict=False):
        familiarity.update(dict.fromkeys(modalities, 0.0))
    parts = {
        i: part
        for i, (utterance, familiarity) in enumerate(zip(utterances, familiarities, strict=True))
        if (part := familiar_part(utterance, familiarity)) is not None
    }
    decisions = decide([*utterances, *parts.values()], explain=explain, both_paths=both_paths)
    familiar = dict(zip(parts, decisions[len(utterances) :], strict=True))
    presences = [utterance.presence for utterance in utterances]
    return judge(reliability, decisions[: len(utterances)], presences, familiarities, familiar, thresholds)


def judge(
    reliability: Reliability,
    decisions: Sequence[Decision],
    presences: Sequence[Presence],
    familiarities: Sequence[Mapping[Modality, float]],
    familiar: Mapping[int, Decision],
    thresholds: Sequence[float | None] | None = None,
) -> list[Decision]:
    """Calibrate and moderate the network's decisions, and give the verdict on what is missing.

    An answer that rests on an unfamiliar modality is mixed, in proportion, with the answer from the familiar ones, or
    with equal probabilities where there are none.

    Args:
        reliability: of the same network.
        decisions: the network's.
        presences: what each had.
        familiarities: of each modality there, from `Reliability.familiarities` or set to 0 by the caller.
        familiar: position → the network's decision on `familiar_part`, where there is one.
        thresholds: for each, the score at which a key missing modality is reported; the fitted one where None.
    """
    moderated = [
        _moderate(reliability, decision, presence, familiarity, familiar.get(i))
        for i, (decision, presence, familiarity) in enumerate(zip(decisions, presences, familiarities, strict=True))
    ]
    rows, places = [], []
    for i, (decision, presence) in enumerate(zip(moderated, presences, strict=True)):
        for given in given_sets(presence):
            rows.append(verdict_features(decision, presence, given))
            places.append((i, given))
    scores: list[dict[Presence, float]] = [{} for _ in moderated]
    if rows:
        with torch.inference_mode():
            values = (
                reliability.verdict(torch.tensor(rows)).tolist()
                if bool(reliability.verdict.fitted)
                else [1.0 - max(moderated[i].available) for i, _ in places]
            )
        for (i, given), value in zip(places, values, strict=True):
            scores[i][given] = value
    fitted = float(reliability.threshold)
    chosen = thresholds or [None] * len(moderated)
    return [
        _conclude(decision, presence, score, fitted if threshold is None else threshold)
        for decision, presence, score, threshold in zip(moderated, presences, scores, chosen, strict=True)
    ]


def given_sets(presence: Presence) -> list[Presence]:
    """What might be given beside what is present: each missing modality, and both where two are missing."""
    missing = presence.missing
    alone = [Presence.of(m) for m in missing]
    return [*alone, Presence.of(*missing)] if len(missing) > 1 else alone


def verdict_size(classes: int) -> int:
    """How many numbers `verdict_features` gives."""
    return 4 * classes + 4 + len(MODALITIES) + len(SUBSETS) - 1 + len(MODALITIES)


def verdict_features(decision: Decision, presence: Presence, given: Presence) -> list[float]:
    """What is known of an incomplete utterance, as `Verdict` takes it.

    Args:
        decision: moderated; `available` is the answer from what is present.
        presence: what that is.
        given: what would be given.
    """
    answer = decision.available
    ordered = sorted(answer, reverse=True)
    entropy = -sum(p * math.log(max(p, 1e-12)) for p in answer)
    vote_available, vote_full = decision.vote_available or answer, decision.vote_full or answer
    return [
        *answer,
        *vote_available,
        *vote_full,
        *(math.log(max(p, 1e-4)) for p in answer),
        ordered[0],
        ordered[0] - ordered[1],
        entropy,
        *(decision.familiarity.get(m, 0.0) for m in MODALITIES),
        *(float(presence == subset) for subset in SUBSETS[1:]),
        float(argmax(vote_full) != argmax(vote_available)),
        *(float(m in given) for m in MODALITIES),
    ]


def _moderate(
    reliability: Reliability,
    decision: Decision,
    presence: Presence,
    familiarity: Mapping[Modality, float],
    familiar: Decision | None,
) -> Decision:
    least = min((familiarity.get(m, 1.0) for m in presence), default=1.0)
    weight = min(1.0, least / FAMILIAR)
    rest: Distribution = (1 / len(decision.probabilities),) * len(decision.probabilities)
    if familiar is not None:
        kept = Presence(frozenset(m for m in presence if familiarity.get(m, 1.0) >= FAMILIAR))
        rest = reliability.calibrate(familiar.transformer or familiar.probabilities, kept)

    def settled(distribution: Distribution) -> Distribution:
        calibrated = reliability.calibrate(distribution, presence)
        return tuple(weight * p + (1 - weight) * q for p, q in zip(calibrated, rest, strict=True))

    transformer = settled(decision.transformer or decision.probabilities)
    ensemble = None if decision.ensemble is None else settled(decision.ensemble)
    return replace(
        decision,
        probabilities=ensemble if decision.ensemble_used and ensemble is not None else transformer,
        available=transformer,
        vote_full=decision.full,
        vote_available=decision.available,
        rule=decision.key_modalities,
        familiarity=dict(familiarity),
        transformer=transformer,
        ensemble=ensemble,
    )


def _conclude(decision: Decision, presence: Presence, scores: Mapping[Presence, float], threshold: float) -> Decision:
    """Whether a key modality is missing, and which; votes that agree unless one is."""
    by_modality = {m: scores[Presence.of(m)] for m in presence.missing}
    score = scores[Presence.of(*presence.missing)] if presence.missing else 0.0
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


assert SUBSETS[0] == COMPLETE, "the complete subset needs no flag among the verdict's features"
