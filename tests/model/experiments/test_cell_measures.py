from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.baselines.systems import build_network
from model.config import TRANSFORMER, System
from model.experiments.cell_measures import answer_arrays, cost, doubt, reconstruction, representations
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet, Utterance
from model.network.batch import collate
from model.network.decision import Decision
from model.training.decision_table import DecisionTable, Item
from model.training.evaluation import draw_rates
from tests.support.network import random_network, random_utterances, tiny_config

CONFIG = tiny_config()
CPU = torch.device("cpu")
TEXT = ModalitySet.of(Modality.TEXT)


def decision(probabilities: Sequence[float], **changes: Any) -> Decision:
    p = tuple(probabilities)
    plain = Decision(p, p, p, key_modalities=(), key_score=None, ensemble_used=False, branch_weights={})
    return replace(plain, **changes)


class ByItem:
    """Answers by the first feature, which is the item's number, and the modalities."""

    def __init__(self, answers: Mapping[tuple[int, ModalitySet], Decision], other: Decision) -> None:
        self.answers, self.other = answers, other

    def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
        numbers = [int(next(iter(u.features.values()))[0, 0]) for u in utterances]
        return [self.answers.get((n, u.presence), self.other) for n, u in zip(numbers, utterances, strict=True)]


def item(number: int, label: int, presence: ModalitySet = COMPLETE) -> Item:
    features = {m: np.full((1, CONFIG.feature_size(m)), number, dtype=np.float32) for m in presence}
    return Item(f"i{number}", label, Utterance(features))


def test_doubt_ranks_the_answers_that_a_missing_modality_corrects() -> None:
    sure, unsure = (0.9, 0.05, 0.05), (0.4, 0.35, 0.25)
    # Item 0 is answered rightly with everything (class 1) and wrongly without; item 1 wrongly in both cases.
    table = DecisionTable(
        ByItem({(0, COMPLETE): decision((0.1, 0.8, 0.1)), (1, TEXT): decision(sure)}, decision(unsure)),
        [item(0, 1), item(1, 2), item(2, 1, TEXT)],
        classes=3,
    )
    figures = doubt(table)
    assert {part: scores["entropy"]["n"] for part, scores in figures.items()} == {
        "all": 12, "one_missing": 6, "two_missing": 6,
    }  # fmt: skip
    assert figures["all"]["one_minus_max"]["positives"] == 6
    # Of item 1, the answer from text alone is ranked below item 0's, all others equal them.
    assert figures["two_missing"]["one_minus_max"]["auroc"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert figures["one_missing"]["one_minus_max"]["auroc"] == pytest.approx(0.5)
    assert figures["all"].keys() == {"one_minus_max", "entropy"}


def test_doubt_of_emmr_compares_the_transformer_path_and_the_verdict() -> None:
    wrong, right = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)
    complete = decision(right, key_score=0.0)
    # The ensemble corrects the answer, the transformer path does not.
    partial = decision(right, transformer=wrong, key_score=0.7)
    figures = doubt(DecisionTable(ByItem({(0, COMPLETE): complete}, partial), [item(0, 1)], classes=3))
    assert figures["all"]["verdict"] == {"auroc": None, "average_precision": 1.0, "n": 6, "positives": 6}


def test_answers_that_an_item_cannot_have_are_nan() -> None:
    items = [item(0, 2), item(1, 0, TEXT)]
    table = DecisionTable(ByItem({}, decision((0.5, 0.25, 0.25), transformer=(0.25, 0.5, 0.25))), items, classes=3)
    arrays = answer_arrays(table, draw_rates(items), paths=True)
    assert (arrays["ids"].tolist(), arrays["labels"].tolist()) == (["i0", "i1"], [2, 0])
    assert np.isnan(arrays["answers"]).any(axis=-1).tolist() == [[False, s != TEXT] for s in SUBSETS]
    assert arrays["answers"][4, 1].tolist() == [0.5, 0.25, 0.25]
    assert arrays["transformer"][4, 1].tolist() == [0.25, 0.5, 0.25]
    assert arrays["ensemble"][4, 1].tolist() == [0.5, 0.25, 0.25]  # not computed: the answer
    assert (arrays["rates"][:, 1] == SUBSETS.index(TEXT)).all()


