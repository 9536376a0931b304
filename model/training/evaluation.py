"""Every figure of an evaluation: by subset, rate and corpus, the key-missing verdict, and the gate.

Each (item, kept modalities) is decided once (`DecisionTable`), and every figure is counted from those decisions. An
item counts for a subset only if the corpus has all its modalities for the item; how many are left out is reported.

Shapes: N items, C classes, M cases (an item and an incomplete subset of its modalities).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol, TypedDict

import numpy as np

from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet, Utterance
from model.training.datasets.base import Example, Source
from model.training.metrics import (
    RESAMPLES,
    Bins,
    Metric,
    accuracy,
    auroc,
    average_precision,
    calibration,
    confusion_matrix,
    detection,
    log_loss,
    macro_f1,
    paired_bootstrap,
    precision_recall,
    ranking_bootstrap,
    unweighted_average_recall,
)
from model.training.missing_patterns import RatePatterns
from model.types import BoolArray, DoubleArray, FloatArray, IntArray

INCOMPLETE: Final = SUBSETS[1:]
ONE_MISSING: Final = tuple(subset for subset in INCOMPLETE if len(subset.missing) == 1)
TWO_MISSING: Final = tuple(subset for subset in INCOMPLETE if len(subset.missing) == 2)
PATTERN_SEED: Final = 2022
"""Seed of the missing rates' draws when none are passed in; the same for every system and every training seed."""
CURVE_POINTS: Final = 101
"""At most so many points of a precision–recall curve are kept, evenly spaced in recall."""


Distribution = Sequence[float]


class DecisionLike(Protocol):
    """What is asked of one decision; distributions are over the classes, in order."""

    @property
    def label_index(self) -> int:
        """The class decided for."""

    @property
    def probabilities(self) -> Distribution:
        """The answer."""

    @property
    def full(self) -> Distribution:
        """Read where `vote_full` is None."""

    @property
    def available(self) -> Distribution:
        """Read where `transformer` or `vote_available` is None."""

    @property
    def vote_full(self) -> Distribution | None:
        """The vote with missing modalities recovered."""

    @property
    def vote_available(self) -> Distribution | None:
        """The vote of what is present."""

    @property
    def rule(self) -> tuple[Modality, ...]:
        """The missing modalities that are key by the paper's rule."""

    @property
    def key_modalities(self) -> tuple[Modality, ...]:
        """The missing modalities said to be key, the likeliest first."""

    @property
    def key_score(self) -> float:
        """Probability that giving what is missing would change the answer."""

    @property
    def key_by_modality(self) -> Mapping[Modality, float]:
        """For each missing modality, the probability that giving it alone would change the answer."""

    @property
    def ensemble_used(self) -> bool:
        """Whether the gate took the ensemble path."""

    @property
    def transformer(self) -> Distribution | None:
        """The transformer path's answer, which rests on what is present alone."""

    @property
    def ensemble(self) -> Distribution | None:
        """The ensemble path's answer, when both paths were asked for and something is missing."""


