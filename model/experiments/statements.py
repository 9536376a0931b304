"""Sentences of the reproduction report that are generated from its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from model.config import EMMR, SYSTEMS
from model.experiments.comparisons import CONDITIONS, ENSEMBLE_PATH, TRANSFORMER_PATH, Comparison, SplitAnswers
from model.experiments.figures import NAMES
from model.experiments.measures import NOT_RUN, Measures
from model.modality import MODALITIES, SUBSETS
from model.training.missing_patterns import RATES

RANKED: Final[Mapping[str, tuple[str, float, int]]] = {
    "macro_f1": ("macro-F1", 100.0, 2),
    "accuracy": ("accuracy", 100.0, 2),
    "log_loss": ("log loss", 1.0, 3),
    "calibration_error": ("calibration error", 100.0, 2),
}
"""Metric → name, factor and digits. The last two are measured by subset only, and the lowest is the best."""
COMPARED_NAMES: Final[Mapping[str, str]] = {
    **NAMES,
    **{name: f"EMMR with {NAMES[name]} only" for name in ("tf", "tf+ae", "tf+mmin")},
    **{name: f"EMMR with {name} for attention" for name in ("maximum", "average")},
    **{name: f"EMMR with {NAMES[name]} losses" for name in ("kl", "mae", "cosine")},
    TRANSFORMER_PATH: "transformer path alone",
    ENSEMBLE_PATH: "ensemble always",
}
"""Names of what is compared with EMMR."""


def ranking(measures: Measures, corpus: str, split: str, metric: str) -> str:
    """Where EMMR's mean is the best of all systems, and which system's is where it is not.

    Args:
        measures: of the grid.
        corpus: its name.
        split: part of the corpus.
        metric: one of `RANKED`.
    """
    name, scale, digits = RANKED[metric]
    lowest = metric in {"log_loss", "calibration_error"}
    places = {} if lowest else {f"at η = {rate:g}": ("rates", str(rate)) for rate in RATES[1:]}
    places |= {f"with {subset.name}": ("subsets", subset.name) for subset in SUBSETS}
    better, compared = [], 0
    for place, (protocol, condition) in places.items():
        means = {
            system: mean
            for system in SYSTEMS
            if (mean := measures.mean(corpus, system, split, protocol, condition, metric)) is not None
        }
        if EMMR not in means or len(means) < 2:
            continue
        compared += 1
        best = (min if lowest else max)(means, key=lambda system: means[system])
        if means[best] != means[EMMR]:
            given, own = (f"{scale * means[system]:.{digits}f}" for system in (best, EMMR))
            better.append(f"{NAMES[best]} {place} ({given} against {own})")
    if not compared:
        return f"{name}: {NOT_RUN}."
    word = "lowest" if lowest else "highest"
    found = f"{name}: the mean of EMMR is the {word} in {compared - len(better)} of {compared} conditions"
    return found + (f"; {'lower' if lowest else 'higher'}: {', '.join(better)}." if better else ".")


def rarest_class(answers: SplitAnswers) -> str:
    """How many items each class has, and how often each system answers the rarest one, given every modality.

    A system that answers the rarest class more often than it occurs can have a higher macro-F1 and a lower accuracy.
    """
    counts = np.bincount(answers.labels, minlength=len(answers.classes))
    items = ", ".join(f"{name} {count}" for name, count in zip(answers.classes, counts, strict=True))
    rarest = int(counts.argmin())
    shares = ", ".join(
        f"{NAMES[system]} {100 * np.mean(answers.decisions[system][:, 0] == rarest):.1f} %"
        for system in SYSTEMS
        if system in answers.decisions
    )
    return (
        f"Items by class: {items}. Macro-F1 gives each class the same weight, accuracy each item. Given all "
        f"modalities, {answers.classes[rarest]} ({100 * counts[rarest] / counts.sum():.1f} % of the items) is answered "
        f"by: {shares}."
    )


def differences(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> Iterator[str]:
    """What the macro-F1 intervals of each pair show, one sentence each."""
    words = {1: "higher", -1: "lower", 0: "no difference"}
    for pair in dict.fromkeys((c.first, c.second) for c in comparisons):
        found = {c.condition: c.outcome for c in comparisons if (c.first, c.second) == pair and c.metric == "macro_f1"}
        parts = []
        for outcome, word in words.items():
            places = [condition for condition in CONDITIONS if found[condition] == outcome]
            rates = ", ".join(f"{rate:g}" for rate in RATES if str(rate) in places)
            missing = [f"with {place}" for place in places if place not in map(str, RATES)]
            if places:
                parts.append(f"{word} {', '.join([f'at η = {rates}', *missing] if rates else missing)}")
        yield f"{names[pair[0]]} minus {names[pair[1]]}: {'; '.join(parts)}."


def reconstruction(measures: Measures, rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """For which missing modalities the network is nearer to the true sequence than the training mean.

    Args:
        measures: of the grid.
        rows: name, corpus and variant.
    """
    for name, corpus, variant in rows:
        nearer = []
        for modality in MODALITIES:
            network, mean = (
                measures.mean(corpus, variant, "test", "reconstruction", modality, kind) for kind in ("network", "mean")
            )
            if network is not None and mean is not None:
                nearer.append((network > mean, modality.value))
        if nearer:
            won, lost = ([modality for is_nearer, modality in nearer if is_nearer is kind] for kind in (True, False))
            yield (
                f"{name}: the network is nearer than the training mean for {', '.join(won) or 'no modality'}, "
                f"farther for {', '.join(lost) or 'none'}."
            )
