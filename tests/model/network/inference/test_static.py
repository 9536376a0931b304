"""The static graphs can be recorded, and their results give the decisions of the sparse path."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.config import BRANCHES
from model.modality import COMPLETE, SUBSETS, Modality, ModalitySet, Utterance
from model.network.batch import collate
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork
from model.network.inference.results import Results, decisions
from model.network.inference.sparse import decide
from model.network.inference.static import MASKED, ORDER, InputWriter, StaticInput, StaticNetwork
from tests.support.network import ABLATIONS, ablation_config, random_network, random_utterances, tiny_config

CONFIG = tiny_config()
CPU = torch.device("cpu")


class ForbidHostTensors(TorchFunctionMode):
    """Fail where a tensor is created from host data."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.__name__ not in {"tensor", "as_tensor", "from_numpy", "cuda", "pin_memory"}
        return func(*args, **(kwargs or {}))


UNALIGNED = tiny_config(  # heads of 9 features, for which attention is padded
    network={**CONFIG.network.model_dump(), "hidden": 18, "heads": 2, "autoencoder": (16, 12, 10, 8, 10, 12, 18)}
)
CONFIGS = {"emmr": CONFIG, "unaligned": UNALIGNED} | {name: ablation_config(name) for name in ABLATIONS}


@pytest.mark.parametrize("name", CONFIGS)
def test_static_graphs_neither_synchronise_nor_use_host_data(name: str) -> None:
    config = CONFIGS[name]
    size, device = 2, torch.device("meta")  # reading a value of such a tensor fails
    network = EMMR(config).eval().to(device)
    graphs, inputs = StaticNetwork(FusedNetwork(network)), StaticInput.empty(config, size, device)
    branches = len(config.network.branches)
    for function in (graphs.full, graphs.complete):
        with torch.inference_mode(), ForbidHostTensors():
            matrix = function(inputs)
        assert matrix.device == device
        assert matrix.shape == (size, sum(Results.widths(config))) == (size, 3 * 3 + 4 * 3 + 1 + 1 + branches + 3)
    with pytest.raises(RuntimeError):  # the sparse path synchronises
        decide(network, collate(random_utterances(config, [COMPLETE]), config).to(device))
    with pytest.raises(AssertionError), ForbidHostTensors():
        torch.tensor([1.0], device=device)


@pytest.mark.parametrize("name", CONFIGS)
def test_full_graph_gives_the_decisions_of_the_sparse_path(name: str) -> None:
    config = CONFIGS[name]
    network = random_network(config)
    utterances = random_utterances(config, SUBSETS * 5)
    batch, inputs = collate(utterances, config), StaticInput.empty(config, len(utterances), CPU)
    InputWriter(inputs, config).write(utterances)
    with torch.inference_mode():
        matrix = StaticNetwork(FusedNetwork(network)).full(inputs)
    presences = [utterance.presence for utterance in utterances]
    full = decisions(matrix, presences, config, explain=True, both_paths=True)
    for ours, theirs in zip(full, decide(network, batch, explain=True, both_paths=True), strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
        assert (ours.key_modalities, ours.ensemble_used) == (theirs.key_modalities, theirs.ensemble_used)
        assert ours.branch_weights == pytest.approx(theirs.branch_weights, abs=1e-5)
        assert set(ours.branch_weights) == set(BRANCHES)
        assert {b for b, weight in ours.branch_weights.items() if weight} <= set(config.network.branches)
        assert sum(ours.branch_weights.values()) == pytest.approx(1)
        assert (ours.ensemble is None) is (theirs.ensemble is None)
        assert ours.ensemble is None or ours.ensemble == pytest.approx(theirs.ensemble, abs=1e-5)
        for modality, figures in (ours.reconstruction or {}).items():
            assert theirs.reconstruction is not None
            assert figures == pytest.approx(theirs.reconstruction[modality], abs=1e-5)
    assert 0 < sum(decision.ensemble_used for decision in full) < len(full)


@pytest.mark.parametrize("positions", [False, True])
def test_graph_of_complete_utterances_gives_the_answers_of_the_sparse_path(positions: bool) -> None:
    config = tiny_config(network={**CONFIG.network.model_dump(), "positions": positions})
    network = FusedNetwork(random_network(config))
    utterances = random_utterances(config, [COMPLETE] * 9)
    inputs = StaticInput.empty(config, 9, CPU)
    InputWriter(inputs, config).write(utterances)
    with torch.inference_mode():
        matrix = StaticNetwork(network).complete(inputs)
    ours = decisions(matrix, [COMPLETE] * 9, config, explain=False, both_paths=True)
    for a, b in zip(ours, decide(network, collate(utterances, config)), strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert not matrix[:, 3:].any()


def test_written_masks_and_weights() -> None:
    text = np.ones((2, CONFIG.feature_size(Modality.TEXT)), dtype=np.float32)
    audio = np.ones((3, CONFIG.feature_size(Modality.AUDIO)), dtype=np.float32)
    inputs = StaticInput.empty(CONFIG, 1, CPU)
    InputWriter(inputs, CONFIG).write([Utterance({Modality.TEXT: text, Modality.AUDIO: audio})])
    slots, imputed = CONFIG.slots, CONFIG.network.imputed_slots
    audio_start, visual_start = slots.text, slots.text + slots.audio
    valid = [0, 1, audio_start, audio_start + 1, audio_start + 2]
    filled = list(range(visual_start, visual_start + imputed.visual))
    assert (inputs.present[0] == 0).nonzero()[:, 0].tolist() == valid
    assert (inputs.slots[0] == 0).nonzero()[:, 0].tolist() == valid + filled
    assert set(inputs.slots.unique().tolist()) == {0.0, np.float32(MASKED)}
    assert inputs.missing[0].nonzero()[:, 0].tolist() == list(range(visual_start, visual_start + slots.visual))
    assert inputs.weights[0, valid].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])
    assert inputs.weights.sum() == pytest.approx(1)
    assert inputs.features[Modality.TEXT][0].sum(dim=1).tolist() == [text.shape[1]] * 2 + [0] * (slots.text - 2)
    assert not inputs.features[Modality.VISUAL].any()
    assert inputs.subset[0].tolist() == [subset == ModalitySet.of(Modality.TEXT, Modality.AUDIO) for subset in ORDER]
