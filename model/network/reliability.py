"""How far an answer can be trusted: calibration, familiarity of each modality, and the key-missing verdict.

Fitted after the network, on people and corpora that it was not trained on (`model.training.reliability`). Distances are
class-conditional Mahalanobis distances as in Lee et al., NeurIPS 2018; temperatures as in Guo et al., ICML 2017.

Shapes: N utterances, d features of a slot, K directions kept, G centres, C classes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.decision import Decision, Distribution, argmax
from model.network.reconstruction import BRANCHES
from model.types import FloatArray

FAMILIAR: Final = 0.5
"""At this familiarity and above a modality counts in full; 1 % of unseen people's input lies below."""
DIRECTIONS: Final = 64  # K at most
HIDDEN: Final = 32
PLAIN_SIZE: Final = 1 + len(SUBSETS) - 1 + len(MODALITIES)
"""The verdict's first inputs: log-odds of the answer's doubt, what is present, what is given."""
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
    """Probability that giving missing modalities would change the answer.

    The mean of a logistic regression on the answer's doubt, which carries over to other material, and of a perceptron
    on all that is known, which is better on material like that it was fitted to; scaled once more (Platt 1999).

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
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor([1.0, 0.0]))  # of the mean's log-odds: slope, intercept
        self.fitted: Tensor
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """What `verdict_features` gives, `(N, verdict_size)` → `(N,)` in [0, 1]."""
        slope, intercept = self.scale
        probability: Tensor = (self.log_odds(x) * slope + intercept).sigmoid()
        return probability

    def log_odds(self, x: Tensor) -> Tensor:
        """The same before `scale`, `(N,)` log-odds."""
        mean: Tensor = (self.layers(x).sigmoid() + self.plain(x[:, :PLAIN_SIZE]).sigmoid()) / 2
        return mean.squeeze(-1).logit(eps=1e-6)


class Reliability(nn.Module):
    """Everything fitted after the network. Unfitted, it changes nothing, and the verdict is 1 − max probability.

    Attributes:
        temperatures: `(8,)` factor on the answer's log-probabilities, by the number of the subset present.
        doubts: `(8, C)` the same by the class that is named as well, for the verdict alone: an answer that is seldom
            right is likely to change.
        floors: `(3,)` the least weight of an unfamiliar modality, by modality.
        familiarity: by modality.
        verdict: see `Verdict`.
        threshold: `(2,)` score at and above which a key missing modality is reported, of one and of two missing.
        gated: whether the answer follows the paper's gate (Eq. 13); else the transformer path always answers.
        speech: linear map of a normalised voice slot `(d,)` to the log-odds that it is speech.
        speech_fitted: whether it was fitted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.temperatures: Tensor
        self.threshold: Tensor
        self.speech_fitted: Tensor
        self.doubts: Tensor
        self.floors: Tensor
        self.register_buffer("temperatures", torch.ones(2 ** len(MODALITIES)))
        self.register_buffer("doubts", torch.ones(2 ** len(MODALITIES), len(config.classes)))
        self.register_buffer("floors", torch.zeros(len(MODALITIES)))
        self.gated: Tensor
        self.register_buffer("threshold", torch.full((len(MODALITIES) - 1,), 0.5))
        self.register_buffer("gated", torch.ones((), dtype=torch.bool))
        self.register_buffer("speech_fitted", torch.zeros((), dtype=torch.bool))
        self.familiarity = nn.ModuleDict(
            {
                m: Familiarity(config.feature_size(m), min(DIRECTIONS, config.feature_size(m)), len(config.classes))
                for m in MODALITIES
            }
        )
        # What is not fitted is the same every time: equal checkpoints have equal hashes.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
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

    def calibrate(self, probabilities: Distribution, presence: ModalitySet) -> Distribution:
        """An answer's distribution at the temperature of what is present."""
        return _tempered(probabilities, float(self.temperatures[subset_number(presence)]))

    def doubt(self, answer: Distribution, presence: ModalitySet) -> float:
        """How likely an answer is wrong, by what is present and by the class it names, in [0, 1]."""
        return 1.0 - max(_tempered(answer, float(self.doubts[subset_number(presence), argmax(answer)])))

    def weight(self, familiarity: Mapping[Modality, float]) -> float:
        """How much an answer from modalities of this familiarity counts, in [0, 1]; 0 where one is doubtful."""
        least = min(familiarity, key=lambda m: familiarity[m], default=None)
        if least is None or familiarity[least] <= 0:
            return 1.0 if least is None else 0.0
        floor = float(self.floors[MODALITIES.index(least)])
        return floor + (1 - floor) * min(1.0, familiarity[least] / FAMILIAR)


def _tempered(distribution: Distribution, factor: float) -> Distribution:
    powers = [max(p, 1e-12) ** factor for p in distribution]
    total = sum(powers)
    return tuple(p / total for p in powers)


