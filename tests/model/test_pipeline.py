"""Deciding with a loaded checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.errors import CheckpointError, EmptyModality
from model.modality import SUBSETS, Modality, Utterance
from model.network.inference.cuda_graphs import GraphedNetwork, Kind, StaticGraph
from model.network.inference.fused import FusedNetwork
from model.network.inference.static import StaticNetwork
from model.pipeline import Pipeline, choose_device
from tests.support.network import random_utterances
from tests.support.sound import audio_slots
from tests.support.speech import speech_of

SHIPPED = Path(__file__).parents[2] / "weights" / "default"


@pytest.fixture(scope="module")
def pipeline(tiny_weights: Path) -> Pipeline:
    return Pipeline.load(tiny_weights)


def test_decisions_do_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    utterances = random_utterances(pipeline.config, SUBSETS, longest=16)
    together = pipeline.decide(utterances)
    assert len(together) == 7
    for utterance, decision in zip(utterances, together, strict=True):
        assert sum(decision.probabilities) == pytest.approx(1)
        (alone,) = pipeline.decide([utterance])
        np.testing.assert_allclose(decision.probabilities, alone.probabilities, atol=1e-4)


def test_recorded_graphs_are_replayed(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pipeline.load(tiny_weights, "cpu")
    utterances = random_utterances(own.config, SUBSETS, longest=16)
    computed = own.decide(utterances, explain=True, both_paths=True)
    monkeypatch.setattr("model.pipeline.record", lambda *args: pytest.fail("nothing is recorded on a CPU"))
    own.record()

    def record(network: FusedNetwork, device: torch.device) -> GraphedNetwork:
        static, here = StaticNetwork(network), torch.device("cpu")
        graphs = {kind: {32: StaticGraph(static, kind, 32, here)} for kind in Kind}
        return GraphedNetwork(network, here, graphs)

    monkeypatch.setattr(own, "device", torch.device("cuda"))
    monkeypatch.setattr("model.pipeline.record", record)
    own.record()
    monkeypatch.setattr("model.pipeline.decide", lambda *args, **kwargs: pytest.fail("computed by the sparse path"))
    for ours, theirs in zip(own.decide(utterances, explain=True, both_paths=True), computed, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
        assert ours.key_modalities == theirs.key_modalities


def test_explanations_and_both_paths_are_optional(pipeline: Pipeline) -> None:
    (utterance,) = random_utterances(pipeline.config, [SUBSETS[1]], longest=16)
    (plain,) = pipeline.decide([utterance])
    (explained,) = pipeline.decide([utterance], explain=True, both_paths=True)
    assert (plain.votes, plain.reconstruction) == (None, None)
    assert (plain.ensemble is not None) == plain.ensemble_used
    assert plain.transformer is not None
    assert explained.votes is not None
    assert explained.ensemble is not None
    assert explained.reconstruction is not None


def test_sentence_and_voice_are_decided(pipeline: Pipeline) -> None:
    (text,) = pipeline.extractor.text(["I did not expect to like this film, and yet I did!"])
    audio = audio_slots(pipeline.extractor, speech_of(1.0))
    (decision,) = pipeline.decide([Utterance({Modality.TEXT: text.array, Modality.AUDIO: audio.array})])
    assert decision.label_index in range(3)


def test_fitted_reliability_changes_the_decisions(tiny_weights: Path) -> None:
    own = Pipeline.load(tiny_weights, "cpu")
    utterances = random_utterances(own.config, SUBSETS, longest=16)
    before = own.decide(utterances)
    reliability = own.checkpoint.reliability
    reliability.temperatures.fill_(0.5)
    for decision, tempered in zip(before, own.decide(utterances), strict=True):
        powers = np.sqrt(decision.probabilities)
        np.testing.assert_allclose(tempered.probabilities, powers / powers.sum(), atol=1e-6)
    (doubtful,) = own.decide(utterances[-1:], doubtful=[tuple(utterances[-1].presence)], thresholds=[0.0])
    assert doubtful.probabilities == pytest.approx([1 / 3] * 3)
    assert set(doubtful.key_modalities) <= set(utterances[-1].presence.missing)
    assert doubtful.key_modalities


def test_clip_without_speech_is_rejected(tiny_weights: Path) -> None:
    own = Pipeline.load(tiny_weights, "cpu")
    assert audio_slots(own.extractor, speech_of(1.0)).speech is None  # not fitted
    reliability = own.checkpoint.reliability
    reliability.speech_fitted.fill_(value=True)
    torch.nn.init.zeros_(reliability.speech.weight)
    for bias, likely in ((3.0, True), (-2.0, False)):
        torch.nn.init.constant_(reliability.speech.bias, bias)
        features = audio_slots(own.extractor, speech_of(1.0))
        assert features.speech == pytest.approx(1 / (1 + np.exp(-bias)))
        assert features.likely_speech is likely
    torch.nn.init.constant_(reliability.speech.bias, -9.0)
    with pytest.raises(EmptyModality, match="no speech"):
        audio_slots(own.extractor, speech_of(1.0))


def test_default_device_is_cuda_if_available() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device().type == expected
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("meta")) == torch.device("meta")


def test_pipeline_uses_the_chosen_device(pipeline: Pipeline) -> None:
    assert pipeline.device == choose_device("auto")
    assert {p.device.type for p in pipeline.checkpoint.network.parameters()} == {pipeline.device.type}


def test_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a weights folder"):
        Pipeline.load(tmp_path, "cpu")


@pytest.mark.cuda
def test_shipped_weights_give_equal_answers_on_cuda_and_cpu() -> None:
    here, there = Pipeline.load(SHIPPED, "cpu"), Pipeline.load(SHIPPED, "cuda")
    there.record()
    sentences = ["Thank you, this is wonderful.", "No.", "I have no idea what went wrong with my order this time."]
    for ours, theirs in zip(there.extractor.text(sentences), here.extractor.text(sentences), strict=True):
        np.testing.assert_allclose(ours.array, theirs.array, atol=1e-3)
    utterances = random_utterances(here.config, SUBSETS * 3)
    expected = here.decide(utterances, both_paths=True)
    for batches in ([utterances], [[utterance] for utterance in utterances]):
        found = [decision for batch in batches for decision in there.decide(batch, both_paths=True)]
        for decision, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(decision.probabilities, reference.probabilities, atol=1e-4)
            assert decision.key_score == pytest.approx(reference.key_score, abs=1e-3)
