"""The model card of a weights folder, `README.md` beside the weights: contents, data and terms, use, and figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from model.baselines.systems import TITLES
from model.config import ModelConfig
from model.modality import Modality, ModalitySet
from model.training.comparison import Comparison
from model.training.datasets.base import Corpus
from model.training.datasets.manifest import FEW, ManifestCorpus
from model.training.evaluation import Evaluation
from model.training.progress import FitReport
from model.training.reliability import MIN_CALIBRATED
from model.training.report import markdown, tables
from model.training.settings import Recipe

COMPOSITE_TERMS = """\
## Data and its terms

Trained on a *composite* corpus: every signal in it is real, and **its tri-modal rows are composed**. Each row pairs a
real sentence with a voice and a face of other people; no person said that sentence with that voice and that face.
Figures on it say how well three real signals are combined and their absence handled, not how well a natural recording
is read. `decided_by` says which signals carry the label of a row; the others are neutral.

| Signal | Source | Terms |
| --- | --- | --- |
| Voice | RAVDESS, 20 actors, North American English (Livingstone & Russo 2018) | CC BY-NC-SA 4.0 |
| Voice | nEMO, 9 speakers, Polish (Christop 2024) | CC BY-NC-SA 4.0 |
| Voice | emotiontts_kr, 15 speakers, Korean | NC-SA badge, research only |
| Face | OpenFace action units of RAVDESS (means over clips) | from an MIT-licensed repository |
| Face | OpenFace action units of RAF-DB and ExpW photographs | research use |
| Sentences | MELD (Poria et al. 2019) | GPL-3.0 repository |
| Sentences | CMU-MOSI (Zadeh et al. 2016) | research use |
| Text encoder | all-MiniLM-L6-v2 | Apache-2.0 |
| Voice encoder | Whisper tiny.en (Radford et al. 2022), two layers of its encoder | MIT |

Used for evaluation alone, never for training or selection: the voices of EMOVO (Italian), TurEV (Turkish; CC BY-NC-ND)
and URDU (Urdu television talk). RAVDESS's actors 1–16 train, 17–18 validate, 19–20 test; the other corpora are split by
speaker or picture, sentences by dialogue or video. The weights inherit the most restrictive terms: **CC BY-NC-SA 4.0,
research only**, see LICENSE. None of the data is contained in them or shipped with them.
"""

TERMS = {
    "mosi": "CMU-MOSI (Zadeh et al. 2016), research use, with the vectors of the bc-LSTM release (MIT)",
    "mmsa": "a feature file of MMSA: CMU-MOSI, CMU-MOSEI or CH-SIMS, each for research use",
    "csd": "computational sequences of the CMU-MultimodalSDK: CMU-MOSI or CMU-MOSEI, for research use",
    "meld": "MELD (Poria et al. 2019), GPL-3.0 repository; its clips are of a television series",
    "iemocap": "IEMOCAP (Busso et al. 2008), under its release form, for research use",
    "ravdess": "RAVDESS (Livingstone & Russo 2018), CC BY-NC-SA 4.0",
}
"""Corpus name up to its first hyphen → content and terms; see `docs/data.md`."""


def _terms(corpus: Corpus) -> list[str]:
    if corpus.name.startswith("composite"):
        return [COMPOSITE_TERMS]
    terms = TERMS.get(corpus.name.partition("-")[0])
    return [] if terms is None else [f"## Data and its terms\n\nTrained on {terms}. The weights inherit these terms.\n"]


WIDE = 0.2  # width of an interval of a macro-F1 above which the figure is called too uncertain

USE = """\
## What it is for, and what it must not be used for

For research on, and non-commercial analysis of, recordings whose speakers agreed to it, where a person reads the answer
together with its confidence and its note on missing modalities.

It must not be used to judge or decide about people: not in hiring, education, policing, border control, insurance,
credit, medicine or the workplace; not on children; not on anyone who has not agreed; not to infer what a person
*feels*. It learned English sentences, the acted voices of some forty people, and faces of actors and of photographs.
Accents, languages, ages, skin tones, disabilities and conditions of recording that are not among them were not tested,
and it should be expected to be worse on them. Real calls and interviews are quieter than acted speech. Text is English
only, and only its first 48 tokens count.
"""


OWN_USE = """\
## What it is for, and what it must not be used for

For recordings like those of its training list, whose speakers agreed to it, where a person reads the answer together
with its confidence and its note on missing modalities. The figures below are of that list alone: people, languages,
ages, accents and conditions of recording that are not in it were not tested, and it should be expected to be worse on
them. Who is in it, and whether they agreed, is for the list's owner to state.

