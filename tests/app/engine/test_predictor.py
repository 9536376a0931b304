from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engine.errors import NothingUsable
from app.engine.predictor import Inputs, Options, Predictor, short_of_memory
from model.errors import CheckpointError, ConfigError, EmptyModality
from model.features.audio.loading import Sound
from model.features.visual.openface import FaceTrack
from model.modality import SUBSETS, Modality, ModalitySet
from model.pipeline import Pipeline
from tests.support.checkpoints import like, scaled

T, A, V = Modality
V_ONLY = ModalitySet.of(V)


@pytest.fixture(scope="module")
def predictor(tiny_weights: Path) -> Predictor:
    return Predictor.load(tiny_weights, "cpu")


def sound(level: float = 0.3) -> Sound:
    t = np.arange(16_000) / 16_000
    waveform = (level * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    return Sound(waveform=waveform, seconds=1.0, source_rate=16_000, channels=1)


def track() -> FaceTrack:
    values = np.full((3, 35), 0.5, dtype=np.float32)
    return FaceTrack(
        values=values, frames=3, kept=3, skipped_unsuccessful=0, skipped_low_confidence=0, faces=1, face_id=0
    )


@dataclass
class SpeechWith:
    """Gives every sound the same probability of being speech."""

    probability: float | None

    def speech_probability(self, voice: object) -> float | None:
        return self.probability


def inputs(subset: ModalitySet, explain: bool = False) -> Inputs:
    return Inputs(
        text="What a lovely surprise!" if T in subset else None,
        sound=sound() if A in subset else None,
        track=track() if V in subset else None,
        options=Options(explain),
    )


def test_a_batch_of_every_subset_explained_or_not_is_answered_in_order_and_as_alone(predictor: Predictor) -> None:
    batch = [predictor.prepare(inputs(subset, explain)) for subset in SUBSETS for explain in (False, True)]
    outcomes = predictor.decide(batch)
    for prepared, outcome in zip(batch, outcomes, strict=True):
        (alone,) = predictor.decide([prepared])
        assert outcome.decision.probabilities == pytest.approx(alone.decision.probabilities, abs=1e-4)
        assert (outcome.decision.votes is not None) is prepared.options.explain
        assert (outcome.text is not None) is (T in prepared.presence)


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: s.name)
def test_presence_is_what_was_given(predictor: Predictor, subset: ModalitySet) -> None:
    assert predictor.prepare(inputs(subset)).presence == subset


def test_silence_counts_as_missing_with_its_reason(predictor: Predictor) -> None:
    prepared = predictor.prepare(Inputs(text="Hello.", sound=sound(level=0.0)))
    assert prepared.presence == ModalitySet.of(T)
    assert prepared.empty[A].reason == "silent"
    assert prepared.audio is None


def test_an_answer_can_say_which_channel_was_heard_and_how_much_of_it(predictor: Predictor) -> None:
    prepared = predictor.prepare(Inputs(sound=replace(sound(), channel=1)))
    assert prepared.audio is not None
    assert (prepared.audio.seconds, prepared.audio.spoken, prepared.audio.channel) == (1.0, 1.0, 1)


def test_what_was_empty_before_stays_missing(predictor: Predictor) -> None:
    nobody = EmptyModality(V, "no_face", "nobody in it")
    prepared = predictor.prepare(Inputs(text="Hello.", empty={V: nobody}))
    assert prepared.empty == {V: nobody}


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
def test_a_text_that_is_not_english_or_no_words_is_doubtful(
    predictor: Predictor, text: str, doubtful: set[Modality], language: str | None
) -> None:
    prepared = predictor.prepare(Inputs(text=text, track=track()))
    assert prepared.doubtful == doubtful
    assert prepared.check is not None
    assert language in {None, prepared.check.language}


def test_what_is_not_there_is_not_doubtful(predictor: Predictor) -> None:
    assert predictor.prepare(inputs(V_ONLY)).doubtful == set()
    assert predictor.prepare(inputs(V_ONLY)).check is None


def test_a_face_without_any_action_unit_is_doubtful(predictor: Predictor) -> None:
    prepared = predictor.prepare(Inputs(track=replace(track(), all_zero=True)))
    assert prepared.doubtful == {V}
    (outcome,) = predictor.decide([prepared])
    assert outcome.decision.probabilities == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("probability", "doubtful"), [(None, set()), (0.5, set()), (0.49, {A}), (0.02, {A})])
def test_a_sound_that_is_likely_no_speech_is_doubtful(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, probability: float | None, doubtful: set[Modality]
) -> None:
    monkeypatch.setattr(predictor.pipeline.extractor, "reliability", SpeechWith(probability))
    prepared = predictor.prepare(Inputs(text="Hello there.", sound=sound()))
    assert prepared.doubtful == doubtful
    assert prepared.audio is not None
    assert prepared.audio.speech == probability


def test_a_sound_that_is_surely_no_speech_counts_as_missing_unless_any_sound_will_do(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.pipeline.extractor, "reliability", SpeechWith(0.019))
    prepared = predictor.prepare(Inputs(text="Hello there.", sound=sound()))
    assert (prepared.audio, prepared.empty[A].reason) == (None, "no_speech")
    taken = predictor.prepare(Inputs(sound=sound(), options=Options(any_sound=True)))
    assert taken.presence == ModalitySet.of(A)


