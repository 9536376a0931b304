from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import TextConfig
from model.modality import Modality, ModalitySet
from model.training.comparison import Comparison, Score
from model.training.datasets.manifest import ManifestCorpus
from model.training.datasets.mosi import MosiCorpus
from model.training.evaluation import Evaluation, evaluate
from model.training.experiment import adapted_config
from model.training.metrics import Interval
from model.training.model_card import COMPOSITE_TERMS, OWN_USE, USE, OwnData, model_card
from model.training.progress import FitReport
from model.training.reliability import MIN_CALIBRATED
from model.training.settings import Recipe
from tests.support.corpus import write_manifest
from tests.support.native_corpora import write_mosi
from tests.support.network import tiny_config
from tests.support.predictor import CLASSES, ITEMS, Judged, Strongest
from tests.support.training import CONFIG, Toy, tiny_recipe, toy

CORPUS, _ = toy(train=9, val=3)
REPORTS = {4: FitReport(2, 0.61234, {"text": 0.6}, [0.5, 0.61234]), 7: FitReport(1, 0.5, {"text": 0.5}, [0.5])}


class Composite(Toy):
    name = "composite"


Evaluations = dict[int, dict[str, Evaluation]]


@pytest.fixture(scope="module")
def evaluations() -> Evaluations:
    """Of two seeds on two parts."""
    shifted = (*ITEMS[:2], *ITEMS[:2])
    return {
        4: {
            "composite2 test": evaluate(Strongest(), ITEMS, CLASSES, resamples=20),
            "voices ood": evaluate(Judged(), ITEMS, CLASSES, resamples=20),
        },
        7: {
            "composite2 test": evaluate(Strongest(), shifted, CLASSES, resamples=20),
            "voices ood": evaluate(Judged(), shifted, CLASSES, resamples=20),
        },
    }


def test_the_card_states_sizes_corpus_and_use(evaluations: Evaluations) -> None:
    card = model_card(tiny_recipe(), CORPUS, {4: REPORTS[4]}, {4: evaluations[4]}, 4)
    assert card.startswith("# default\n")
    assert "negative / neutral / positive" in card
    assert "- Voice: 33 acoustic features" in card
    assert "`action_units` (35), mean" in card
    assert "text 12, audio 20, visual 1" in card
    assert "toy, 9 training and 3 validation items; 1 seed(s)" in card
    assert USE in card


def test_the_card_states_the_data_and_its_terms() -> None:
    composite = model_card(tiny_recipe(), Composite(CORPUS.parts), REPORTS, {}, 4)
    assert COMPOSITE_TERMS in composite
    for word in ("composed", "CC BY-NC-SA 4.0", "RAVDESS", "MELD", "CMU-MOSI", "GPL-3.0"):
        assert word in composite
    assert COMPOSITE_TERMS not in model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)


def test_the_card_states_forbidden_uses() -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)
    for word in ("must not be used", "hiring", "policing", "children", "acted voices of some forty people"):
        assert word in card


def test_every_seed_is_listed_and_the_shipped_one_marked() -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)
    assert "| 4 | 2 | 0.6123 | shipped |" in card
    assert "| 7 | 1 | 0.5000 |  |" in card


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        ({"dynamics": True}, "- Voice: 66 acoustic features at 31.25 frames a second"),
        ({"encoder": "whisper"}, "- Voice: mean hidden state of Whisper tiny.en's encoder after two layers (384)"),
        ({"encoder": "both"}, "statistics of 33 acoustic features (483)"),
    ],
    ids=["acoustic", "whisper", "both"],
)
def test_the_card_describes_the_voice_features(audio: dict[str, object], text: str) -> None:
    network = {**CONFIG.network.model_dump(), "imputed_slots": {"text": 4, "audio": 1, "visual": 1}}
    model = tiny_config(audio=audio, slots={"text": 12, "audio": 1, "visual": 1}, network=network)
    assert text in model_card(Recipe(model=model), CORPUS, REPORTS, {}, 4)


def test_the_card_describes_precomputed_features() -> None:
    model = tiny_config(precomputed={"text": 100, "audio": 73, "visual": 50})
    card = model_card(Recipe(model=model), CORPUS, REPORTS, {}, 4)
    for name, size in (("Text", 100), ("Voice", 73), ("Face", 50)):
        assert f"- {name}: {size} precomputed features of the corpus" in card


@pytest.mark.parametrize(("rank", "named"), [(8, True), (0, False)])
def test_adapters_are_named_if_there_are_any(rank: int, named: bool) -> None:
    recipe = Recipe(model=tiny_config(text=TextConfig(adapter_rank=rank)))
    assert ("low-rank adapters of rank 8" in model_card(recipe, CORPUS, REPORTS, {}, 4)) is named