It must not be used to judge or decide about people: not in hiring, education, policing, border control, insurance,
credit, medicine or the workplace; not on children; not on anyone who has not agreed; not to infer what a person
*feels*.
"""


@dataclass(frozen=True, slots=True)
class OwnData:
    """What the card states of weights that were trained on a manifest.

    Args:
        corpus: the manifest.
        comparison: with the references; None where a reference was trained.
        calibrated: subset of modalities → validation utterances that have them, by which it was calibrated.
        origin: name and version of the weights that training started from; None if from none.
        trained_share: of the trained parameters in the average with these weights; None where they are not averaged.
    """

    corpus: ManifestCorpus
    comparison: Comparison | None
    calibrated: Mapping[ModalitySet, int]
    origin: str | None = None
    trained_share: float | None = None


def _own_data(own: OwnData) -> list[str]:
    corpus, comparison = own.corpus, own.comparison
    lines = [
        "## Data\n",
        "Trained on a list of utterances of its owner, which is not contained in the weights.\n",
        "| Class | Training | Validation | Test |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, parts in corpus.counts().items():
        lines.append(f"| {name} | {parts['train']} | {parts['val']} | {parts['test']} |")
    held = {m: sum(m in e.sources for e in corpus.examples("train")) for m in Modality}
    lines += ["", f"Training utterances with {', '.join(f'{modality}: {n}' for modality, n in held.items())}.\n"]
    if own.origin is not None:
        averaged = (
            f" The parameters are averaged with theirs; the trained ones have the share {own.trained_share:g}."
            if own.trained_share is not None
            else ""
        )
        terms = " Their data and terms, stated in their card, hold for these too."
        lines += [f"Fine-tuned from {own.origin}.{averaged}{terms}\n"]
    if corpus.notices:
        lines += ["Warnings of the list:\n", *(f"- {notice}" for notice in corpus.notices), ""]
    lines += ["## Calibration\n", *_calibration(own.calibrated), ""]
    if comparison is None:
        return lines
    lines += [f"## Compared with references\n\n{comparison.verdict()}\n"]
    lines += [*comparison.table().markdown("---:"), ""]
    lines += ["Every utterance with all that it has; bootstrap intervals over utterances.\n"]
    for part, score in comparison.scores[comparison.system].items():
        few = [name for name, parts in corpus.counts().items() if parts[part] < FEW]
        reasons = [f"fewer than {FEW} utterances of {', '.join(few)}"] if few else []
        if score.high - score.low > WIDE:
            reasons.append(f"an interval {score.high - score.low:.2f} wide")
        if reasons:
            lines.append(
                f"**The {part} part is too small to tell how accurate the weights are**: {'; '.join(reasons)}.\n"
            )
    return lines


def _calibration(calibrated: Mapping[ModalitySet, int]) -> list[str]:
    lines = ["| Given | Validation utterances | |", "| --- | ---: | --- |"]
    for subset, count in calibrated.items():
        found = "one temperature" if count >= MIN_CALIBRATED else f"uncalibrated: fewer than {MIN_CALIBRATED}"
        lines.append(f"| {subset.name} | {count} | {found} |")
    return lines


VOICES = {
    "acoustic": "{size} acoustic features at 31.25 frames a second",
    "whisper": "mean hidden state of Whisper tiny.en's encoder after two layers ({size})",
    "both": "mean hidden state of Whisper tiny.en's encoder and statistics of 33 acoustic features ({size})",
}


PRECOMPUTED = "{} precomputed features of the corpus; the weights can be evaluated on such features and not served"


def _text(config: ModelConfig) -> str:
    if config.precomputed.text is not None:
        return PRECOMPUTED.format(config.precomputed.text)
    text = config.text
    adapted = f", low-rank adapters of rank {text.adapter_rank}" if text.adapter_rank else ""
    return f"{text.encoder}, {text.size} features, at most {text.max_tokens} tokens{adapted}"


def _voice(config: ModelConfig) -> str:
    if config.precomputed.audio is not None:
        return PRECOMPUTED.format(config.precomputed.audio)
    return VOICES[config.audio.encoder].format(size=config.audio.size)


def _face(config: ModelConfig) -> str:
    if config.precomputed.visual is not None:
        return PRECOMPUTED.format(config.precomputed.visual)
    return f"OpenFace 2 columns `{config.visual.columns}` ({config.visual.size}), {config.visual.reduce}"


INPUTS = "text, voice and OpenFace face features"


def model_card(
    recipe: Recipe,
    corpus: Corpus,
    reports: Mapping[int, FitReport],
    evaluations: Mapping[int, Mapping[str, Evaluation]],
    shipped: int,
    own: OwnData | None = None,
) -> str:
    """The card as Markdown.

    Args:
        recipe: of the training.
        corpus: what was trained on.
        reports: seed → course of its run.
        evaluations: seed → part → figures; empty where the corpus has no test part.
        shipped: the seed whose weights the card accompanies.
        own: of weights that were trained on a manifest; replaces what is stated of the shipped weights' data.
    """
    config = recipe.model
    training, validation = len(corpus.examples("train")), len(corpus.examples("val"))
    sizes = ", ".join(f"{modality} {getattr(config.slots, modality)}" for modality in Modality)
    parts = [
        f"# {config.name}\n",
        f"{TITLES[config.system]} weights for {' / '.join(config.classes)}, from any subset of {INPUTS}.\n",
        f"- Text: {_text(config)}",
        f"- Voice: {_voice(config)}",
        f"- Face: {_face(config)}",
        f"- Slots: {sizes}, longer input: {config.slots.reduction}; hidden {config.network.hidden}",
        f"- Trained on: {corpus.name}, {training} training and {validation} validation items; {len(reports)} seed(s)\n",
        *(_terms(corpus) if own is None else _own_data(own)),
        USE if own is None else OWN_USE,
        "## Selection\n",
        "| Seed | Best epoch | Validation macro-F1 (mean of the patterns) | |",
        "| --- | ---: | ---: | --- |",
        *(
            f"| {seed} | {report.best_epoch} | {report.best_macro_f1:.4f} | {'shipped' if seed == shipped else ''} |"
            for seed, report in reports.items()
        ),
        "",
    ]
    for part in evaluations.get(shipped, {}):
        seeds = [found[part] for found in evaluations.values()]
        if len(seeds) > 1:
            parts += [f"## {part}: mean ± standard deviation of {len(seeds)} seeds\n", markdown(seeds)]
        for table in tables(evaluations[shipped][part]):
            parts += [f"## {part}: {table.title} (shipped seed)\n", *table.markdown(), ""]
    return "\n".join(parts)
