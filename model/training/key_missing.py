"""The key-missing verdict and the gate, measured on complete items with one or two modalities removed."""

# Shapes: N complete items, P incomplete subsets in the order of `INCOMPLETE`, C classes.

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

import numpy as np

from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet
from model.network.decision import Decision
from model.training.decision_table import DecisionTable
from model.training.metrics import (
    RESAMPLES,
    Metric,
    auroc,
    average_precision,
    calibration,
    class_scores,
    detection,
    paired_bootstrap,
    precision_recall_points,
    ranking_bootstrap,
)
from model.types import BoolArray, DoubleArray, IntArray

INCOMPLETE: Final = SUBSETS[1:]
# Masks that broadcast to `(P, N)`.
_ALL: Final = np.array(True)
_ONE_MISSING: Final = np.array([[len(subset.missing) == 1] for subset in INCOMPLETE])  # (P, 1)
_TWO_MISSING: Final = ~_ONE_MISSING
_BY_PATTERN: Final = {
    subset.name: mask
    for subset, mask in zip(INCOMPLETE, np.eye(len(INCOMPLETE), dtype=np.bool_)[..., None], strict=True)
}


@dataclass(frozen=True, slots=True)
class IncompleteCases:
    """The decisions on every complete item with each incomplete subset of its modalities.

    Args:
        decisions: P rows of N.
        truth: `(N,)` true classes.
        complete: `(N,)` classes predicted from the complete input.
        available: `(1 + P, N)` classes predicted by the transformer path from each of `SUBSETS`.
        decided_by: `(N,)` which modalities carry the label; empty where unknown.
        changes: `(P, N)` whether the complete input's prediction differs from the available-only one.
        key: `(P, N)` whether it differs and is right: the protocol's truth.
        detected: `(P, N)` whether a key missing modality is reported.
        scores: name → `(P, N)`. `score`: the verdict's. `rule`: 1 where a modality is key by the paper's rule.
            `one_minus_max` and `entropy` (natural logarithm, over that of C): of the available-only answer.
            `disagreement`: 1 − sum of products of the full and the available vote.
    """

    decisions: Sequence[Sequence[Decision]]
    truth: IntArray
    complete: IntArray
    available: IntArray
    decided_by: Sequence[str]
    changes: BoolArray
    key: BoolArray
    detected: BoolArray
    scores: Mapping[str, DoubleArray]

    @classmethod
    def of(cls, table: DecisionTable) -> "IncompleteCases | None":
        """Collect them; None where no item is complete, or the predictor gives no verdict."""
        items = [index for index, _ in table.cases(COMPLETE)]
        if not items or table[items[0], COMPLETE].key_score is None:
            return None
        truth, complete, _ = table.arrays(table.cases(COMPLETE))
        grid = [[table[index, subset] for index in items] for subset in SUBSETS]
        answers = np.array([[d.transformer or d.available for d in row] for row in grid])  # (1 + P, N, C)
        available, decisions = answers.argmax(axis=-1), grid[1:]
        changes = complete != available[1:]
        votes_full = np.array([[d.vote_full or d.full for d in row] for row in decisions])  # (P, N, C)
        votes_available = np.array([[d.vote_available or d.available for d in row] for row in decisions])
        partial = answers[1:]
        return cls(
            decisions=decisions,
            truth=truth,
            complete=complete,
            available=available,
            decided_by=[table.items[index].decided_by or "" for index in items],
            changes=changes,
            key=changes & (complete == truth),
            detected=np.array([[bool(d.key_modalities) for d in row] for row in decisions]),
            scores={
                "score": np.array([[d.key_score for d in row] for row in decisions], dtype=np.float64),
                "rule": np.array([[float(bool(d.rule)) for d in row] for row in decisions]),
                "one_minus_max": 1 - partial.max(axis=-1),
                "entropy": -(partial * np.log(np.maximum(partial, 1e-12))).sum(axis=-1) / np.log(table.classes),
                "disagreement": 1 - (votes_full * votes_available).sum(axis=-1),
            },
        )