def test_figures_of_one_seed_have_no_deviation(evaluations: Evaluations) -> None:
    card = model_card(tiny_recipe(), CORPUS, {4: REPORTS[4]}, {4: evaluations[4]}, 4)
    assert "standard deviation" not in card
    figure = evaluations[4]["composite2 test"]["patterns"]["text+audio+visual"]["macro_f1"]
    assert f"| text+audio+visual | {figure:.4f} |" in card


def test_figures_of_several_seeds_have_a_deviation(evaluations: Evaluations) -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, evaluations, 7)
    for part in ("composite2 test", "voices ood"):
        assert f"## {part}: mean ± standard deviation of 2 seeds" in card
        assert f"## {part}: " in card
    figures = [evaluations[seed]["composite2 test"]["patterns"]["text"]["accuracy"] for seed in (4, 7)]
    values = np.array([f for f in figures if f is not None])
    assert f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" in card


def test_without_a_test_part_there_are_no_figures() -> None:
    card = model_card(tiny_recipe(), CORPUS, REPORTS, {}, 4)
    assert card.rstrip().endswith("| 7 | 1 | 0.5000 |  |")


def test_every_table_is_well_formed(evaluations: Evaluations) -> None:
    card = model_card(tiny_recipe(), Composite(CORPUS.parts), REPORTS, evaluations, 4)
    columns = 0
    for line in card.splitlines():
        cells = line.count("|")
        assert cells in (0, columns) or columns == 0, line
        columns = cells


def test_the_card_states_the_terms_of_a_public_corpus(tmp_path: Path) -> None:
    corpus = MosiCorpus(write_mosi(tmp_path), regression=True)
    recipe = Recipe(model=adapted_config(CONFIG, corpus, "mine"), training=tiny_recipe().training)
    card = model_card(recipe, corpus, REPORTS, {}, 4)
    assert "Trained on CMU-MOSI (Zadeh et al. 2016), research use" in card
    assert "- Voice: 73 precomputed features of the corpus" in card
    assert "- Face: 100 precomputed features of the corpus" in card


def own_data(tmp_path: Path, **parts: str) -> OwnData:
    rows: list[dict[str, object]] = [
        {"id": f"{split}{n}", "split": split, "text": "x", "label": {"a": "glad", "b": "sad"}[name]}
        for split, names in parts.items()
        for n, name in enumerate(names)
    ]
    corpus = ManifestCorpus(write_manifest(tmp_path, rows))
    score = Score(len(parts["val"]), 0.5, 0.3, 0.7)
    compared = Comparison("EMMR", {"EMMR": {"val": score}}, "classical", Interval(-0.1, -0.2, 0.1))
    counts = {ModalitySet.of(Modality.TEXT): len(parts["val"]), ModalitySet.of(Modality.AUDIO): MIN_CALIBRATED}
    return OwnData(corpus, compared, counts, "the weights default, version abc", 0.25)


def test_the_card_of_own_weights_states_their_data_alone(tmp_path: Path) -> None:
    own = own_data(tmp_path, train="ab" * 10, val="ab" * 2 + "a")
    card = model_card(tiny_recipe(), own.corpus, {4: REPORTS[4]}, {}, 4, own)
    for word in ("RAVDESS", "actors", "forty people", "Polish", "MELD", "composite"):
        assert word not in card
    assert "| glad | 10 | 3 | 0 |" in card
    assert "| sad | 10 | 2 | 0 |" in card
    assert "Training utterances with text: 20, audio: 0, visual: 0." in card
    assert "Fine-tuned from the weights default, version abc." in card
    assert "the trained ones have the share 0.25." in card
    assert "| text | 5 | uncalibrated: fewer than 30 |" in card
    assert "| audio | 30 | one temperature |" in card
    assert "EMMR is below the reference" in card
    assert "| EMMR | 0.500 [0.300, 0.700] |" in card
    assert "**The val part is too small to tell how accurate the weights are**: fewer than 10 utterances" in card
    assert "an interval 0.40 wide" in card
    assert OWN_USE in card


def test_the_card_of_a_reference_has_no_comparison(tmp_path: Path) -> None:
    own = replace(own_data(tmp_path, train="ab" * 10, val="ab"), comparison=None, origin=None)
    card = model_card(tiny_recipe(), own.corpus, {4: REPORTS[4]}, {}, 4, own)
    assert "Compared with references" not in card
    assert "Fine-tuned" not in card
