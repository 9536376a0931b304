from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engine.predictor import Options, Predictor, PreparedRequest, is_out_of_memory
from model.checkpoint import save_checkpoint
from model.errors import CheckpointError, ConfigError
from model.features.audio.raw_features import extract_voice
from model.features.normalization import Preprocessing, Statistics
from model.features.visual.openface import FaceTrack
from model.modality import SUBSETS, Modality, ModalitySet
from model.pipeline import Pipeline
from model.types import FloatArray
from tests.support.checkpoints import like, scaled
from tests.support.network import random_network, tiny_config

T, A, V = Modality
V_ONLY = ModalitySet.of(V)


@pytest.fixture(scope="module")
def predictor(tiny_weights: Path) -> Predictor:
    return Predictor.load(tiny_weights, "cpu")


def sound(level: float = 0.3) -> FloatArray:
    t = np.arange(16_000) / 16_000
    waveform: FloatArray = (level * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    return waveform


def track() -> FaceTrack:
    values = np.full((3, 35), 0.5, dtype=np.float32)
    return FaceTrack(
        values=values, frames=3, kept=3, skipped_unsuccessful=0, skipped_low_confidence=0, faces=1, face_id=0
    )


@dataclass
class SpeechWith:
    """Reports the same probability of speech for every sound."""

    probability: float | None

    def speech_probability(self, voice: object) -> float | None:
        return self.probability


def prepare(
    predictor: Predictor,
    text: str | None = None,
    sound: FloatArray | None = None,
    track: FaceTrack | None = None,
    options: Options | None = None,
) -> PreparedRequest:
    request = PreparedRequest(predictor, options or Options())
    if text is not None:
        request.add_text(text)
    if sound is not None:
        config = predictor.pipeline.config.audio
        request.add_audio(extract_voice(sound, **config.model_dump()))
    if track is not None:
        request.add_visual(track)
    return request


def prepare_subset(predictor: Predictor, subset: ModalitySet, explain: bool = False) -> PreparedRequest:
    text = "What a lovely surprise!" if T in subset else None
    options = Options(explain)
    return prepare(predictor, text, sound() if A in subset else None, track() if V in subset else None, options)


def test_a_mixed_batch_gives_the_results_of_single_requests_in_order(predictor: Predictor) -> None:
    batch = [prepare_subset(predictor, subset, explain) for subset in SUBSETS for explain in (False, True)]
    outcomes = predictor.decide(batch)
    for prepared, outcome in zip(batch, outcomes, strict=True):
        (alone,) = predictor.decide([prepared])
        assert outcome.decision.probabilities == pytest.approx(alone.decision.probabilities, abs=1e-4)
        assert (outcome.decision.votes is not None) is prepared.options.explain
        assert (outcome.text is not None) is (T in prepared.presence)


def test_batches_computed_at_the_same_time_have_the_results_of_one_thread(predictor: Predictor) -> None:
    batches = [
        [prepare_subset(predictor, subset, explain=True) for subset in pair]
        for pair in pairwise((*SUBSETS, SUBSETS[0]))
    ]
    alone = [[result.decision for result in predictor.decide(batch)] for batch in batches]
    with ThreadPoolExecutor(3) as threads:
        together = [[result.decision for result in results] for results in threads.map(predictor.decide, batches)]
    assert together == alone  # to the last bit


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_presence_is_what_was_given(predictor: Predictor, subset: ModalitySet) -> None:
    assert prepare_subset(predictor, subset).presence == subset


def test_audio_features_have_their_duration(predictor: Predictor) -> None:
    prepared = prepare(predictor, sound=sound())
    assert prepared.audio is not None
    assert (prepared.audio.seconds, prepared.audio.spoken) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "doubtful", "language"),
    [
        ("What a lovely surprise!", set(), "en"),
        ("Je ne sais pas pourquoi il est parti si vite hier soir.", {T}, "fr"),
        ("Я не знаю, почему он ушёл.", {T}, "ru"),
        (":-) 42 !!", {T}, "und"),
        ("Xylophone!", set(), None),
    ],
)
def test_a_text_without_english_words_is_doubtful(
    predictor: Predictor, text: str, doubtful: set[Modality], language: str | None
) -> None:
    prepared = prepare(predictor, text, track=track())
    assert prepared.doubtful == doubtful
    assert prepared.check is not None
    assert language in {None, prepared.check.language}


def test_a_missing_modality_is_not_doubtful(predictor: Predictor) -> None:
    assert prepare_subset(predictor, V_ONLY).doubtful == set()
    assert prepare_subset(predictor, V_ONLY).check is None


def test_a_face_without_any_action_unit_is_doubtful(predictor: Predictor) -> None:
    prepared = prepare(predictor, track=replace(track(), all_zero=True))
    assert prepared.doubtful == {V}
    (outcome,) = predictor.decide([prepared])
    assert outcome.decision.probabilities == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("probability", "doubtful"), [(None, set()), (0.5, set()), (0.49, {A}), (0.02, {A})])
def test_a_sound_that_is_likely_not_speech_is_doubtful(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, probability: float | None, doubtful: set[Modality]
) -> None:
    monkeypatch.setattr(predictor.pipeline.extractor, "reliability", SpeechWith(probability))
    prepared = prepare(predictor, "Hello there.", sound())
    assert prepared.doubtful == doubtful
    assert prepared.audio is not None
    assert prepared.audio.speech == probability


