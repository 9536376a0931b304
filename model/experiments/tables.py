"""The tables of the reproduction report: the paper's, with its published figures beside them, and further ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from model.config import SYSTEMS
from model.experiments.comparisons import CONDITIONS, Comparison, SplitAnswers
from model.experiments.figures import NAMES
from model.experiments.measures import NOT_RUN, Measures, spread
from model.experiments.results import CellResult
from model.modality import MODALITIES, SUBSETS
from model.training.missing_patterns import RATES
from model.training.report import GATES, ReportTable

PUBLISHED: Final = Path(__file__).with_name("published.yaml")
NOTHING: Final = "–"
METRICS: Final[dict[str, str]] = {"macro_f1": "macro-F1 (%)", "accuracy": "accuracy (%)"}
CASES: Final = 4  # shown of each kind
RIVALS: Final = ("tate", "mmin")
"""The systems that the cases compare EMMR with."""
_SCORES: Final = {"one_minus_max": "1 − max", "entropy": "entropy", "verdict": "verdict"}
_RATES: Final = {str(rate): f"η = {rate:g}" for rate in RATES}
_SUBSETS: Final = {subset.name: subset.name for subset in SUBSETS}

Row = tuple[str, str, str]  # name, corpus, variant
Figures = Mapping[str, Mapping[str, Sequence[str]]]  # row → metric → figures as they were published


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of `published.yaml`.

    Args:
        conditions: of its columns.
        rows: name → metric → figures as text; metric is empty where there is one only.
    """

    conditions: tuple[str, ...]
    rows: Figures

    def at(self, row: str, metric: str, condition: str) -> str:
        """A figure as it was published; a dash where there is none."""
        figures = self.rows.get(row, {}).get(metric, ())
        if condition not in self.conditions or not figures:
            return NOTHING
        return figures[self.conditions.index(condition)].replace("±", " ± ")


@dataclass(frozen=True, slots=True)
class Published:
    """What others published.

    Args:
        paper: name of a table → the paper's.
        later: name of a table → figures of later methods.
        sources: name of a table of `later`, or `paper` → where the figures are from.
    """

    paper: Mapping[str, PublishedTable]
    later: Mapping[str, PublishedTable]
    sources: Mapping[str, str]

    @classmethod
    def load(cls, path: Path = PUBLISHED) -> "Published":
        """Read the packaged file."""
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        paper, later = content["paper"], content["later"]
        return cls(
            paper={name: _published(table) for name, table in paper.items() if name != "source"},
            later={name: _published(table) for name, table in later.items()},
            sources={"paper": paper["source"], **{name: table["source"] for name, table in later.items()}},
        )


def _published(table: Mapping[str, Any]) -> PublishedTable:
    rows = {
        name: {m: f.split() for m, f in (figures if isinstance(figures, dict) else {"": figures}).items()}
        for name, figures in table["rows"].items()
    }
    return PublishedTable(tuple(table["conditions"].split()), rows)


def system_rows(corpus: str) -> list[Row]:
    """A row for every system."""
    return [(NAMES[system], corpus, system) for system in SYSTEMS]


def by_condition(
    measures: Measures,
    title: str,
    rows: Sequence[Row],
    protocol: str,
    metric: str,
    columns: Mapping[str, str],
    *,
    split: str = "test",
    published: PublishedTable | None = None,
    scale: float = 100.0,
    digits: int = 2,
    best: Callable[[Sequence[float]], float] | None = max,
) -> ReportTable:
    """Mean ± standard deviation over seeds, a row for each variant and a column for each condition.

    Args:
        measures: of the grid.
        title: of the table.
        rows: what is compared.
        protocol: of the figures.
        metric: of the figures.
        columns: condition → heading.
        split: part of the corpus.
        published: the paper's table, whose row stands below that of the variant.
        scale: what figures are multiplied with.
        digits: after the point.
        best: `max` or `min`, by which the best mean of a column is in bold; None for none.
    """
    means = {
        (corpus, variant, condition): round(scale * mean, digits)
        for _, corpus, variant in rows
        for condition in columns
        if (mean := measures.mean(corpus, variant, split, protocol, condition, metric)) is not None
    }
    leading = {}
    for condition in columns if best is not None and len(rows) > 1 else ():
        values = [mean for (*_, other), mean in means.items() if other == condition]
        leading[condition] = best(values) if best is not None and values else None
    cells = []
    for name, corpus, variant in rows:
        by_column = {c: measures.values(corpus, variant, split, protocol, c, metric) for c in columns}
        seeds = max(map(len, by_column.values()))
        line = [name, str(seeds) if seeds else NOT_RUN]
        for condition, values in by_column.items():
            text = spread(values, scale, digits) if values else NOTHING
            bold = values and means[corpus, variant, condition] == leading.get(condition)
            line.append(f"**{text}**" if bold else text)
        cells.append(line)
        # Table 4 has a corpus for each row, the others have a variant.
        key = next((key for key in (corpus, variant) if published is not None and key in published.rows), None)
        if published is not None and key is not None:
            cells.append([f"{name}, published", "", *(published.at(key, metric, c) for c in columns)])
    return ReportTable(title, ["", "seeds", *columns.values()], cells)


