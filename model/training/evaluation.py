"""Every figure of an evaluation: by missing pattern, by missing rate, by who carries the label, detector and gate.

For: measuring EMMR and whatever is compared with it under the same protocols, on the same items, with the same draws.
Does not know: how decisions are made (`Predictor`), or how figures are shown (`model.training.report`).

An item counts in a pattern only if the corpus has all of the pattern's modalities for it; how many are left out is
reported. Each (item, kept modalities) is decided once, and every figure is counted from those decisions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from model.modality import COMPLETE, SUBSETS, Modality, Presence, Utterance
from model.training.corpora.base import Example, Source
from model.training.metrics import Metric, accuracy, detection, macro_f1, paired_bootstrap
from model.training.patterns import RatePatterns

ONE_MISSING: Final = tuple(subset for subset in SUBSETS if len(subset) == len(COMPLETE) - 1)
PATTERN_SEED: Final = 2022
"""Seed of the missing rates' draws when none are passed in; the same for every system and every training seed."""

Distribution = Sequence[float]


class DecisionLike(Protocol):
    """What is asked of one decision; distributions are over the classes, in order."""

    @property
    def label_index(self) -> int:
        """The class decided for."""

    @property
    def full(self) -> Distribution:
        """The vote with missing modalities recovered."""

    @property
    def available(self) -> Distribution:
        """The vote of what is present."""

    @property
    def key_modalities(self) -> tuple[Modality, ...]:
        """The missing modalities said to be key."""

    @property
    def key_score(self) -> float:
        """How strongly that is said, in [0, 1]."""

    @property
    def ensemble_used(self) -> bool:
        """Whether the gate took the ensemble path."""

    @property
    def transformer(self) -> Distribution | None:
        """The transformer path's answer, when both paths were asked for."""

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
    """

    id: str
    label: int
    utterance: Utterance
    decided_by: str | None = None


class Scores(TypedDict):
    """Both figures are None where there are no items."""

    accuracy: float | None
    macro_f1: float | None
    n: int


class PatternScores(Scores):
    """`left_out`: items that lack a modality of the pattern in the corpus."""

    left_out: int


class Evaluation(TypedDict):
    """Everything measured, ready for JSON; `key_missing` and `gate` are None where nothing can be counted for them."""

    classes: list[str]
    n: int
    patterns: dict[str, PatternScores]
    rates: dict[str, Scores]
    decided_by: dict[str, dict[str, Scores]]
    key_missing: dict[str, Any] | None
    gate: dict[str, Any] | None


def items_of(
    examples: Iterable[Example], features: Mapping[Source, npt.NDArray[np.float32]], classes: Sequence[str]
) -> list[Item]:
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
            items.append(Item(example.id, positions[example.label], Utterance(arrays), example.decided_by))
    return items


def evaluate(
    predictor: Predictor,
    items: Sequence[Item],
    classes: Sequence[str],
    *,
    rate_patterns: RatePatterns | None = None,
    batch_size: int = 128,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a predictor by every protocol.

    Args:
        predictor: what decides.
        items: a part of a corpus.
        classes: names, in the order of labels and distributions.
        rate_patterns: what each item keeps at each missing rate; drawn with `PATTERN_SEED` when not given.
        batch_size: utterances in one call of the predictor.
        advance: told how many decisions were made, for a progress bar.

    Raises:
        ValueError: no items, or `rate_patterns` were drawn for others.
    """
    if not items:
        raise ValueError("there is nothing to evaluate")
    presences = [item.utterance.presence for item in items]
    ids = tuple(item.id for item in items)
    if rate_patterns is None:
        rate_patterns = RatePatterns.draw(ids, presences, PATTERN_SEED)
    elif rate_patterns.ids != ids:
        raise ValueError("the missing rates were drawn for other items")
    table = _DecisionTable(predictor, items, batch_size, advance)
    for subset in SUBSETS:
        table.decide((index, subset) for index in table.having(subset))
    for kept in rate_patterns.kept.values():
        table.decide(enumerate(kept))
    return Evaluation(
        classes=list(classes),
        n=len(items),
        patterns={
            subset.name: PatternScores(
                **table.scores((index, subset) for index in table.having(subset)),
                left_out=len(items) - len(table.having(subset)),
            )
            for subset in SUBSETS
        },
        rates={str(rate): table.scores(enumerate(kept)) for rate, kept in rate_patterns.kept.items()},
        decided_by={
            kind: {
                subset.name: table.scores((i, subset) for i in table.having(subset) if items[i].decided_by == kind)
                for subset in SUBSETS
            }
            for kind in _kinds(items)
        },
        key_missing=_key_missing(table),
        gate=_gate(table),
    )


Case = tuple[int, Presence]
"""Position of an item, and what it keeps."""


