"""The model card of a weights folder.

For: `README.md` beside the weights: what they are, what they were trained on and under which terms, how good they are
on what, and on whom they must not be used.
Does not know: how the figures were measured.
"""

from collections.abc import Iterator, Mapping

from rich.table import Table

from model.training.corpora.base import Corpus
from model.training.evaluation import Evaluation
from model.training.progress import FitReport
from model.training.report import markdown, tables
from model.training.settings import Recipe

COMPOSITE_TERMS = """\
## Data and its terms

Trained on a *composite* corpus: every signal in it is real, and **its tri-modal rows are composed**. Each row pairs a
real sentence with the voice and face of a clip of another origin; no person said that sentence with that voice and face
(the 104 test rows marked `native` excepted). Figures on it say how well three real signals are combined and their
absence handled, not how well a natural recording is read. Every clip, of the test part too, says one of the same two
sentences: what the weights know of the course of a voice through a sentence they know of these.

| Signal | Source | Terms |
| --- | --- | --- |
| Voice, and OpenFace action units of the face | RAVDESS, 20 actors (Livingstone & Russo 2018) | CC BY-NC-SA 4.0 |
| Sentences | MELD (Poria et al. 2019) | GPL-3.0 repository |
| Sentences | CMU-MOSI (Zadeh et al. 2016) | research use |
| Text encoder | all-MiniLM-L6-v2 | Apache-2.0 |

Actors 1–16 train, 17–18 validate, 19–20 test; sentences are split by dialogue or video. The weights inherit the most
restrictive terms: **CC BY-NC-SA 4.0**, see LICENSE. None of the data is contained in them or shipped with them.
"""

USE = """\
## What it is for, and what it must not be used for

For research on, and non-commercial analysis of, recordings whose speakers agreed to it, where a person reads the answer
together with its confidence and its note on missing modalities.

It must not be used to judge or decide about people: not in hiring, education, policing, border control, insurance,
credit, medicine or the workplace; not on children; not on anyone who has not agreed; not to infer what a person
*feels*. It learned English sentences and twenty North American actors who overact on purpose. Accents, languages, ages,
skin tones, disabilities and conditions of recording that are not among them were not tested, and it should be expected
to be worse on them. Real calls and interviews are quieter than acted speech.
"""


def model_card(
    recipe: Recipe,
    corpus: Corpus,
    reports: Mapping[int, FitReport],
    evaluations: Mapping[int, Evaluation],
    shipped: int,
) -> str:
    """Markdown.

    Args:
        recipe: what was trained.
        corpus: on what.
        reports: seed → how its run went.
        evaluations: seed → test figures; empty where the corpus has no test part.
        shipped: the seed whose weights lie beside the card.
    """
    config = recipe.model
    network = config.network
    rank = config.text.adapter_rank
    adapted = f", low-rank adapters of rank {rank}" if rank else ""
    parts = [
        f"# {config.name}\n",
        f"EMMR weights for {' / '.join(config.classes)}, from any subset of text, voice and OpenFace face features.\n",
        f"- Text: {config.text.encoder}, {config.text.size} features, at most {config.text.max_tokens} tokens{adapted}",
        f"- Voice: {config.audio.size} acoustic features at 31.25 frames a second",
        f"- Face: OpenFace 2 columns `{config.visual.columns}` ({config.visual.size}), {config.visual.reduce}",
        (
            f"- Slots: text {config.slots.text}, audio {config.slots.audio}, visual {config.slots.visual}, "
            f"longer input: {config.slots.reduction}; hidden {network.hidden}"
        ),
        (
            f"- Trained on: {corpus.name}, {len(corpus.examples('train'))} training and {len(corpus.examples('val'))} "
            f"validation items; {len(reports)} seed(s)\n"
        ),
    ]
    if corpus.name == "composite":
        parts.append(COMPOSITE_TERMS)
    parts.append(USE)
    parts += [
        "## Selection\n",
        "| Seed | Best epoch | Validation macro-F1 (mean of the patterns) | |",
        "| --- | ---: | ---: | --- |",
    ]
    parts += [
        f"| {seed} | {report.best_epoch} | {report.best_macro_f1:.4f} | {'shipped' if seed == shipped else ''} |"
        for seed, report in reports.items()
    ]
    parts.append("")
    if evaluations:
        if len(evaluations) > 1:
            parts += [
                f"## Test figures, mean ± standard deviation of {len(evaluations)} seeds\n",
                markdown(list(evaluations.values())),
            ]
        for table in tables(evaluations[shipped]):
            parts += [f"## {table.title} (shipped seed)\n", *_markdown_rows(table), ""]
    return "\n".join(parts)


def _markdown_rows(table: Table) -> Iterator[str]:
    """A table for the screen as lines of a Markdown one."""
    yield "| " + " | ".join(str(column.header) for column in table.columns) + " |"
    yield "|" + " --- |" * len(table.columns)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield "| " + " | ".join(map(str, cells)) + " |"