class Predictor(Protocol):
    """Whatever decides."""

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> Sequence[DecisionLike]:
        """One decision for each utterance, in order, not depending on the others."""


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance to be decided.

    Args:
        id: unique among the items.
        label: index of its class.
        utterance: its features, as the predictor takes them.
        decided_by: which modalities carry the label, where that is known.
        origins: modality → the corpus its content was recorded for, where that is known.
    """

    id: str
    label: int
    utterance: Utterance
    decided_by: str | None = None
    origins: Mapping[Modality, str] = field(default_factory=dict)


class Scores(TypedDict):
    """Both figures are None where there are no items."""

    accuracy: float | None
    macro_f1: float | None
    n: int


class Figures(Scores):
    """All that is said of decisions; figures are None where there are no items.

    `uar`: mean recall over the classes that occur. `log_loss`: of the true class, natural logarithm.
    `calibration_error`: of the largest probability, 15 bins. `confusion`: `(C, C)` counts, truth by decision.
    """

    uar: float | None
    log_loss: float | None
    calibration_error: float | None
    confusion: list[list[int]]


class PatternScores(Figures):
    """`left_out`: items that lack a modality of the pattern in the corpus."""

    left_out: int


class Step(TypedDict):
    """What adding a modality does to macro-F1, over the items that have it and the rest.

    `difference`: `after` minus `before`, with its paired bootstrap interval. `lowers`: it is below zero.
    """

    before: str
    after: str
    added: str
    n: int
    macro_f1_before: float
    macro_f1_after: float
    difference: float
    low: float
    high: float
    lowers: bool


class Evaluation(TypedDict):
    """Everything measured, ready for JSON; what cannot be counted is None or empty.

    `patterns`: subset → figures. `rates`: missing rate → scores. `decided_by`: kind → subset → scores. `corpora`: see
    `corpora`. `steps`: see `steps`. `key_missing`: see `key_missing`. `gate`: see `gate`. `diagrams`: see `diagrams`.
    """

    classes: list[str]
    n: int
    patterns: dict[str, PatternScores]
    rates: dict[str, Scores]
    decided_by: dict[str, dict[str, Scores]]
    corpora: dict[str, Any] | None
    steps: list[Step]
    key_missing: dict[str, Any] | None
    gate: dict[str, Any] | None
    diagrams: dict[str, Any]


def items_of(examples: Iterable[Example], features: Mapping[Source, FloatArray], classes: Sequence[str]) -> list[Item]:
    """Put examples and their features together; an example without any features left is left out.

    Args:
        examples: of one part of a corpus.
        features: source → `(T, d)`, as the predictor takes them; a source that is not there is a missing modality.
        classes: the predictor's.

    Raises:
        ValueError: an example's label is not among `classes`.
    """
    positions = {name: index for index, name in enumerate(classes)}
    items = []
    for example in examples:
        if example.label not in positions:
            raise ValueError(f"label {example.label!r} of {example.id} is not among the classes {', '.join(classes)}")
        arrays = {m: features[source] for m, source in example.sources.items() if source in features}
        if arrays:
            label, utterance = positions[example.label], Utterance(arrays)
            items.append(Item(example.id, label, utterance, example.decided_by, example.origins))
    return items


def evaluate(
    predictor: Predictor,
    items: Sequence[Item],
    classes: Sequence[str],
    *,
    rate_patterns: RatePatterns | None = None,
    batch_size: int = 128,
    resamples: int = RESAMPLES,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a predictor by every protocol.

    Args:
        predictor: what decides.
        items: a part of a corpus.
        classes: names, in the order of labels and distributions.
        rate_patterns: what each item keeps at each missing rate; drawn with `PATTERN_SEED` when not given.
        batch_size: utterances in one call of the predictor.
        resamples: of each bootstrap interval.
        advance: told how many decisions were made, for a progress bar.

    Raises:
        ValueError: no items, or `rate_patterns` were drawn for others.
    """
    if not items:
        raise ValueError("there is nothing to evaluate")
    ids = tuple(item.id for item in items)
    if rate_patterns is None:
        rate_patterns = RatePatterns.draw(ids, [item.utterance.presence for item in items], PATTERN_SEED)
    elif rate_patterns.ids != ids:
        raise ValueError("the missing rates were drawn for other items")
    table = DecisionTable(predictor, items, len(classes), batch_size=batch_size, advance=advance)
    verdicts = Verdicts.of(table)
    return Evaluation(
        classes=list(classes),
        n=len(items),
        patterns=patterns(table),
        rates={str(rate): table.scores(enumerate(kept)) for rate, kept in rate_patterns.kept.items()},
        decided_by={
            kind: {
                subset.name: table.scores((i, subset) for i in table.having(subset) if items[i].decided_by == kind)
                for subset in SUBSETS
            }
            for kind in _kinds(items)
        },
        corpora=corpora(table),
        steps=steps(table, resamples),
        key_missing=None if verdicts is None else key_missing(verdicts, resamples),
        gate=gate(table, resamples),
        diagrams=diagrams(table, verdicts),
    )


Case = tuple[int, ModalitySet]
"""Position of an item, and what it keeps."""


