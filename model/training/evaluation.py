"""Every figure of an evaluation: by subset of modalities, missing rate and corpus, the key-missing verdict, the gate.

An item counts for a subset only if it has all its modalities; how many items are left out is reported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final, TypedDict

import numpy as np

from model.modality import SUBSETS, ModalitySet
from model.training.decision_table import Case, DecisionTable, Item, Predictor
from model.training.key_missing import IncompleteCases, gate, key_missing, verdict_diagrams
from model.training.metrics import (
    RESAMPLES,
    class_figures,
    class_scores,
    macro_f1,
    paired_bootstrap,
    reliability,
    score_figures,
)
from model.training.missing_patterns import RatePatterns

PATTERN_SEED: Final = 2022  # of the missing rates' draws when none are passed in; the same for every system and seed


class Evaluation(TypedDict):
    """Everything measured, ready for JSON; what cannot be computed is None or empty.

    `patterns`: subset → figures. `rates`: missing rate → scores. `decided_by`: kind → subset → scores. The others: see
    the functions of their names. Scores and figures are those of `model.training.metrics.class_scores` and
    `class_figures`; `left_out` of a pattern: items that lack one of its modalities. `scores`: of a regression, subset →
    figures of `model.training.metrics.score_figures`; None otherwise.
    """

    classes: list[str]
    n: int
    patterns: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Any]] | None
    rates: dict[str, dict[str, Any]]
    decided_by: dict[str, dict[str, dict[str, Any]]]
    corpora: dict[str, Any] | None
    steps: list[dict[str, Any]]
    key_missing: dict[str, Any] | None
    gate: dict[str, Any] | None
    diagrams: dict[str, Any]


def evaluate(
    predictor: Predictor,
    items: Sequence[Item],
    classes: Sequence[str],
    *,
    rate_patterns: RatePatterns | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Measure a predictor by every protocol.

    Args:
        predictor: computes the decisions.
        items: a part of a corpus.
        classes: names, in the order of labels and distributions.
        rate_patterns: what each item keeps at each missing rate; drawn with `PATTERN_SEED` when not given.
        resamples: of each bootstrap interval.

    Raises:
        ValueError: no items, or `rate_patterns` were drawn for others.
    """
    if not items:
        raise ValueError("there is nothing to evaluate")
    return evaluate_table(
        DecisionTable(predictor, items, len(classes)), classes, rate_patterns=rate_patterns, resamples=resamples
    )


def draw_rates(items: Sequence[Item]) -> RatePatterns:
    """What each item keeps at each missing rate: the same for every system and seed."""
    return RatePatterns.draw([item.id for item in items], [item.utterance.presence for item in items], PATTERN_SEED)