@pytest.mark.parametrize("system", ["emmr", "mmin", "tate", "late-fusion"])
def test_the_cost_counts_parameters_and_matrix_products(system: System) -> None:
    network = build_network(tiny_config(system=system)).eval()
    (utterance,) = random_utterances(CONFIG, [COMPLETE])
    found = cost(network, utterance, CPU)
    assert found["parameters"] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert found["operations"] > 0
    assert found["ms"] > 0


def test_operations_of_linear_layers_are_two_for_each_weight() -> None:
    network = build_network(tiny_config(system="late-fusion")).eval()
    (utterance,) = random_utterances(CONFIG, [COMPLETE])
    weights = sum(CONFIG.feature_size(m) * len(CONFIG.classes) for m in MODALITIES)
    assert cost(network, utterance, CPU)["operations"] == 2 * weights


@pytest.mark.parametrize("system", ["emmr", "tate"])
def test_operations_of_attention_are_counted(system: System) -> None:
    network = build_network(tiny_config(system=system)).eval()
    (utterance,) = random_utterances(CONFIG, [COMPLETE])
    text = np.ones((12, CONFIG.feature_size(Modality.TEXT)), dtype=np.float32)
    four, eight, twelve = (
        cost(network, Utterance({**utterance.features, Modality.TEXT: text[:slots]}), CPU)["operations"]
        for slots in (4, 8, 12)
    )
    assert twelve - eight > eight - four  # linear layers alone would give equal differences


def test_reconstructions_are_compared_with_the_true_sequences() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, [COMPLETE] * 6)
    found = reconstruction(network, utterances[:4], utterances[4:], CPU)
    assert found.keys() == set(MODALITIES)
    # The same for the face of the first test utterance, which fills one slot, without batches.
    batch = collate(utterances[4:5], CONFIG, room_to_impute=True)
    with torch.inference_mode():
        output = network(batch.with_present(torch.tensor([[True, True, False]])))
        faces = torch.cat(
            [
                network.encoder.encode(b.features, b.valid, b.held)[Modality.VISUAL][:, 0]
                for b in (collate([u], CONFIG, room_to_impute=True) for u in utterances[:4])
            ]
        )
    true, decoded = output.common[Modality.VISUAL][0, 0], output.decodings[TRANSFORMER][0, -1]
    alone = reconstruction(network, utterances[:4], utterances[4:5], CPU)[Modality.VISUAL]
    assert alone["n"] == 1
    assert alone["network"] == pytest.approx(float(torch.cosine_similarity(true, decoded, dim=0)), abs=1e-5)
    assert alone["mean"] == pytest.approx(float(torch.cosine_similarity(true, faces.mean(dim=0), dim=0)), abs=1e-5)


def test_a_mean_that_is_the_truth_has_a_similarity_of_one() -> None:
    network = random_network(CONFIG)
    (utterance,) = random_utterances(CONFIG, [COMPLETE])
    found = reconstruction(network, [utterance, utterance], [utterance], CPU)
    assert [found[m]["mean"] for m in MODALITIES] == pytest.approx([1, 1, 1])


def test_incomplete_utterances_have_no_reconstruction_to_compare() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, [TEXT, COMPLETE])
    assert reconstruction(network, utterances[:1], utterances[1:], CPU) == {}
    assert reconstruction(network, utterances[1:], utterances[:1], CPU) == {}


def test_representations_are_those_of_the_path_that_answered() -> None:
    network = random_network(CONFIG)
    utterances = random_utterances(CONFIG, [COMPLETE] * 8)
    items = [Item(f"i{n}", n % 3, u) for n, u in enumerate(utterances)]
    rates = draw_rates(items)

    class Constant:
        def __init__(self, used: bool) -> None:
            self.used = used

        def decide(self, utterances: Sequence[Utterance], *, both_paths: bool = False) -> list[Decision]:
            return [decision((0.5, 0.3, 0.2), ensemble_used=self.used)] * len(utterances)

    kept = collate([u.keep(s) for u, s in zip(utterances, rates.kept[0.5], strict=True)], CONFIG)
    with torch.inference_mode():
        output = network(kept)
        expected = {False: output.transformer, True: output.ensemble}
    for used, logits in expected.items():
        found = representations(network, DecisionTable(Constant(used), items, 3), rates, CPU)
        assert found.keys() == {"labels", "0.0", "0.5"}
        with torch.inference_mode():
            answered = network.classifier(torch.from_numpy(found["0.5"]))
        assert answered.numpy() == pytest.approx(logits.numpy(), abs=1e-5)
    assert not network.classifier._forward_pre_hooks