def by_rate(
    measures: Measures,
    rows: Sequence[Row],
    *,
    title: str = "By missing rate",
    split: str = "test",
    published: PublishedTable | None = None,
) -> Iterator[ReportTable]:
    """Macro-F1 and accuracy by missing rate."""
    for metric, heading in METRICS.items():
        yield by_condition(
            measures, f"{title}: {heading}", rows, "rates", metric, _RATES, split=split, published=published
        )


def by_subset(measures: Measures, corpus: str, split: str, title: str) -> Iterator[ReportTable]:
    """Macro-F1 and accuracy of every system with each of the seven subsets."""
    rows = system_rows(corpus)
    for metric, heading in METRICS.items():
        yield by_condition(measures, f"{title}: {heading}", rows, "subsets", metric, _SUBSETS, split=split)


def calibration(measures: Measures, corpus: str, split: str, title: str) -> Iterator[ReportTable]:
    """Calibration error and log loss of every system with each subset."""
    figures = {
        "calibration_error": ("expected calibration error, 15 bins (%)", 100.0),
        "log_loss": ("log loss (nats)", 1),
    }
    for metric, (heading, scale) in figures.items():
        yield by_condition(
            measures, title + heading, system_rows(corpus), "subsets", metric, _SUBSETS,
            split=split, scale=scale, digits=2 if scale > 1 else 3, best=min,
        )  # fmt: skip


def unseen(measures: Measures, corpus: str, title: str) -> ReportTable:
    """Unweighted average recall on voices of corpora that are in no training part."""
    title = f"{title}unweighted average recall (%)"
    return by_condition(measures, title, system_rows(corpus), "subsets", "uar", _SUBSETS, split="ood")


def key_missing(measures: Measures, corpus: str, split: str = "test") -> ReportTable:
    """How well each system's own scores rank the cases whose key modality is missing."""
    parts = {"one_missing": "one missing", "two_missing": "two missing"}
    headers = ["", "seeds", "score"]
    for part in parts.values():
        headers += [f"AUROC, {part}", f"average precision, {part}", f"positives, {part}"]
    cells = []
    for system in SYSTEMS:
        for score, name in _SCORES.items():

            def values(metric: str, part: str, system: str = system, score: str = score) -> list[float]:
                return measures.values(corpus, system, split, "key-missing", f"{part} {score}", metric)

            seeds = max(len(values("n", part)) for part in parts)
            if not seeds and (score == "verdict" or score != "one_minus_max"):
                continue
            line = [NAMES[system], str(seeds) if seeds else NOT_RUN, name if seeds else NOTHING]
            for part in parts:
                n, positives = values("n", part), values("positives", part)
                share = f"{np.mean(positives):,.0f} of {np.mean(n):,.0f}" if n else NOTHING
                ranked = [values(metric, part) for metric in ("auroc", "average_precision")]
                line += [*(spread(v, 1, 3) if v else NOTHING for v in ranked), share]
            cells.append(line)
    return ReportTable("Ranking of the cases whose key modality is missing", headers, cells)


def gate(measures: Measures, rows: Sequence[Row], split: str = "test") -> ReportTable:
    """How often each gate takes EMMR's ensemble, and macro-F1, over all six incomplete subsets together."""
    headers = ["", "seeds"]
    for name in GATES.values():
        headers += [f"{name}: used (%)", f"{name}: macro-F1 (%)"]
    cells = []
    for name, corpus, variant in rows:
        found = [
            measures.values(corpus, variant, split, "gate", gate, metric)
            for gate in GATES
            for metric in ("share", "macro_f1")
        ]
        seeds = max(map(len, found))
        cells.append([name, str(seeds) if seeds else NOT_RUN, *(spread(v) if v else NOTHING for v in found)])
    return ReportTable("Gates", headers, cells)