def evaluate_table(
    table: DecisionTable,
    classes: Sequence[str],
    *,
    rate_patterns: RatePatterns | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Measure decisions by every protocol; arguments as of `evaluate`.

    Raises:
        ValueError: `rate_patterns` were drawn for other items.
    """
    items = table.items
    if rate_patterns is None:
        rate_patterns = draw_rates(items)
    elif rate_patterns.ids != tuple(item.id for item in items):
        raise ValueError("the missing rates were drawn for other items")
    incomplete = IncompleteCases.of(table)
    return Evaluation(
        classes=list(classes),
        n=len(items),
        patterns=patterns(table),
        scores=scores(table, classes),
        rates={str(rate): _scores(table, enumerate(kept)) for rate, kept in rate_patterns.kept.items()},
        decided_by={
            kind: {
                subset.name: _scores(table, (case for case in table.cases(subset) if items[case[0]].decided_by == kind))
                for subset in SUBSETS
            }
            for kind in sorted({item.decided_by for item in items if item.decided_by is not None})
        },
        corpora=corpora(table),
        steps=steps(table, resamples),
        key_missing=None if incomplete is None else key_missing(incomplete, resamples),
        gate=None if incomplete is None else gate(incomplete, resamples),
        diagrams=diagrams(table, incomplete),
    )


def _scores(table: DecisionTable, cases: Iterable[Case]) -> dict[str, Any]:
    truth, predicted, _ = table.arrays(cases)
    return class_scores(truth, predicted)


def patterns(table: DecisionTable) -> dict[str, dict[str, Any]]:
    """Every subset's figures."""
    found = {}
    for subset in SUBSETS:
        cases = table.cases(subset)
        found[subset.name] = {**class_figures(*table.arrays(cases)), "left_out": len(table.items) - len(cases)}
    return found


def scores(table: DecisionTable, classes: Sequence[str]) -> dict[str, Any] | None:
    """Every subset's figures of the expected value of the class distribution; None where an item has no score."""
    truth = [item.score for item in table.items if item.score is not None]
    if len(truth) < len(table.items):
        return None
    values = np.array([float(name) for name in classes])
    found = {}
    for subset in SUBSETS:
        cases = table.cases(subset)
        _, _, probabilities = table.arrays(cases)
        found[subset.name] = score_figures(np.array([truth[index] for index, _ in cases]), probabilities @ values)
    return found


def corpora(table: DecisionTable) -> dict[str, Any] | None:
    """Figures of each corpus that items of a single modality come from.

    Returns:
        `by_corpus`: name → `modality` and figures; `mean`: of each figure over corpora. None where an item has several
        modalities, or its origin is not known.
    """
    cases = _by_origin(table)
    if cases is None:
        return None
    by_corpus = {name: {"modality": own[0][1].name, **class_figures(*table.arrays(own))} for name, own in cases.items()}
    means = ("accuracy", "macro_f1", "uar", "log_loss", "calibration_error")
    return {
        "by_corpus": by_corpus,
        "mean": {name: float(np.mean([figures[name] for figures in by_corpus.values()])) for name in means},
    }


def _by_origin(table: DecisionTable) -> dict[str, list[Case]] | None:
    """Corpus → its items, by name; None where an item has several modalities or no origin."""
    found: dict[str, list[Case]] = {}
    for index, item in enumerate(table.items):
        presence = item.utterance.presence
        (modality, *others) = presence
        if others or modality not in item.origins:
            return None
        found.setdefault(item.origins[modality], []).append((index, presence))
    return {name: found[name] for name in sorted(found)}


def steps(table: DecisionTable, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """What each modality adds to each subset of one or two others: nine steps, less those without items.

    Returns:
        Of each step, over the items that have all modalities of `after`: the subsets `before` and `after`, the modality
        `added`, `n`, `macro_f1_before` and `macro_f1_after`, the `difference` of the two with its paired bootstrap
        interval `low` and `high`, and `lowers`, whether it is below zero.
    """
    found = []
    for after in reversed(SUBSETS):
        cases = table.cases(after)
        for added in after if len(after) > 1 and cases else ():
            before = ModalitySet(after.present - {added})
            truth, without, _ = table.arrays((index, before) for index, _ in cases)
            _, with_it, _ = table.arrays(cases)
            interval = paired_bootstrap(truth, with_it, without, resamples=resamples)
            found.append(
                {
                    "before": before.name,
                    "after": after.name,
                    "added": added.value,
                    "n": truth.size,
                    "macro_f1_before": macro_f1(truth, without),
                    "macro_f1_after": macro_f1(truth, with_it),
                    **asdict(interval),
                    "lowers": interval.difference < 0,
                }
            )
    return found


def diagrams(table: DecisionTable, incomplete: IncompleteCases | None) -> dict[str, Any]:
    """Points to draw, rounded to four digits.

    Returns:
        `reliability`: subset → `count`, `confidence` and `accuracy` by bin; `corpora`: corpus → the same, where
        `corpora` has figures; `verdict`, where there are complete items: see `verdict_diagrams`.
    """
    origins = _by_origin(table) or {}

    def points(cases: Iterable[Case]) -> dict[str, list[float]]:
        return reliability(*table.arrays(cases)).points()

    return {
        "reliability": {subset.name: points(cases) for subset in SUBSETS if (cases := table.cases(subset))},
        "corpora": {name: points(cases) for name, cases in origins.items()},
        **({} if incomplete is None else {"verdict": verdict_diagrams(incomplete)}),
    }