def test_each_request_of_a_batch_has_its_own_doubts_and_threshold(predictor: Predictor) -> None:
    texts = ("What a lovely surprise!", "Je ne sais pas pourquoi il est parti si vite.")
    batch = [predictor.prepare(Inputs(text, options=Options(threshold=t))) for text in texts for t in (0.0, 1.0, None)]
    decisions = [outcome.decision for outcome in predictor.decide(batch)]
    assert [decision.threshold for decision in decisions] == [0.0, 1.0, 0.5, 0.0, 1.0, 0.5]
    assert [bool(decision.key_modalities) for decision in decisions[:2]] == [True, False]
    assert [decision.familiarity[T] for decision in decisions] == [1, 1, 1, 0, 0, 0]


def test_nothing_usable_is_an_error_that_names_every_empty_modality(predictor: Predictor) -> None:
    with pytest.raises(NothingUsable) as refusal:
        predictor.prepare(Inputs(sound=sound(level=0.0), empty={V: EmptyModality(V, "no_face", "nobody in it")}))
    assert set(refusal.value.empty) == {A, V}


def test_the_check_runs_what_is_known_to_work_and_shows_when_it_no_longer_does(tiny_weights: Path) -> None:
    broken = Predictor.load(tiny_weights, "cpu")
    broken.remember([broken.prepare(inputs(subset)) for subset in SUBSETS])
    broken.check()
    broken.pipeline.checkpoint.network.to("meta")  # weights without numbers: a device that lost its memory
    with pytest.raises(RuntimeError):
        broken.check()


def test_the_device_is_told_and_a_cpu_has_no_memory_of_its_own(predictor: Predictor) -> None:
    assert (predictor.device, predictor.device_memory()) == ("cpu", 0)


def test_a_device_that_is_not_there_is_a_config_error(tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        Predictor.load(tiny_weights, "abacus")


def test_a_folder_without_weights_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Predictor.load(tmp_path, "cpu")


def test_what_is_prepared_holds_no_frames_and_knows_whose_it_is(predictor: Predictor) -> None:
    prepared = predictor.prepare(inputs(SUBSETS[0]))
    assert prepared.predictor is predictor
    assert prepared.track is not None
    assert prepared.track.values.size == 0
    assert prepared.track.kept == 3
    assert prepared.tokens == 7  # [CLS] What a lovely surprise ! [SEP]


def test_sentences_of_any_length_are_answered_in_order_and_as_alone(predictor: Predictor) -> None:
    sentences = ["Fine.", "word " * 200, "What a lovely day it is!", "No", "a b c d e f g h " * 3, "x" * 300, "Yes."]
    batch = [predictor.prepare(Inputs(text=sentence)) for sentence in sentences]
    for prepared, outcome in zip(batch, predictor.decide(batch), strict=True):
        (alone,) = predictor.decide([prepared])
        assert outcome.decision.probabilities == pytest.approx(alone.decision.probabilities, abs=1e-4)
        assert outcome.text is not None
        assert alone.text is not None
        assert outcome.text.tokens == alone.text.tokens


def test_a_batch_costs_what_its_sentences_take_when_grouped(predictor: Predictor) -> None:
    short, long, mute = (predictor.prepare(given) for given in (Inputs("Fine."), Inputs("word " * 60), inputs(V_ONLY)))
    explained = predictor.prepare(Inputs("Fine.", options=Options(explain=True)))
    alone, many = predictor.cost([short]), predictor.cost([short] * 20)
    assert many < 20 * alone
    assert predictor.cost([mute]) < alone < predictor.cost([explained]) < predictor.cost([long])
    # One long sentence among short ones costs itself, and not its length for each of them.
    assert predictor.cost([*[short] * 20, long]) <= many + predictor.cost([long])
    assert predictor.cost([long] * 9) <= predictor.rates.budget < predictor.cost([long] * 11)


def test_splitting_a_very_long_text_into_tokens_counts_too(predictor: Predictor) -> None:
    long, longest = (predictor.prepare(Inputs("word " * count)) for count in (60, 13_000))
    assert predictor.cost([longest]) > 2 * predictor.cost([long])


def test_answers_that_are_no_numbers_are_an_error(tiny_weights: Path, tmp_path: Path) -> None:
    like(tiny_weights, tmp_path / "nan", scaled(float("nan")))
    nan = Predictor.load(tmp_path / "nan", "cpu")
    with pytest.raises(ArithmeticError):
        nan.decide([nan.prepare(Inputs("Hello."))])


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("the size of tensor a must match the size of tensor b"), False),
        (ArithmeticError("the probabilities are not finite"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_failures(error: Exception, short: bool) -> None:
    assert short_of_memory(error) is short


def test_running_out_of_the_machines_memory_is_told_too() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert short_of_memory(failure.value)


def test_passes_are_recorded_before_anything_is_served(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Pipeline] = []

    def record(pipeline: Pipeline) -> None:
        recorded.append(pipeline)

    monkeypatch.setattr(Pipeline, "record", record)
    predictor = Predictor.load(tiny_weights, "cpu")
    assert recorded == [predictor.pipeline]