def key_missing(cases: IncompleteCases, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The verdict on what is missing.

    Args:
        cases: over all six incomplete subsets.
        resamples: of each bootstrap interval.

    Returns:
        Of all cases: the figures of `detection` against the protocol's truth, `scores` (name → `auroc` and
        `average_precision`, names as in `IncompleteCases`) and, under `changes`, the same against whether the
        prediction changes, right or wrong. The same again for parts of them: `one_missing`, `two_missing`,
        `by_pattern` and `by_decided_by`. Of all cases, one missing and two missing also `score_minus_one_minus_max`:
        the differences of `auroc` and `average_precision` with paired bootstrap intervals over items. Then
        `first_named` (see `_first_named`) and `by_modality` (see `_by_modality`).
    """
    kinds = np.array(cases.decided_by)
    return {
        **_verdict(cases, _ALL, resamples),
        "one_missing": _verdict(cases, _ONE_MISSING, resamples),
        "two_missing": _verdict(cases, _TWO_MISSING, resamples),
        "by_pattern": {name: _verdict(cases, mask) for name, mask in _BY_PATTERN.items()},
        "by_decided_by": {kind: _verdict(cases, kinds == kind) for kind in sorted(set(cases.decided_by) - {""})},
        "first_named": _first_named(cases),
        "by_modality": _by_modality(cases),
    }


def _verdict(cases: IncompleteCases, mask: BoolArray, resamples: int | None = None) -> dict[str, Any]:
    """See `key_missing`; of a mask that broadcasts to `(P, N)`, with intervals where `resamples` are given."""
    mask = np.broadcast_to(mask, cases.key.shape)
    scores = {name: values[mask] for name, values in cases.scores.items()}
    items = np.broadcast_to(np.arange(cases.truth.size), mask.shape)[mask]

    def figures(truth: BoolArray) -> dict[str, Any]:
        found = {
            **detection(truth, cases.detected[mask], scores["score"]),
            "scores": {
                name: {"auroc": auroc(truth, values), "average_precision": average_precision(truth, values)}
                for name, values in scores.items()
            },
        }
        if resamples is not None:
            intervals = ranking_bootstrap(truth, scores["score"], scores["one_minus_max"], items, resamples=resamples)
            found["score_minus_one_minus_max"] = {
                name: interval and asdict(interval) for name, interval in intervals.items()
            }
        return found

    return {**figures(cases.key[mask]), "changes": figures(cases.changes[mask])}


def _first_named(cases: IncompleteCases) -> dict[str, Any]:
    """Whether the modality named first is right, over true cases (the protocol's truth) with two missing.

    It is right if giving it alone changes the available-only prediction to the complete input's.

    Returns:
        `n` true cases; `neither`, `either` and `both`: how many of them have no, one and two right modalities. Then
        over three kinds of them `n`, `right`, `share` and `chance`, the share of a name drawn at random: `reported`
        (a key modality is reported, and its first is taken); `all` (the likeliest by `key_by_modality`, reported or
        not); `decidable` (the same, where exactly one of the two is right).
    """
    reported, likeliest = [], []  # (first name, right ones) of each true case, where there is a name
    sizes = []
    for row, column in np.argwhere(cases.key & _TWO_MISSING):
        kept, decision = INCOMPLETE[row], cases.decisions[row][column]
        right = {m for m in kept.missing if cases.available[_given(kept, m), column] == cases.complete[column]}
        sizes.append(len(right))
        reported += [(name, right) for name in decision.key_modalities[:1]]
        if by_modality := decision.key_by_modality:
            likeliest.append((max(kept.missing, key=lambda m: by_modality.get(m, 0.0)), right))

    def share(named: Sequence[tuple[Modality, set[Modality]]]) -> dict[str, Any]:
        n, hits = len(named), sum(name in right for name, right in named)
        chance = sum(len(right) for _, right in named) / (2 * n) if n else None
        return {"n": n, "right": hits, "share": hits / n if n else None, "chance": chance}

    return {
        "n": len(sizes),
        **{name: sizes.count(size) for size, name in enumerate(("neither", "either", "both"))},
        "reported": share(reported),
        "all": share(likeliest),
        "decidable": share([(name, right) for name, right in likeliest if len(right) == 1]),
    }


def _by_modality(cases: IncompleteCases) -> dict[str, Any]:
    """Of each missing modality: its own score against whether giving it alone changes the available-only prediction.

    Returns:
        modality → `n`, `mean_score`, `true_share`, `auroc` and `calibration_error`; nothing for a modality without
        scores.
    """
    found = {}
    for modality in Modality:
        scores = np.array([[d.key_by_modality.get(modality, np.nan) for d in row] for row in cases.decisions])  # (P, N)
        changes = cases.available[[_given(kept, modality) for kept in INCOMPLETE]] != cases.available[1:]
        scored = ~np.isnan(scores)
        if scored.any():
            score, truth = scores[scored], changes[scored]
            found[modality.value] = {
                "n": score.size,
                "mean_score": float(score.mean()),
                "true_share": float(truth.mean()),
                "auroc": auroc(truth, score),
                "calibration_error": calibration(score, truth).error,
            }
    return found


def _given(kept: ModalitySet, modality: Modality) -> int:
    """The row of `IncompleteCases.available` where a modality is given beside what is kept."""
    return SUBSETS.index(ModalitySet(kept.present | {modality}))


def gate(cases: IncompleteCases, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """Gates between the transformer and the ensemble path.

    Args:
        cases: over all six incomplete subsets.
        resamples: of each bootstrap interval.

    Returns:
        `n`; `gates`: name → `share` of the cases that take the ensemble, `accuracy` and `macro_f1` over all,
        `where_used` (both of the gate and of the transformer path where the gate takes the ensemble), `minus_never` and
        `minus_always` (differences with paired bootstrap intervals over items, each with its six subsets).
        `one_missing`, `two_missing` and `by_pattern`: name of the gate → `share`, `accuracy`, `macro_f1`, `n`.

        Gates: `answer`: the predictor's own. `rule`: the ensemble where a modality is key by the paper's rule.
        `score`: where one is reported. `never` and `always`.

        None where the predictor does not have two paths.
    """
    if any(d.ensemble is None for row in cases.decisions for d in row):
        return None
    transformer = cases.available[1:]  # (P, N)
    ensemble = np.array([[d.ensemble for d in row] for row in cases.decisions]).argmax(axis=-1)
    used = {
        "answer": np.array([[d.ensemble_used for d in row] for row in cases.decisions]),
        "rule": cases.scores["rule"] > 0,
        "score": cases.detected,
        "never": np.zeros(transformer.shape, dtype=np.bool_),
        "always": np.ones(transformer.shape, dtype=np.bool_),
    }
    predicted = {name: np.where(uses, ensemble, transformer) for name, uses in used.items()}
    truths = np.broadcast_to(cases.truth, transformer.shape)

    def over(mask: BoolArray) -> dict[str, Any]:
        mask = np.broadcast_to(mask, truths.shape)
        return {
            name: {"share": float(used[name][mask].mean()), **class_scores(truths[mask], classes[mask])}
            for name, classes in predicted.items()
        }

    def minus(name: str, other: str) -> dict[str, Any]:
        return {
            metric: asdict(
                paired_bootstrap(
                    cases.truth, predicted[name], predicted[other], metric=metric, runs="pool", resamples=resamples
                )
            )
            for metric in get_args(Metric)
        }

    whole, references = over(_ALL), ("never", "always")
    return {
        "n": truths.size,
        "gates": {
            name: {
                **whole[name],
                "where_used": {
                    "gate": class_scores(truths[uses], predicted[name][uses]),
                    "never": class_scores(truths[uses], transformer[uses]),
                },
                **{f"minus_{other}": minus(name, other) for other in references if other != name != "never"},
            }
            for name, uses in used.items()
        },
        "one_missing": over(_ONE_MISSING),
        "two_missing": over(_TWO_MISSING),
        "by_pattern": {name: over(mask) for name, mask in _BY_PATTERN.items()},
    }


def verdict_diagrams(cases: IncompleteCases) -> dict[str, Any]:
    """Points to draw, rounded to four digits.

    Returns:
        For `key` and `changes`: the score's `calibration` by bin; `precision_recall`: name of a score → `recall`,
        `precision` and `threshold` by point, from the highest threshold down; `reported`: recall and precision of what
        is reported.
    """
    found = {}
    for name, truth in (("key", cases.key.ravel()), ("changes", cases.changes.ravel())):
        scores = {score: values.ravel() for score, values in cases.scores.items()}
        reported = detection(truth, cases.detected.ravel(), scores["score"])
        found[name] = {
            "calibration": calibration(scores["score"], truth).points(),
            "precision_recall": {
                score: precision_recall_points(truth, values) for score, values in scores.items() if truth.any()
            },
            "reported": {key: reported[key] for key in ("precision", "recall")},
        }
    return found