class _DecisionTable:
    """Each case's decision, made once."""

    def __init__(
        self, predictor: Predictor, items: Sequence[Item], batch_size: int, advance: Callable[[int], None] | None
    ) -> None:
        self.items = items
        self._predictor, self._batch_size, self._advance = predictor, batch_size, advance
        self._decisions: dict[Case, DecisionLike] = {}
        self._having = {
            subset: [i for i, item in enumerate(items) if subset.present <= item.utterance.presence.present]
            for subset in SUBSETS
        }

    def __getitem__(self, case: Case) -> DecisionLike:
        return self._decisions[case]

    def having(self, subset: Presence) -> Sequence[int]:
        """Positions of the items that have all of a subset's modalities."""
        return self._having[subset]

    def decide(self, cases: Iterable[Case]) -> None:
        """Decide those that are not yet."""
        waiting = [case for case in dict.fromkeys(cases) if case not in self._decisions]
        for start in range(0, len(waiting), self._batch_size):
            batch = waiting[start : start + self._batch_size]
            utterances = [self.items[index].utterance.keep(kept) for index, kept in batch]
            # The gate is measured where exactly one modality is missing: only there both paths are worth their cost.
            both_paths = any(kept in ONE_MISSING for _, kept in batch)
            decisions = self._predictor.decide(utterances, both_paths=both_paths)
            self._decisions.update(zip(batch, decisions, strict=True))
            if self._advance is not None:
                self._advance(len(batch))

    def labels(self, cases: Iterable[Case]) -> npt.NDArray[np.int64]:
        """The true classes."""
        return np.array([self.items[index].label for index, _ in cases], dtype=np.int64)

    def scores(self, cases: Iterable[Case]) -> Scores:
        """Accuracy and macro-F1 of the decisions."""
        counted = list(cases)
        decided = np.array([self[case].label_index for case in counted], dtype=np.int64)
        return _scores(self.labels(counted), decided)


def _kinds(items: Sequence[Item]) -> list[str]:
    return sorted({item.decided_by for item in items if item.decided_by is not None})


def _scores(truth: npt.NDArray[np.int64], decided: npt.NDArray[np.int64]) -> Scores:
    if truth.size == 0:
        return Scores(accuracy=None, macro_f1=None, n=0)
    return Scores(accuracy=accuracy(truth, decided), macro_f1=macro_f1(truth, decided), n=truth.size)


def _key_missing(table: _DecisionTable) -> dict[str, Any] | None:
    """The detector, over complete items with each modality in turn taken away.

    A missing modality is key in truth if the complete input's decision differs from that of what is present, and is
    right.
    """
    complete = table.having(COMPLETE)
    if not complete:
        return None
    cases = [(index, kept) for kept in ONE_MISSING for index in complete]
    truth = np.array([_is_key(table, case) for case in cases])
    detected = np.array([bool(table[case].key_modalities) for case in cases])
    scores = np.array([table[case].key_score for case in cases], dtype=np.float64)

    pattern = np.array([ONE_MISSING.index(kept) for _, kept in cases])
    kind = np.array([table.items[index].decided_by or "" for index, _ in cases])

    def part(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return asdict(detection(truth[mask], detected[mask], scores[mask]))

    return {
        **part(np.ones(len(cases), dtype=np.bool_)),
        "by_pattern": {kept.name: part(pattern == position) for position, kept in enumerate(ONE_MISSING)},
        "by_decided_by": {name: part(kind == name) for name in sorted(set(kind.tolist()) - {""})},
    }


def _is_key(table: _DecisionTable, case: Case) -> bool:
    index, _ = case
    whole = table[index, COMPLETE].label_index
    return whole == table.items[index].label and whole != int(np.argmax(table[case].available))


def _gate(table: _DecisionTable) -> dict[str, Any] | None:
    """The gate against always taking one path, over complete items with each modality in turn taken away.

    The differences' intervals resample items, each with its three patterns.
    """
    complete = table.having(COMPLETE)
    cases = [[(index, kept) for index in complete] for kept in ONE_MISSING]
    paths: dict[str, list[list[int]]] = {"gated": [], "transformer": [], "ensemble": []}  # path → pattern → decisions
    for row in cases:
        decisions = [table[case] for case in row]
        transformer = [d.transformer for d in decisions if d.transformer is not None]
        ensemble = [d.ensemble for d in decisions if d.ensemble is not None]
        if not row or len(transformer) < len(row) or len(ensemble) < len(row):
            return None  # this predictor has no two paths
        paths["gated"].append([d.label_index for d in decisions])
        paths["transformer"].append([int(np.argmax(p)) for p in transformer])
        paths["ensemble"].append([int(np.argmax(p)) for p in ensemble])
    decided = {path: np.array(rows, dtype=np.int64) for path, rows in paths.items()}  # (3 patterns, N)
    used = np.array([[table[case].ensemble_used for case in row] for row in cases])  # (3, N)
    truth = table.labels(cases[0])  # (N,)
    truths = np.broadcast_to(truth, used.shape)

    def compare(metric: Metric, other: str) -> dict[str, float]:
        return asdict(paired_bootstrap(truth, decided["gated"], decided[other], metric=metric, runs="pool"))

    return {
        "n": int(used.size),
        "inconsistent": int(used.sum()),
        "share": float(used.mean()),
        "on_inconsistent": {path: _scores(truths[used], rows[used]) for path, rows in decided.items()},
        "on_all": {path: _scores(truths.ravel(), rows.ravel()) for path, rows in decided.items()},
        "by_pattern": {
            kept.name: {
                "n": len(complete),
                "inconsistent": int(used[row].sum()),
                "share": float(used[row].mean()),
                **{path: _scores(truth[used[row]], rows[row][used[row]]) for path, rows in decided.items()},
            }
            for row, kept in enumerate(ONE_MISSING)
        },
        "gated_minus": {
            other: {"accuracy": compare("accuracy", other), "macro_f1": compare("macro_f1", other)}
            for other in ("transformer", "ensemble")
        },
    }