def test_a_sound_without_speech_is_missing_unless_any_sound_is_accepted(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.pipeline.extractor, "reliability", SpeechWith(0.019))
    prepared = prepare(predictor, "Hello there.", sound())
    assert (prepared.audio, prepared.empty[A].reason) == (None, "no_speech")
    taken = prepare(predictor, sound=sound(), options=Options(any_sound=True))
    assert taken.presence == ModalitySet.of(A)


def test_each_request_of_a_batch_has_its_own_threshold(predictor: Predictor) -> None:
    texts = ("What a lovely surprise!", "Je ne sais pas pourquoi il est parti si vite.")
    batch = [prepare(predictor, text, options=Options(threshold=t)) for text in texts for t in (0.0, 1.0, None)]
    decisions = [outcome.decision for outcome in predictor.decide(batch)]
    assert [decision.threshold for decision in decisions] == [0.0, 1.0, 0.5, 0.0, 1.0, 0.5]
    assert [bool(decision.key_modalities) for decision in decisions[:2]] == [True, False]
    assert [decision.familiarity[T] for decision in decisions] == [1, 1, 1, 0, 0, 0]


def test_the_check_fails_once_known_good_requests_fail(tiny_weights: Path) -> None:
    broken = Predictor.load(tiny_weights, "cpu")
    broken.known_good = [prepare_subset(broken, subset) for subset in SUBSETS]
    broken.check()
    broken.pipeline.checkpoint.network.to("meta")  # parameters without data, as on a lost device
    with pytest.raises(RuntimeError):
        broken.check()


def test_a_cpu_reports_no_device_memory(predictor: Predictor) -> None:
    assert (predictor.device, predictor.device_memory()) == ("cpu", 0)


def test_an_unknown_device_is_a_config_error(tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        Predictor.load(tiny_weights, "abacus")


def test_a_folder_without_weights_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Predictor.load(tmp_path, "cpu")


def test_a_prepared_request_holds_no_frames(predictor: Predictor) -> None:
    prepared = prepare_subset(predictor, SUBSETS[0])
    assert prepared.predictor is predictor
    assert prepared.visual is not None
    assert prepared.visual.values.shape == (1, 35)
    assert prepared.visual.kept == 3
    assert prepared.tokens == 7  # [CLS] What a lovely surprise ! [SEP]


def test_sentences_of_any_length_are_answered_in_order(predictor: Predictor) -> None:
    sentences = ["Fine.", "word " * 200, "What a lovely day it is!", "No", "a b c d e f g h " * 3, "x" * 300, "Yes."]
    batch = [prepare(predictor, sentence) for sentence in sentences]
    for prepared, outcome in zip(batch, predictor.decide(batch), strict=True):
        (alone,) = predictor.decide([prepared])
        assert outcome.decision.probabilities == pytest.approx(alone.decision.probabilities, abs=1e-4)
        assert outcome.text is not None
        assert alone.text is not None
        assert outcome.text.tokens == alone.text.tokens


def test_the_cost_of_a_batch_follows_its_grouped_sentences(predictor: Predictor) -> None:
    short, long = (prepare(predictor, text) for text in ("Fine.", "word " * 60))
    mute, explained = prepare_subset(predictor, V_ONLY), prepare(predictor, "Fine.", options=Options(explain=True))
    alone, many = predictor.cost([short]), predictor.cost([short] * 20)
    assert many < 20 * alone
    assert predictor.cost([mute]) < alone < predictor.cost([explained]) < predictor.cost([long])
    # A long sentence does not add its length as padding to each of the short ones.
    assert predictor.cost([*[short] * 20, long]) <= many + predictor.cost([long])
    assert predictor.cost([long] * 9) <= predictor.rates.budget < predictor.cost([long] * 11)


def test_the_cost_includes_tokenising_a_very_long_text(predictor: Predictor) -> None:
    long, longest = (prepare(predictor, "word " * count) for count in (60, 13_000))
    assert predictor.cost([longest]) > 2 * predictor.cost([long])


def test_probabilities_that_are_not_finite_are_an_error(tiny_weights: Path, tmp_path: Path) -> None:
    like(tiny_weights, tmp_path / "nan", scaled(float("nan")))
    nan = Predictor.load(tmp_path / "nan", "cpu")
    with pytest.raises(ArithmeticError):
        nan.decide([prepare(nan, "Hello.")])


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("the size of tensor a must match the size of tensor b"), False),
        (ArithmeticError("the probabilities are not finite"), False),
    ],
)
def test_lack_of_memory_is_distinguished_from_other_errors(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short


def test_lack_of_host_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert is_out_of_memory(failure.value)


def test_cuda_graphs_are_recorded_on_load(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Pipeline] = []

    def record(pipeline: Pipeline) -> None:
        recorded.append(pipeline)

    monkeypatch.setattr(Pipeline, "record", record)
    predictor = Predictor.load(tiny_weights, "cpu")
    assert recorded == [predictor.pipeline]


def test_weights_of_precomputed_features_are_not_served(tmp_path: Path) -> None:
    config = tiny_config(precomputed={"audio": 5, "visual": 3})
    statistics = {m: Statistics(np.zeros(d, np.float32), np.ones(d, np.float32)) for m, d in ((A, 5), (V, 3))}
    save_checkpoint(tmp_path, random_network(config), Preprocessing(statistics))
    assert Pipeline.load(tmp_path, "cpu").config == config
    with pytest.raises(CheckpointError, match="expects precomputed audio and visual features, which cannot"):
        Predictor.load(tmp_path, "cpu")