def reconstruction(measures: Measures, rows: Sequence[Row]) -> ReportTable:
    """Cosine similarity of a missing modality's reconstruction to the true sequence in the common space."""
    kinds = {"network": "network", "mean": "training mean", "copy": "mean of the present"}
    headers = ["", "seeds", *(f"{modality}: {kind}" for modality in MODALITIES for kind in kinds.values())]
    cells = []
    for name, corpus, variant in rows:
        found = [
            measures.values(corpus, variant, "test", "reconstruction", modality, kind)
            for modality in MODALITIES
            for kind in kinds
        ]
        seeds = max(map(len, found))
        cells.append([name, str(seeds) if seeds else NOT_RUN, *(spread(v, 1, 3) if v else NOTHING for v in found)])
    return ReportTable("Cosine similarity to the true sequence", headers, cells)


def cost(measures: Measures, corpus: str) -> ReportTable:
    """Parameters, operations and time of one complete utterance, and seconds of training."""
    columns = {
        ("cost", "", "parameters"): ("trained parameters", 1, 0),
        ("cost", "", "operations"): ("operations (million)", 1e-6, 2),
        ("cost", "", "ms"): ("ms, batch of 1", 1, 2),
        ("time", "train", "seconds"): ("training (s)", 1, 0),
    }
    cells = []
    for system in SYSTEMS:
        found = {key: measures.values(corpus, system, "", *key) for key in columns}
        seeds = max(map(len, found.values()))
        line = [NAMES[system], str(seeds) if seeds else NOT_RUN]
        for key, (_, scale, digits) in columns.items():
            counted = found[key][:1] if key[2] in {"parameters", "operations"} else found[key]
            line.append(spread(counted, scale, digits) if any(counted) else NOTHING)
        cells.append(line)
    return ReportTable("Cost", ["", "seeds", *(heading for heading, *_ in columns.values())], cells)


def seconds(measures: Measures, corpus: str, published: PublishedTable) -> ReportTable:
    """Time of training and testing by branches, beside the paper's on its two devices."""
    headers = ["", "seeds", "training (s)", "epochs", "testing (s)"]
    headers += [f"{what}, {gpu}, published (s)" for what in ("training", "testing") for gpu in published.conditions]
    cells = []
    for variant, name in {"tf": "TF", "tf+ae": "TF+AE", "emmr": "TF+AE+MMIN (EMMR)"}.items():
        found = [
            measures.values(corpus, variant, "", "time", *key)
            for key in (("train", "seconds"), ("", "epochs"), ("test", "seconds"))
        ]
        ours = [spread(values, 1, 1) if values else NOTHING for values in found]
        theirs = [published.at(variant, what, gpu) for what in ("train", "test") for gpu in published.conditions]
        cells.append([name, str(len(found[0])) if found[0] else NOT_RUN, *ours, *theirs])
    return ReportTable("Seconds", headers, cells)


def later(measures: Measures, corpus: str, published: PublishedTable, protocol: str) -> ReportTable:
    """Two-class F1 of our systems, and of later methods as published.

    Args:
        measures: of the grid.
        corpus: CMU-MOSI.
        published: figures of later methods.
        protocol: `subsets` or `rates`.
    """
    columns = [condition for condition in published.conditions if condition != "mean"]
    cells = []
    for system in SYSTEMS:
        found = [measures.values(corpus, system, "test", protocol, c, "two_class_f1") for c in columns]
        seeds = max(map(len, found))
        ours = [spread(values, 100, 1) if values else NOTHING for values in found]
        if protocol == "subsets" and seeds:
            ours.append(spread(np.mean(found, axis=0).tolist(), 100, 1))
        elif "mean" in published.conditions:
            ours.append(NOTHING)
        cells.append([NAMES[system], str(seeds) if seeds else NOT_RUN, *ours])
    for name in published.rows:
        figures = [published.at(name, "", c) for c in published.conditions]
        cells.append([f"{name}, published", "", *figures])
    return ReportTable("F1 of two classes (%)", ["", "seeds", *published.conditions], cells)


