"""The sections of the reproduction report: which tables, figures and sentences it has, and under which protocol."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from model.config import EMMR
from model.experiments import figures, statements, tables
from model.experiments.comparisons import (
    Comparison,
    SplitAnswers,
    best_baseline,
    compare,
    read_answers,
)
from model.experiments.figures import NAMES, Figure
from model.experiments.measures import NOT_RUN, Measures
from model.experiments.results import CellResult
from model.experiments.tables import METRICS, Published, Row
from model.modality import SUBSETS
from model.training.metrics import CONFIDENCE, RESAMPLES
from model.training.missing_patterns import RATES
from model.training.report import ReportTable

MOSI: Final = "mosi"
STATIC: Final = "mosi-static"
CLASSES: Final = (2, 4, 7)
"""Numbers of classes that the composite corpus is run with beside three."""
CORPORA: Final[Mapping[str, str]] = {
    MOSI: "CMU-MOSI",
    "composite2": "Composite 2",
    "composite": "Composite",
    **{f"composite-{n}": f"Composite, {n} classes" for n in CLASSES},
    STATIC: "CMU-MOSI, static word vectors",
}
COMPARED: Final = (MOSI, "composite2", "composite")
"""The corpora that all systems are compared on."""
SPLITS: Final = {"test": "test", "ood": "unseen voices"}

Block = str | Sequence[str] | ReportTable | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Args:
        title: heading.
        blocks: paragraphs, lists of sentences, tables and figures, in order.
    """

    title: str
    blocks: Sequence[Block]

    @property
    def slug(self) -> str:
        """Its anchor."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


class Report:
    """The sections of a report.

    Args:
        results: finished cells, in a fixed order.
        published: figures of others.
    """

    def __init__(self, results: Sequence[CellResult], published: Published) -> None:
        self.results, self.published = results, published
        self.measures = Measures(results)
        others = dict.fromkeys(result.corpus for result in results if result.corpus not in CORPORA)
        self.compared: Final = (*COMPARED, *others)
        self.titles: Final = {**CORPORA, **{corpus: corpus for corpus in others}}

    @cached_property
    def answers(self) -> dict[tuple[str, str], SplitAnswers]:
        """Corpus and part → every answer."""
        parts = ((corpus, split) for corpus in self.compared for split in SPLITS)
        return {part: found for part in parts if (found := read_answers(self.results, *part)) is not None}

    @cached_property
    def comparisons(self) -> dict[tuple[str, str], list[Comparison]]:
        """Corpus and part → every comparison."""
        return {part: found for part, answers in self.answers.items() if (found := list(compare(answers)))}

    def sections(self) -> Iterator[Section]:
        """Those of the corpora that were run, in order."""
        yield Section("What was run", [*self._runs()])
        if self.answers:
            yield Section("Where EMMR is and is not the best", [*self._best()])
        for corpus in filter(self._has, self.compared):
            yield Section(f"Table 1: {self.titles[corpus]}", [*self._systems(corpus)])
        if self._has(MOSI):
            yield Section("Table 1: IEMOCAP, published only", [*self._iemocap()])
            yield Section("Table 2: single and paired modalities, losses", [*self._modules()])
            yield Section("Table 3: ensembles", [*self._ensembles()])
        if any(self._has(f"composite-{n}") for n in CLASSES):
            yield Section("Table 4: number of classes", [*self._classes()])
        if self._has(STATIC):
            yield Section("Figure 4: word vectors", [*self._embeddings()])
        if self._has(MOSI):
            yield Section("Figure 5: losses", [*self._losses()])
            yield Section("Figure 6: cases", [*self._cases()])
            yield Section("Figure 7: joint representations", [*self._representations()])
            yield Section("Figure 9 and Table 8: parameters and time", [*self._time()])
        for part in self.answers:
            yield Section(f"Claims: {self._part(*part)}", [*self._claims(*part)])
        if self._has(MOSI):
            yield Section("Later methods", [*self._later()])
        if self.answers:
            yield Section("Gate", [*self._gate()])
            yield Section("Key missing modality", [*self._key_missing()])
            yield Section("Calibration", [*self._calibration()])
            yield Section("Reconstruction", [*self._reconstruction()])
            yield Section("Cost", [*self._cost()])
        if any(self._has(corpus, "ood") for corpus in self.compared):
            yield Section("Unseen voices", [*self._unseen()])

    def _part(self, corpus: str, split: str) -> str:
        return f"{self.titles[corpus]}, {SPLITS[split]}"

    def _has(self, corpus: str, split: str = "test") -> bool:
        return any(result.corpus == corpus and split in result.evaluations for result in self.results)

    def _runs(self) -> Iterator[Block]:
        yield (
            "Figures are mean ± sample standard deviation over the finished seeds, whose number stands in each row; "
            "one seed has no deviation. Bold: the highest mean of a column (of errors the lowest). Rows on grey and "
            "rows named “published” are typed in from the publications. Every figure is computed from runs.csv; "
            "intervals are computed from the answers of the cells."
        )
        yield tables.runs(self.results, self.titles)
        machines = {
            f"{r.machine['cpu']}, {r.machine['cores']} cores, device {r.machine['device']}, torch {r.machine['torch']}"
            for r in self.results
        }
        commits = {f"{r.commit or 'unknown'}{' with changes' if r.dirty else ''}" for r in self.results}
        yield [*(f"Machine: {m}." for m in sorted(machines)), *(f"Commit: {c}." for c in sorted(commits))]
        yield (
            "Rates: with probability η an item loses exactly one modality, drawn uniformly, the same for every system "
            "and seed. Subsets: every item with each of the seven sets of modalities. One model of each system and "
            "seed serves all rates and subsets; it is selected by validation macro-F1 alone."
        )
        yield f"Published figures of the paper: {self.published.sources['paper']}."

    def _best(self) -> Iterator[Block]:
        parts = [(corpus, split) for corpus in self.compared for split in SPLITS if self._has(corpus, split)]
        yield [
            f"{self._part(*part)}, {statements.ranking(self.measures, *part, metric)}"
            for part in parts
            for metric in statements.RANKED
        ]
        for corpus in self.compared:
            if (best := best_baseline(self.measures, corpus)) is not None:
                yield f"{self.titles[corpus]}: the best other system on validation data is {NAMES[best]}."

    def _systems(self, corpus: str) -> Iterator[Block]:
        published = self.published.paper["systems"] if corpus == MOSI else None
        if corpus == MOSI:
            yield (
                "Ours: the split of bc-LSTM, whose videos do not overlap, three classes, sentences through MiniLM, "
                "one audio and one visual vector for each utterance. Published: 1,780 / 200 / 199 utterances, BERT, "
                "OpenFace and Librosa features. The test sets and features differ, so that only orders and "
                "differences are comparable."
            )
        else:
            yield "Real sentences paired with real voices and faces of other people; no published figures exist."
        yield (
            "MCTN reads text alone. Without text it answers with the class frequencies of training, in the subsets "
            "without text as in the rates."
        )
        numbers: dict[str, dict[str, list[float]]] = {}
        if published is not None:
            numbers = {
                system: {m: [float(published.at(system, m, str(r)).split()[0]) for r in RATES] for m in METRICS}
                for system in published.rows
            }
        for split in (split for split in SPLITS if self._has(corpus, split)):
            part = self._part(corpus, split)
            if (answers := self.answers.get((corpus, split))) is not None:
                yield f"{part}. {statements.rarest_class(answers)}"
            shown = published if split == "test" else None
            yield from self._drawn(figures.rates(self.measures, corpus, split, part, numbers if shown else {}))
            rows = tables.system_rows(corpus)
            yield from tables.by_rate(
                self.measures, rows, title=f"{part}, by missing rate", split=split, published=shown
            )
            yield from tables.by_subset(self.measures, corpus, split, f"{part}, by what is present")

    def _drawn(self, figure: Figure | None) -> Iterator[Figure]:
        if figure is not None:
            yield figure

    def _iemocap(self) -> Iterator[Block]:
        yield "The paper's second corpus, two classes. It is not freely available, and was not run."
        yield from tables.as_published("IEMOCAP, ", self.published.paper["iemocap"], METRICS)

    def _modules(self) -> Iterator[Block]:
        yield (
            "CMU-MOSI, test. EMMR is trained and evaluated with the named modalities alone, or without a loss. The "
            "paper's visual, audio and text are the same modalities from other features."
        )
        names = {
            **{f"only-{subset.name}": subset.name for subset in reversed(SUBSETS[1:])},
            EMMR: "text+audio+visual (EMMR)",
            "no-forward": "without forward loss",
            "no-backward": "without backward loss",
        }
        rows: list[Row] = [(name, MOSI, variant) for variant, name in names.items()]
        yield from tables.by_rate(self.measures, rows, published=self.published.paper["modules"])

    def _ensembles(self) -> Iterator[Block]:
        yield (
            "CMU-MOSI, test. TF: the transformer branch alone; TF+AE, TF+MMIN: two branches; maximum, average: in "
            "place of the attention over three branches. With complete input (η = 0) every variant answers by its "
            "transformer path (Eq. 13), so that differences there come from training."
        )
        names = {v: NAMES[v] for v in ("tf", "tf+ae", "tf+mmin", "maximum", "average", EMMR)}
        rows: list[Row] = [(name, MOSI, variant) for variant, name in names.items()]
        yield from tables.by_rate(self.measures, rows, published=self.published.paper["ensembles"])

    def _classes(self) -> Iterator[Block]:
        yield (
            "EMMR, test. Ours: emotions of MELD sentences paired with RAVDESS clips; published: IEMOCAP. The corpora, "
            "and for 7 classes the emotions, differ."
        )
        rows: list[Row] = [(f"{n} classes", f"composite-{n}", EMMR) for n in CLASSES]
        yield from tables.by_rate(self.measures, rows, published=self.published.paper["classes"])

    def _embeddings(self) -> Iterator[Block]:
        yield (
            "CMU-MOSI, test, EMMR. The paper's Fig. 4 shows BERT and ALBERT above GloVe and Word2vec; its figures are "
            "not printed."
        )
        corpora = {MOSI: "MiniLM token vectors", STATIC: "static word vectors"}
        yield from self._drawn(figures.embeddings(self.measures, corpora))
        yield from tables.by_rate(self.measures, [(name, corpus, EMMR) for corpus, name in corpora.items()])

    def _losses(self) -> Iterator[Block]:
        yield (
            "CMU-MOSI, EMMR with KL divergence (its own), mean absolute error, and cosine distance as forward and "
            "backward loss. The paper's Fig. 5 shows training loss by step at three rates; here one model serves all "
            "rates. Values of different losses have different units; only the course of a curve is comparable."
        )
        kinds = {EMMR: "KL", "mae": "MAE", "cosine": "cosine"}
        yield from self._drawn(figures.losses(self.measures, MOSI, kinds))
        rows: list[Row] = [(name, MOSI, variant) for variant, name in kinds.items()]
        yield from tables.by_rate(self.measures, rows)

    def _cases(self) -> Iterator[Block]:
        answers = self.answers.get((MOSI, "test"))
        found = None if answers is None else tables.cases(answers)
        if found is None:
            yield NOT_RUN
            return
        table, (won, lost, total), seed = found
        rivals = " and ".join(NAMES[rival] for rival in tables.RIVALS)
        yield (
            f"CMU-MOSI, test, one modality missing. Rule: items in the order of their ids; the first {tables.CASES} "
            f"where EMMR is right and {rivals} are wrong, then the first {tables.CASES} the other way round; seed "
            f"{seed}, of a system without it the lowest. There are {won} cases of the first kind and {lost} of the "
            f"second in {total} (items × subsets). The number is the probability of the class that is answered."
        )
        yield table

    def _representations(self) -> Iterator[Block]:
        found = {
            variant: arrays
            for variant in ("tf", "tf+ae", EMMR, "no-forward", "no-backward")
            for result in self.results
            if (result.corpus, result.variant, result.seed) == (MOSI, variant, 0)
            and (arrays := result.representation()) is not None
        }
        chosen = dict(list(found.items())[:3])
        classes = next((r.evaluations["test"]["classes"] for r in self.results if r.corpus == MOSI), [])
        yield "CMU-MOSI. The paper's Fig. 7 shows TF, TF+AE and all three branches at η = 0.2 and 0.4."
        yield figures.embedded(chosen, classes) or NOT_RUN

    def _time(self) -> Iterator[Block]:
        yield (
            "CMU-MOSI. Ours: seconds of one processor core, without the preparation of features, until validation "
            "stops the training, and of all test subsets with explanations. Published: 10 epochs, and one pass, on a "
            "GPU with longer inputs. The paper's Fig. 9 has no printed figures."
        )
        yield from self._drawn(figures.parameters(self.measures, MOSI))
        yield tables.seconds(self.measures, MOSI, self.published.paper["seconds"])

    def _claims(self, corpus: str, split: str) -> Iterator[Block]:
        comparisons, answers = self.comparisons.get((corpus, split)), self.answers[corpus, split]
        if not comparisons:
            yield NOT_RUN
            return
        yield (
            f"Differences of means over seeds with {CONFIDENCE:.0%} intervals: paired bootstrap over "
            f"{len(answers.ids):,} items, {RESAMPLES:,} resamples. ▲: higher, ▼: lower, no sign: no difference at "
            f"{CONFIDENCE:.0%}. The intervals are not corrected for their number. One and two missing: the mean over "
            "the three subsets. The sentences are about macro-F1."
        )
        best = best_baseline(self.measures, corpus)
        names = dict(statements.COMPARED_NAMES)
        if best is not None:
            names[best] += " (best on validation data)"
        name = f"differences-{corpus}" + ("" if split == "test" else f"-{split}")
        text = f"{self._part(corpus, split)}: EMMR minus each system, mean over seeds, n = {len(answers.ids):,} items."
        yield from self._drawn(figures.differences(comparisons, name, text))
        yield [*statements.differences(comparisons, names)]
        for metric in METRICS:
            yield tables.differences(comparisons, metric, names)

    def _gate(self) -> Iterator[Block]:
        yield (
            "Share of the cases that take the ensemble, and macro-F1, over all six incomplete subsets of every item. "
            "The answer's gate is chosen on validation data. Intervals stand with the claims."
        )
        for split, name in SPLITS.items():
            if rows := [(self._part(c, split), c, EMMR) for c in self.compared if self._has(c, split)]:
                table = tables.gate(self.measures, rows, split)
                yield ReportTable(name.capitalize(), table.headers, table.rows)

    def _later(self) -> Iterator[Block]:
        later, sources = self.published.later, self.published.sources
        yield (
            "CMU-MOSI, F1 of negative against positive, weighted, without neutral items. Later methods are trained as "
            "regressions on the standard split (686 test utterances) with sequences of features; ours are three-class "
            "systems on the split of bc-LSTM with one audio and one visual vector, whose two-class answer is the more "
            "probable of negative and positive."
        )
        yield f"Fixed subsets. Source: {sources['subsets']}."
        yield tables.later(self.measures, MOSI, later["subsets"], "subsets")
        yield (
            f"Missing rates. Source: {sources['rates']}. Published: a share of all modalities of all items is "
            "missing, so that an item may lose two; ours: at most one is lost, which is easier at the same number."
        )
        yield tables.later(self.measures, MOSI, later["rates"], "rates")
        yield (
            "Missing parts of each modality (words, frames). Not run here: EMMR and its baselines treat a modality as "
            f"present or missing. Source: {sources['tokens']}."
        )
        yield from tables.as_published("Published (%)", later["tokens"], {"": ""})

    def _key_missing(self) -> Iterator[Block]:
        yield (
            "Cases: complete items with one or two modalities removed. True: the system's own answer to the complete "
            "item differs from its answer to the available modalities and is right, so that each system has its own "
            "cases. 1 − max and entropy are of the available answer; the verdict is EMMR's."
        )
        for corpus, split in self.answers:
            table = tables.key_missing(self.measures, corpus, split)
            yield ReportTable(self._part(corpus, split), table.headers, table.rows)

    def _calibration(self) -> Iterator[Block]:
        yield "Every system is calibrated on validation data, by a temperature for each subset."
        for corpus in filter(self._has, self.compared):
            yield from tables.calibration(self.measures, corpus, "test", f"{self._part(corpus, 'test')}, ")

    def _reconstruction(self) -> Iterator[Block]:
        yield (
            "Cosine similarity, over the slots of a missing modality, of the transformer branch's reconstruction to "
            "the true sequence in the common space; beside it the training mean of the slot and the mean of the "
            "present modalities."
        )
        ablations = ("tf", "tf+ae", "tf+mmin", "no-forward", "no-backward")
        cells = [(c, v) for c in filter(self._has, self.compared) for v in (EMMR, *(ablations if c == MOSI else ()))]
        rows = [(f"{self.titles[corpus]}: {NAMES[variant]}", corpus, variant) for corpus, variant in cells]
        yield tables.reconstruction(self.measures, rows)
        yield [*statements.reconstruction(self.measures, rows)]

    def _unseen(self) -> Iterator[Block]:
        corpora = [corpus for corpus in self.compared if self._has(corpus, "ood")]
        yield (
            "Test sentences with voices of corpora in other languages that are in no training part (EMOVO, TurEV, "
            "URDU). Rates and subsets stand with Table 1, differences with the claims."
        )
        for corpus in corpora:
            title = f"{self._part(corpus, 'ood')}, "
            yield tables.unseen(self.measures, corpus, title)
            yield from tables.calibration(self.measures, corpus, "ood", title)

    def _cost(self) -> Iterator[Block]:
        yield (
            "One complete utterance, without its features. Operations: two for each multiply-add of matrix products. "
            "Time: median of a batch of one on one core. Late fusion and best classical are scikit-learn models "
            "without counted operations."
        )
        yield from self._drawn(figures.costs(self.measures, {c: self.titles[c] for c in self.compared}))
        for corpus in filter(self._has, self.compared):
            table = tables.cost(self.measures, corpus)
            yield ReportTable(self.titles[corpus], table.headers, table.rows)