def subset_number(presence: ModalitySet) -> int:
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
        explain: as `model.network.inference.sparse.decide` takes it.
        both_paths: the same.
        doubtful: of each utterance, modalities whose familiarity is 0 whatever their features say, because their
            content was found not to be what the weights know: a foreign language, no words, no speech.
        thresholds: as `judge` takes them.
    """
    seen = observe(decide, reliability, utterances, explain=explain, both_paths=both_paths, doubtful=doubtful)
    return judge(reliability, seen, thresholds)


@dataclass(frozen=True, slots=True)
class Observed:
    """What `judge` needs of some utterances.

    Args:
        decisions: the network's.
        presences: what each had.
        familiarities: of each modality that is there; 0 of doubtful ones.
        familiar: position → the network's decision on `familiar_part`, where there is one.
    """

    decisions: Sequence[Decision]
    presences: Sequence[ModalitySet]
    familiarities: Sequence[Mapping[Modality, float]]
    familiar: Mapping[int, Decision]


def observe(
    decide: Decide,
    reliability: Reliability,
    utterances: Sequence[Utterance],
    *,
    explain: bool = False,
    both_paths: bool = False,
    doubtful: Sequence[Collection[Modality]] | None = None,
) -> Observed:
    """Run the network on utterances and, beside them, on the familiar part of each; see `decide_reliably`."""
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
    return Observed(decisions[: len(utterances)], [u.presence for u in utterances], familiarities, familiar)


def judge(reliability: Reliability, seen: Observed, thresholds: Sequence[float | None] | None = None) -> list[Decision]:
    """Calibrate and moderate the network's decisions, and give the verdict on what is missing.

    An answer that rests on an unfamiliar modality is mixed, in proportion, with the answer from the familiar ones, or
    with equal probabilities where there are none.

    Args:
        reliability: of the same network.
        seen: what `observe` found.
        thresholds: for each, the score at which a key missing modality is reported; the fitted one where None.
    """
    presences = seen.presences
    moderated = [
        moderate(reliability, decision, presence, familiarity, seen.familiar.get(i))
        for i, (decision, presence, familiarity) in enumerate(
            zip(seen.decisions, presences, seen.familiarities, strict=True)
        )
    ]
    rows, places = [], []
    for i, (decision, presence) in enumerate(zip(moderated, presences, strict=True)):
        for given in given_sets(presence):
            rows.append(verdict_features(decision, presence, given, reliability.doubt(decision.available, presence)))
            places.append((i, given))
    scores: list[dict[ModalitySet, float]] = [{} for _ in moderated]
    if rows:
        with torch.inference_mode():
            values = (
                reliability.verdict(torch.tensor(rows)).tolist()
                if bool(reliability.verdict.fitted)
                else [1.0 - max(moderated[i].available) for i, _ in places]
            )
        for (i, given), value in zip(places, values, strict=True):
            scores[i][given] = value
    fitted = reliability.threshold.tolist()
    chosen = thresholds or [None] * len(moderated)
    return [
        _conclude(
            decision, presence, score, fitted[max(len(presence.missing), 1) - 1] if threshold is None else threshold
        )
        for decision, presence, score, threshold in zip(moderated, presences, scores, chosen, strict=True)
    ]


def given_sets(presence: ModalitySet) -> list[ModalitySet]:
    """What might be given beside what is present: each missing modality, and both where two are missing."""
    missing = presence.missing
    alone = [ModalitySet.of(m) for m in missing]
    return [*alone, ModalitySet.of(*missing)] if len(missing) > 1 else alone


def verdict_size(classes: int) -> int:
    """How many numbers `verdict_features` gives."""
    return PLAIN_SIZE + 6 * classes + 5 + len(MODALITIES)


def verdict_features(decision: Decision, presence: ModalitySet, given: ModalitySet, doubt: float) -> list[float]:
    """What is known of an incomplete utterance, as `Verdict` takes it.

    Args:
        decision: moderated; `available` is the answer from what is present.
        presence: what that is.
        given: what would be given.
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
        *(float(m in given) for m in MODALITIES),
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


def moderate(
    reliability: Reliability,
    decision: Decision,
    presence: ModalitySet,
    familiarity: Mapping[Modality, float],
    familiar: Decision | None,
) -> Decision:
    """Calibrate one decision, and mix in what the familiar part of the utterance says; no verdict yet."""
    weight = reliability.weight(familiarity)
    rest: Distribution = (1 / len(decision.probabilities),) * len(decision.probabilities)
    if familiar is not None:
        kept = ModalitySet(frozenset(m for m in presence if familiarity.get(m, 1.0) >= FAMILIAR))
        rest = reliability.calibrate(familiar.transformer or familiar.probabilities, kept)

    def settled(distribution: Distribution) -> Distribution:
        calibrated = reliability.calibrate(distribution, presence)
        return tuple(weight * p + (1 - weight) * q for p, q in zip(calibrated, rest, strict=True))

    transformer = settled(decision.transformer or decision.probabilities)
    ensemble = None if decision.ensemble is None else settled(decision.ensemble)
    gated = decision.ensemble_used and bool(reliability.gated)
    return replace(
        decision,
        probabilities=transformer if ensemble is None or not gated else ensemble,
        ensemble_used=gated,
        branch_weights=decision.branch_weights if gated else {b: float(b == BRANCHES[0]) for b in BRANCHES},
        available=transformer,
        vote_full=decision.full,
        vote_available=decision.available,
        rule=decision.key_modalities,
        familiarity=dict(familiarity),
        transformer=transformer,
        ensemble=ensemble,
    )


def _conclude(
    decision: Decision, presence: ModalitySet, scores: Mapping[ModalitySet, float], threshold: float
) -> Decision:
    """Whether a key modality is missing, and which; votes that agree unless one is."""
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


assert SUBSETS[0] == COMPLETE, "the complete subset needs no flag among the verdict's features"