class DecisionTable:
    """The decision on every item with every subset of what it has, each made once, on construction.

    Args:
        predictor: what decides.
        items: what is decided.
        classes: C.
        batch_size: utterances in one call of the predictor.
        advance: told how many decisions were made, for a progress bar.
    """

    def __init__(
        self,
        predictor: Predictor,
        items: Sequence[Item],
        classes: int,
        *,
        batch_size: int = 128,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.items, self.classes = items, classes
        self._having = {
            subset: [i for i, item in enumerate(items) if subset.present <= item.utterance.presence.present]
            for subset in SUBSETS
        }
        self._decisions: dict[Case, DecisionLike] = {}
        for subset in SUBSETS:
            # The gate is measured on complete items that lack something: only there both paths are worth their cost.
            complete = [i for i in self.having(subset) if items[i].utterance.presence.complete]
            others = [i for i in self.having(subset) if not items[i].utterance.presence.complete]
            for chosen, both_paths in ((complete, not subset.complete), (others, False)):
                for start in range(0, len(chosen), batch_size):
                    batch = chosen[start : start + batch_size]
                    utterances = [items[i].utterance.keep(subset) for i in batch]
                    decisions = predictor.decide(utterances, both_paths=both_paths)
                    self._decisions.update(((i, subset), d) for i, d in zip(batch, decisions, strict=True))
                    if advance is not None:
                        advance(len(batch))

    def __getitem__(self, case: Case) -> DecisionLike:
        return self._decisions[case]

    def having(self, subset: ModalitySet) -> Sequence[int]:
        """Positions of the items that have all of a subset's modalities."""
        return self._having[subset]

    def labels(self, cases: Iterable[Case]) -> IntArray:
        """The true classes."""
        return np.array([self.items[index].label for index, _ in cases], dtype=np.int64)

    def answers(self, cases: Iterable[Case]) -> IntArray:
        """The classes decided for."""
        return np.array([self[case].label_index for case in cases], dtype=np.int64)

    def probabilities(self, cases: Iterable[Case]) -> DoubleArray:
        """The answers' distributions, `(cases, C)`."""
        return np.array([self[case].probabilities for case in cases], dtype=np.float64).reshape(-1, self.classes)

    def scores(self, cases: Iterable[Case]) -> Scores:
        """Accuracy and macro-F1 of the decisions."""
        counted = list(cases)
        return _scores(self.labels(counted), self.answers(counted))

    def figures(self, cases: Iterable[Case]) -> Figures:
        """Every figure of the decisions."""
        counted = list(cases)
        truth, answers, probabilities = self.labels(counted), self.answers(counted), self.probabilities(counted)
        return Figures(
            **_scores(truth, answers),
            uar=unweighted_average_recall(truth, answers) if counted else None,
            log_loss=log_loss(truth, probabilities) if counted else None,
            calibration_error=self.reliability(counted).error,
            confusion=confusion_matrix(truth, answers, self.classes).tolist(),
        )

    def reliability(self, cases: Iterable[Case]) -> Bins:
        """How often the decisions are right, by the probability of the class decided for."""
        counted = list(cases)
        truth, answers, probabilities = self.labels(counted), self.answers(counted), self.probabilities(counted)
        return calibration(probabilities[np.arange(len(counted)), answers], truth == answers)


def patterns(table: DecisionTable) -> dict[str, PatternScores]:
    """Every subset's figures."""
    return {
        subset.name: PatternScores(
            **table.figures((index, subset) for index in table.having(subset)),
            left_out=len(table.items) - len(table.having(subset)),
        )
        for subset in SUBSETS
    }


def corpora(table: DecisionTable) -> dict[str, Any] | None:
    """Figures of each corpus that items of a single modality come from.

    Returns:
        `by_corpus`: name → `Figures` and `modality`; `mean`: of each figure over corpora. None where an item has
        several modalities, or its origin is not known.
    """
    cases = _by_origin(table)
    if cases is None:
        return None
    by_corpus = {
        name: {"modality": own[0][1].name, **table.figures(own)} for name, own in sorted(cases.items(), key=_first)
    }
    means = ("accuracy", "macro_f1", "uar", "log_loss", "calibration_error")
    return {
        "by_corpus": by_corpus,
        "mean": {name: float(np.mean([figures[name] for figures in by_corpus.values()])) for name in means},
    }


def steps(table: DecisionTable, resamples: int = RESAMPLES) -> list[Step]:
    """What each modality adds to each subset of one or two others: nine steps, less those without items."""
    pairs = [(subset, added) for subset in reversed(SUBSETS) if len(subset) > 1 for added in subset]
    return [_step(table, subset, added, resamples) for subset, added in pairs if table.having(subset)]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is said and what is true of each case: complete items with one or two modalities taken away.

    The available-only answer is that of the transformer path.

    Args:
        table: the decisions.
        cases: M.
        item: `(M,)` position of each case's item.
        missing: `(M,)` how many modalities are missing.
        pattern: `(M,)` position in `INCOMPLETE`.
        changes: `(M,)` whether the complete input's decision differs from the available-only answer.
        key: `(M,)` whether it differs and is right: the protocol's truth.
        detected: `(M,)` whether a key missing modality is reported.
        scores: name → `(M,)`. `score`: the verdict's. `rule`: 1 where a modality is key by the paper's rule.
            `one_minus_max` and `entropy` (natural logarithm, over that of C): of the available-only answer.
            `disagreement`: 1 − sum of products of the full and the available vote.
    """

    table: DecisionTable
    cases: list[Case]
    item: IntArray
    missing: IntArray
    pattern: IntArray
    changes: BoolArray
    key: BoolArray
    detected: BoolArray
    scores: Mapping[str, DoubleArray]

    @classmethod
    def of(cls, table: DecisionTable) -> "Verdicts | None":
        """Collect them; None where no item is complete."""
        complete = table.having(COMPLETE)
        if not complete:
            return None
        cases = [(index, kept) for kept in INCOMPLETE for index in complete]
        decisions = [table[case] for case in cases]
        available = np.array([_available_answer(decision) for decision in decisions], dtype=np.float64)
        whole = table.answers((index, COMPLETE) for index, _ in cases)
        changes = whole != available.argmax(axis=1)
        votes = np.array([(d.vote_full or d.full, d.vote_available or d.available) for d in decisions])  # (M, 2, C)
        return cls(
            table=table,
            cases=cases,
            item=np.array([index for index, _ in cases], dtype=np.int64),
            missing=np.array([len(kept.missing) for _, kept in cases], dtype=np.int64),
            pattern=np.array([INCOMPLETE.index(kept) for _, kept in cases], dtype=np.int64),
            changes=changes,
            key=changes & (whole == table.labels(cases)),
            detected=np.array([bool(decision.key_modalities) for decision in decisions]),
            scores={
                "score": np.array([decision.key_score for decision in decisions], dtype=np.float64),
                "rule": np.array([float(bool(decision.rule)) for decision in decisions]),
                "one_minus_max": 1 - available.max(axis=1),
                "entropy": -(available * np.log(np.maximum(available, 1e-12))).sum(axis=1) / np.log(table.classes),
                "disagreement": 1 - votes.prod(axis=1).sum(axis=1),
            },
        )

    @property
    def all(self) -> BoolArray:
        """A mask of every case, `(M,)`."""
        return np.ones(len(self.cases), dtype=np.bool_)


def key_missing(verdicts: Verdicts, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The verdict on what is missing, over all six incomplete subsets.

    Args:
        verdicts: what is said and what is true.
        resamples: of each bootstrap interval.

    Returns:
        Of all cases: `n`, the figures against the protocol's truth (below) and, under `changes`, the same against
        whether the decision changes, right or wrong. The same again for parts of them: `one_missing`, `two_missing`,
        `by_pattern` and `by_decided_by`. Then `first_named` (see `_first_named`) and `by_modality`
        (see `_by_modality`).

        Figures: `positives` true cases, `detected` reported ones; `precision`, `recall`, `f1` of the report; `auroc`
        and `average_precision` of the score; `detected_share`, `true_share` and `ratio`, the one over the other;
        `calibration_error` of the score as a probability of the truth; `scores`: name → `auroc` and
        `average_precision`, names as in `Verdicts`. Of all cases, one missing and two missing also
        `score_minus_one_minus_max`: the differences of `auroc` and `average_precision` with paired bootstrap intervals
        over items.
    """
    kinds = np.array([verdicts.table.items[index].decided_by or "" for index, _ in verdicts.cases])
    one, two = verdicts.missing == 1, verdicts.missing == 2
    return {
        **_verdict_figures(verdicts, verdicts.all, resamples),
        "one_missing": _verdict_figures(verdicts, one, resamples),
        "two_missing": _verdict_figures(verdicts, two, resamples),
        "by_pattern": {
            kept.name: _verdict_figures(verdicts, verdicts.pattern == at) for at, kept in enumerate(INCOMPLETE)
        },
        "by_decided_by": {
            kind: _verdict_figures(verdicts, kinds == kind) for kind in sorted(set(kinds.tolist()) - {""})
        },
        "first_named": _first_named(verdicts),
        "by_modality": _by_modality(verdicts),
    }


def gate(table: DecisionTable, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """Gates between the transformer and the ensemble path, over complete items with one or two modalities taken away.

    Args:
        table: the decisions.
        resamples: of each bootstrap interval.

    Returns:
        `n`; `gates`: name → `share` of the cases that take the ensemble, `accuracy` and `macro_f1` over all,
        `where_used` (both of the gate and of the transformer path where the gate takes the ensemble), `minus_never` and
        `minus_always` (differences with paired bootstrap intervals over items, each with its six subsets).
        `one_missing`, `two_missing` and `by_pattern`: name of the gate → `share`, `accuracy`, `macro_f1`, `n`.

        Gates: `answer`: the one that the predictor answers by. `rule`: the ensemble where a modality is key by the
        paper's rule. `score`: where one is reported. `never` and `always`.

        None where no item is complete, or the predictor has no two paths.
    """
    complete = table.having(COMPLETE)
    rows = [[table[index, kept] for index in complete] for kept in INCOMPLETE]  # subset → item
    ensemble = [[d.ensemble for d in row if d.ensemble is not None] for row in rows]
    if not complete or any(len(row) < len(complete) for row in ensemble):
        return None
    transformer = np.array([[_available_answer(d) for d in row] for row in rows]).argmax(axis=-1)  # (6, N)
    together = np.array(ensemble).argmax(axis=-1)
    used = {
        "answer": np.array([[d.ensemble_used for d in row] for row in rows]),
        "rule": np.array([[bool(d.rule) for d in row] for row in rows]),
        "score": np.array([[bool(d.key_modalities) for d in row] for row in rows]),
        "never": np.zeros(transformer.shape, dtype=np.bool_),
        "always": np.ones(transformer.shape, dtype=np.bool_),
    }
    decided = {name: np.where(uses, together, transformer) for name, uses in used.items()}
    truth = table.labels((index, COMPLETE) for index in complete)  # (N,)
    truths = np.broadcast_to(truth, transformer.shape)

    def over(subsets: Sequence[ModalitySet]) -> dict[str, Any]:
        at = [INCOMPLETE.index(subset) for subset in subsets]
        return {
            name: {"share": float(used[name][at].mean()), **_scores(truths[at].ravel(), answers[at].ravel())}
            for name, answers in decided.items()
        }

    def minus(name: str, other: str) -> dict[str, Any]:
        def difference(metric: Metric) -> dict[str, float]:
            return asdict(
                paired_bootstrap(truth, decided[name], decided[other], metric=metric, runs="pool", resamples=resamples)
            )

        return {"accuracy": difference("accuracy"), "macro_f1": difference("macro_f1")}

    whole = over(INCOMPLETE)
    return {
        "n": int(truths.size),
        "gates": {
            name: {
                **whole[name],
                "where_used": {
                    "gate": _scores(truths[uses], decided[name][uses]),
                    "never": _scores(truths[uses], transformer[uses]),
                },
                **{f"minus_{other}": minus(name, other) for other in ("never", "always") if "never" != name != other},
            }
            for name, uses in used.items()
        },
        "one_missing": over(ONE_MISSING),
        "two_missing": over(TWO_MISSING),
        "by_pattern": {kept.name: over([kept]) for kept in INCOMPLETE},
    }


def diagrams(table: DecisionTable, verdicts: Verdicts | None) -> dict[str, Any]:
    """Points to draw, rounded to four digits.

    Returns:
        `reliability`: subset → `count`, `confidence` and `accuracy` by bin; `corpora`: corpus → the same, where
        `corpora` has figures; `verdict`, where there are verdicts: for `key` and `changes` the score's `calibration`
        by bin, `precision_recall`: name of a score → `recall`, `precision` and `threshold` by point, and
        `reported`: recall and precision of what is reported.
    """
    origins = _by_origin(table) or {}
    found: dict[str, Any] = {
        "reliability": {
            subset.name: _points(table.reliability((index, subset) for index in table.having(subset)))
            for subset in SUBSETS
            if table.having(subset)
        },
        "corpora": {name: _points(table.reliability(cases)) for name, cases in sorted(origins.items(), key=_first)},
    }
    if verdicts is not None:
        found["verdict"] = {
            name: {
                "calibration": _points(calibration(verdicts.scores["score"], truth)),
                "precision_recall": {
                    score: _curve(truth, values) for score, values in verdicts.scores.items() if truth.any()
                },
                "reported": {
                    key: value
                    for key, value in asdict(detection(truth, verdicts.detected, verdicts.scores["score"])).items()
                    if key in {"recall", "precision"}
                },
            }
            for name, truth in (("key", verdicts.key), ("changes", verdicts.changes))
        }
    return found


def _kinds(items: Sequence[Item]) -> list[str]:
    return sorted({item.decided_by for item in items if item.decided_by is not None})


def _scores(truth: IntArray, decided: IntArray) -> Scores:
    if truth.size == 0:
        return Scores(accuracy=None, macro_f1=None, n=0)
    return Scores(accuracy=accuracy(truth, decided), macro_f1=macro_f1(truth, decided), n=truth.size)


def _first(pair: tuple[str, object]) -> str:
    return pair[0]


def _step(table: DecisionTable, subset: ModalitySet, added: Modality, resamples: int) -> Step:
    items, rest = table.having(subset), ModalitySet(subset.present - {added})
    truth = table.labels((i, subset) for i in items)
    without, with_it = (table.answers((i, kept) for i in items) for kept in (rest, subset))
    interval = paired_bootstrap(truth, with_it, without, resamples=resamples)
    return Step(
        before=rest.name,
        after=subset.name,
        added=added.value,
        n=len(items),
        macro_f1_before=macro_f1(truth, without),
        macro_f1_after=macro_f1(truth, with_it),
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
        lowers=interval.difference < 0,
    )


def _by_origin(table: DecisionTable) -> dict[str, list[Case]] | None:
    """Corpus → its items, whole; None where one has several modalities or no origin."""
    found: dict[str, list[Case]] = {}
    for index, item in enumerate(table.items):
        presence = item.utterance.presence
        (modality, *others) = presence
        if others or modality not in item.origins:
            return None
        found.setdefault(item.origins[modality], []).append((index, presence))
    return found


def _available_answer(decision: DecisionLike) -> Distribution:
    return decision.available if decision.transformer is None else decision.transformer


def _verdict_figures(verdicts: Verdicts, mask: BoolArray, resamples: int | None = None) -> dict[str, Any]:
    """See `key_missing`; intervals where `resamples` are given."""
    n = int(mask.sum())
    scores = {name: values[mask] for name, values in verdicts.scores.items()}
    detected, items = verdicts.detected[mask], verdicts.item[mask]

    def figures(truth: BoolArray) -> dict[str, Any]:
        found = {
            **asdict(detection(truth, detected, scores["score"])),
            "average_precision": average_precision(truth, scores["score"]),
            "detected_share": float(detected.mean()) if n else None,
            "true_share": float(truth.mean()) if n else None,
            "ratio": float(detected.sum() / truth.sum()) if truth.any() else None,
            "calibration_error": calibration(scores["score"], truth).error,
            "scores": {
                name: {"auroc": auroc(truth, values), "average_precision": average_precision(truth, values)}
                for name, values in scores.items()
            },
        }
        if resamples is not None:
            intervals = ranking_bootstrap(truth, scores["score"], scores["one_minus_max"], items, resamples=resamples)
            found["score_minus_one_minus_max"] = asdict(intervals)
        return found

    return {**figures(verdicts.key[mask]), "changes": figures(verdicts.changes[mask])}


def _first_named(verdicts: Verdicts) -> dict[str, Any]:
    """Whether the modality named first is right, over true cases (the protocol's truth) with two missing.

    It is right if giving it alone changes the available-only answer to the complete input's decision.

    Returns:
        `n` true cases; `neither`, `either` and `both`: how many of them have no, one and two right modalities. Then
        over three kinds of them `n`, `right`, `share` and `chance`, the share of a name drawn at random: `reported`
        (a key modality is reported, and its first is taken); `all` (the likeliest by `key_by_modality`, reported or
        not); `decidable` (the same, where exactly one of the two is right).
    """
    table = verdicts.table
    answers = []  # of each true case: first reported, likeliest, right ones
    for at in np.flatnonzero(verdicts.key & (verdicts.missing == 2)):
        index, kept = verdicts.cases[at]
        decision, whole = table[index, kept], table[index, COMPLETE].label_index
        right = {
            m
            for m in kept.missing
            if _argmax(_available_answer(table[index, ModalitySet(kept.present | {m})])) == whole
        }
        by_modality = decision.key_by_modality
        likeliest = max(kept.missing, key=lambda m: by_modality.get(m, 0.0)) if by_modality else None
        answers.append((decision.key_modalities[:1], () if likeliest is None else (likeliest,), right))

    def share(named: Sequence[tuple[tuple[Modality, ...], set[Modality]]]) -> dict[str, Any]:
        counted = [(names[0], right) for names, right in named if names]
        hits = sum(name in right for name, right in counted)
        return {
            "n": len(counted),
            "right": hits,
            "share": hits / len(counted) if counted else None,
            "chance": sum(len(right) for _, right in counted) / (2 * len(counted)) if counted else None,
        }

    sizes = [len(right) for _, _, right in answers]
    return {
        "n": len(answers),
        **{name: sizes.count(size) for size, name in enumerate(("neither", "either", "both"))},
        "reported": share([(reported, right) for reported, _, right in answers]),
        "all": share([(likeliest, right) for _, likeliest, right in answers]),
        "decidable": share([(likeliest, right) for _, likeliest, right in answers if len(right) == 1]),
    }


def _by_modality(verdicts: Verdicts) -> dict[str, Any]:
    """Of each missing modality: its own score against whether giving it alone changes the available-only answer.

    Returns:
        modality → `n`, `mean_score`, `true_share`, `auroc` and `calibration_error`; nothing for a modality without
        scores.
    """
    table, found = verdicts.table, {}
    for modality in Modality:
        scores, truths = [], []
        for index, kept in verdicts.cases:
            decision = table[index, kept]
            if modality in decision.key_by_modality:
                given = table[index, ModalitySet(kept.present | {modality})]
                scores.append(decision.key_by_modality[modality])
                truths.append(_argmax(_available_answer(given)) != _argmax(_available_answer(decision)))
        if scores:
            score, truth = np.array(scores), np.array(truths)
            found[modality.value] = {
                "n": len(scores),
                "mean_score": float(score.mean()),
                "true_share": float(truth.mean()),
                "auroc": auroc(truth, score),
                "calibration_error": calibration(score, truth).error,
            }
    return found


def _argmax(distribution: Distribution) -> int:
    return int(np.argmax(distribution))


def _points(bins: Bins) -> dict[str, Any]:
    return {
        "count": bins.count.tolist(),
        "confidence": bins.confidence.round(4).tolist(),
        "accuracy": bins.accuracy.round(4).tolist(),
    }


def _curve(truth: BoolArray, scores: DoubleArray) -> dict[str, Any]:
    """At most `CURVE_POINTS` points of the precision–recall curve, from the highest threshold down."""
    precision, recall, threshold = precision_recall(truth, scores)
    at = np.unique(np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS)).clip(max=len(recall) - 1))
    return {
        "recall": recall[at].round(4).tolist(),
        "precision": precision[at].round(4).tolist(),
        "threshold": threshold[at].round(4).tolist(),
    }