def as_published(title: str, published: PublishedTable, metrics: Mapping[str, str]) -> Iterator[ReportTable]:
    """A published table alone.

    Args:
        title: of the tables.
        published: the figures.
        metrics: metric of the table → its heading.
    """
    for metric, heading in metrics.items():
        rows = [[NAMES.get(r, r), *(published.at(r, metric, c) for c in published.conditions)] for r in published.rows]
        yield ReportTable(f"{title}{heading}", ["", *(_RATES.get(c, c) for c in published.conditions)], rows)


def differences(comparisons: Sequence[Comparison], metric: str, names: Mapping[str, str]) -> ReportTable:
    """Every comparison with its interval, in points; ▲ higher, ▼ lower at 95%."""
    pairs = dict.fromkeys((c.first, c.second) for c in comparisons)
    cells = []
    for pair in pairs:
        found = {c.condition: c for c in comparisons if (c.first, c.second) == pair and c.metric == metric}
        cells.append([f"{names[pair[0]]} − {names[pair[1]]}", *(_difference(found[c]) for c in CONDITIONS)])
    title = f"Difference in {METRICS[metric].removesuffix(' (%)')} (points)"
    return ReportTable(title, ["", *(_RATES.get(c, c) for c in CONDITIONS)], cells)


def _difference(comparison: Comparison) -> str:
    interval = comparison.interval
    low, middle, high = (
        f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 0.0005 else "0.0"
        for value in (interval.low, interval.difference, interval.high)
    )
    sign = {1: "▲ ", -1: "▼ ", 0: ""}[comparison.outcome]
    return f"{sign}{middle} [{low}, {high}]"


def cases(answers: SplitAnswers) -> tuple[ReportTable, tuple[int, int, int], int] | None:
    """Single items on which EMMR and both of `RIVALS` differ in being right, chosen by rule.

    Items are taken in the order of their ids and subsets with one missing modality in the order of `SUBSETS`; the first
    `CASES` items where EMMR is right and both rivals are wrong, then as many the other way round.

    Returns:
        The table; how many cases there are of the first and of the second kind, and in all; the seed. None unless
        the three systems have a seed in common.
    """
    of, needed = answers.probabilities, ("emmr", *RIVALS)
    shared = set.intersection(*(set(of.get(name, ())) for name in needed))
    if not shared:
        return None
    seed = min(shared)
    shown = {system: of[system][min(of[system], key=lambda s: (s != seed, s))] for system in SYSTEMS if system in of}
    right = {system: table[1:4].argmax(axis=-1) == answers.labels for system, table in shown.items()}  # (3, N)
    rivals = np.stack([right[rival] for rival in RIVALS])
    kinds = (right["emmr"] & ~rivals.any(axis=0), ~right["emmr"] & rivals.all(axis=0))
    rows = []
    for kind in kinds:
        chosen = [item for item in sorted(range(len(answers.ids)), key=lambda i: answers.ids[i]) if kind[:, item].any()]
        for item in chosen[:CASES]:
            row = int(kind[:, item].argmax()) + 1
            line = [answers.ids[item], SUBSETS[row].missing[0].value, answers.classes[answers.labels[item]]]
            for table in shown.values():
                given = table[row, item]
                sign = "✓" if given.argmax() == answers.labels[item] else "✗"
                line.append(f"{sign} {answers.classes[given.argmax()]} {given.max():.2f}")
            rows.append(line)
    counts = int(kinds[0].sum()), int(kinds[1].sum()), kinds[0].size
    return ReportTable("Cases", ["item", "missing", "true class", *(NAMES[s] for s in shown)], rows), counts, seed


def runs(results: Sequence[CellResult], corpora: Mapping[str, str]) -> ReportTable:
    """How many cells were run, by corpus."""
    cells = []
    for corpus, title in corpora.items():
        own = [result for result in results if result.corpus == corpus]
        variants = dict.fromkeys(result.variant for result in own)
        seeds = sorted({result.seed for result in own})
        hours = sum(value or 0.0 for result in own for value in result.seconds.values()) / 3600
        items = max((result.evaluations["test"]["n"] for result in own), default=0)
        line = [str(len(own)), str(len(variants)), ", ".join(map(str, seeds)), f"{items:,}", f"{hours:.2f}"]
        cells.append([title, *line] if own else [title, NOT_RUN, *[NOTHING] * 4])
    return ReportTable("Cells", ["corpus", "cells", "variants", "seeds", "test items", "processor hours"], cells)
