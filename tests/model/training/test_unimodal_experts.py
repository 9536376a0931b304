"""Unimodal experts: accuracy, weights of corpora, temperature and restoring from a state."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import Slots
from model.modality import Modality
from model.training.datasets.base import CLASSES, Example, SoundSource, Source, TextSource, Unclassed
from model.training.unimodal_experts import (
    MIN_HELD_OUT,
    PERCEPTRONS,
    UNCLASSED,
    UNCLASSED_WEIGHT,
    Expert,
    Perceptron,
    collect_items,
    corpus_weights,
    expert_input,
    expert_width,
    fit_expert,
)
from model.types import FloatArray
from tests.support.network import tiny_config
from tests.support.training import CONFIG

T, A, V = Modality
SIZE = CONFIG.feature_size(A)
EMOTIONS = {"negative": ("sad", "angry"), "neutral": ("calm",), "positive": ("happy",)}
ONE = tiny_config(
    slots=Slots(text=12, audio=1, visual=1),
    network=CONFIG.network.model_copy(update={"imputed_slots": Slots(text=4, audio=1, visual=1)}),
)
SMALL = tiny_config(slots=Slots(text=12, audio=8, visual=1))
STEPS = 100


def voices(
    count: int, seed: int, *, emotions: bool = True, variants: int = 0
) -> tuple[list[Example], dict[Source, FloatArray]]:
    """Clips whose polarity lies in the first half of their slots alone, in the order of the halves."""
    rng = np.random.default_rng(seed)
    examples, features = [], dict[Source, FloatArray]()
    for number in range(count):
        polarity = CLASSES[number % 3]
        source = SoundSource(Path(f"{seed}-{number}"))
        for variant in range(variants + 1):
            x = 0.3 * rng.standard_normal((8, SIZE))
            x[:4, number % 3] += 3
            x[4:, number % 3] -= 3  # the mean over slots says nothing
            features[SoundSource(source.path, variant)] = x.astype(np.float32)
        emotion = EMOTIONS[polarity][number % len(EMOTIONS[polarity])]
        examples.append(
            Example(
                str(number),
                "neutral",  # what the modality carries counts, not the label
                {A: source},
                {A: polarity},
                emotions={A: emotion} if emotions else {},
            )
        )
    return examples, features


def fitted(
    training: Sequence[Example],
    validation: Sequence[Example],
    features: Mapping[Source, FloatArray],
    modality: Modality = A,
    **options: Any,
) -> Expert:
    return fit_expert(
        modality, training, validation, features, **{"config": SMALL, "variants": 0, "steps": STEPS, **options}
    )


def answers(expert: Expert, examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> torch.Tensor:
    x = torch.stack([torch.from_numpy(features[e.sources[A]]) for e in examples])
    said: torch.Tensor = expert(x, torch.ones(x.shape[:2], dtype=torch.bool))
    return said


def accuracy(expert: Expert, examples: Sequence[Example], features: Mapping[Source, FloatArray]) -> float:
    said = answers(expert, examples, features).argmax(dim=1).tolist()
    return float(np.mean([CLASSES[a] == e.modality_labels[A] for a, e in zip(said, examples, strict=True)]))


def test_an_expert_uses_the_order_of_slots() -> None:
    training, features = voices(90, 0)
    validation, more = voices(30, 1)
    expert = fitted(training, validation, features | more)
    assert accuracy(expert, validation, more) > 0.8
    unseen, others = voices(60, 2)
    assert accuracy(expert, unseen, others) > 0.8


@pytest.mark.parametrize("emotions", [True, False])
def test_experts_learn_known_emotions_and_return_polarities(emotions: bool) -> None:
    training, features = voices(60, 0, emotions=emotions)
    expert = fitted(training, training[:12], features)
    assert expert.classes.shape == ((4 if emotions else 3), 3)
    assert torch.equal(expert.classes.sum(dim=1), torch.ones(len(expert.classes)))
    torch.testing.assert_close(answers(expert, training[:5], features).sum(dim=1), torch.ones(5))
    torch.testing.assert_close(expert.prior, torch.full((3,), 1 / 3))


def test_an_emotion_of_two_polarities_is_not_used() -> None:
    training, features = voices(60, 0)
    muddled = [Example(e.id, e.label, e.sources, e.modality_labels, emotions={A: "surprised"}) for e in training[:9]]
    expert = fitted(muddled + training[9:], training[:12], features)
    torch.testing.assert_close(expert.classes, torch.eye(3))


def surprised(count: int, seed: int) -> tuple[list[Unclassed], dict[Source, FloatArray]]:
    """Voices that look half like the positive ones and show something that goes with no class."""
    examples, features = voices(3 * count, seed)
    positive = [e.sources[A] for e in examples if e.modality_labels[A] == "positive"]
    beside = {source: features[source] * np.float32(0.5) for source in positive}
    return [Unclassed({A: source}, {A: "surprised"}) for source in positive], beside


def test_emotions_without_a_class_are_learned_and_then_excluded() -> None:
    training, features = voices(60, 0)
    others, beside = surprised(20, 5)
    expert = fitted(training, training[:12], features | beside, unclassed=others)
    assert sorted(expert.classes.sum(dim=1).tolist()) == [0, 1, 1, 1, 1]
    torch.testing.assert_close(expert.prior, torch.full((3,), 1 / 3))  # of the classes' own items
    x = torch.stack([torch.from_numpy(beside[o.sources[A]]) for o in others])
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(expert(x, valid).sum(dim=1), torch.ones(len(x)))
    regression = expert.members[0](expert_input(x, valid, expert.width))  # (N, 5)
    assert regression[:, expert.classes.sum(dim=1) == 0].mean() > 0.3
    assert accuracy(expert, training, features) > 0.9
    again = Expert.of_state(expert.state_dict(), A).eval()
    assert torch.equal(again(x, valid), expert(x, valid))


def test_without_useful_emotions_unclassed_content_is_not_used() -> None:
    training, features = voices(60, 0)
    muddled = [Example(e.id, e.label, e.sources, e.modality_labels, emotions={A: "felt"}) for e in training]
    others, beside = surprised(20, 5)
    expert = fitted(muddled, training[:12], features | beside, unclassed=others)
    alone = fitted(muddled, training[:12], features)
    torch.testing.assert_close(expert.classes, torch.eye(3))
    assert torch.equal(answers(expert, training, features), answers(alone, training, features))


def test_variants_are_used_and_each_source_counts_once() -> None:
    training, features = voices(30, 0, variants=2)
    expert = fitted(training + training, training[:12], features, variants=2)
    one = fitted(training, training[:12], features, variants=2)
    assert torch.equal(answers(expert, training, features), answers(one, training, features))
    without = fitted(training, training[:12], features)
    assert not torch.allclose(answers(expert, training, features), answers(without, training, features), atol=1e-3)


def test_items_have_source_polarity_corpus_and_variant() -> None:
    training, features = voices(3, 0, variants=1)
    others, beside = surprised(1, 5)
    items = collect_items(A, [*training, training[0]], features | beside, SMALL, 1, others)
    assert items.inputs.shape == (7, 8 * SIZE)
    assert items.polarities.tolist() == [0, 0, 1, 1, 2, 2, UNCLASSED]
    assert items.augmented.tolist() == [False, True] * 3 + [False]
    assert items.emotions.tolist() == ["sad", "sad", "calm", "calm", "happy", "happy", "surprised"]
    assert set(items.origins) == {""}
    nothing = collect_items(A, training, {}, SMALL, 1)
    assert nothing.inputs.shape == (0, 8 * SIZE)


def test_the_text_expert_is_one_linear_model() -> None:
    rng = np.random.default_rng(0)
    training = [Example(str(n), "neutral", {T: TextSource(str(n))}, {T: CLASSES[n % 3]}) for n in range(30)]
    features: dict[Source, FloatArray] = {
        e.sources[T]: rng.standard_normal((3, CONFIG.feature_size(T))).astype(np.float32) for e in training
    }
    assert len(fitted(training, training[:9], features, T, steps=5).members) == 1
    heard, sounds = voices(30, 0)
    assert len(fitted(heard, heard[:9], sounds, steps=5).members) == 1 + PERCEPTRONS


def test_members_have_equal_weight_and_the_temperature_is_an_exponent() -> None:
    torch.manual_seed(0)
    members = [Perceptron([SIZE, 3]), Perceptron([SIZE, 5, 3]), Perceptron([SIZE, 5, 3])]
    expert = Expert(members, torch.eye(3), torch.full((3,), 1 / 3), torch.tensor(0.5)).eval()
    x, valid = torch.randn(2, 4, SIZE), torch.ones(2, 4, dtype=torch.bool)
    mixed = torch.stack([member(x.mean(dim=1)) for member in members]).mean(dim=0)
    wanted = mixed.sqrt() / mixed.sqrt().sum(dim=1, keepdim=True)
    torch.testing.assert_close(expert(x, valid), wanted)


def test_corpora_and_their_classes_have_equal_weight() -> None:
    origins = ["large"] * 100 + ["small"] * 4 + ["single"]
    polarities = np.array([0] * 90 + [1] * 10 + [0, 1, 1, UNCLASSED] + [2])
    weights = corpus_weights(origins, polarities)
    assert weights.sum() == pytest.approx(1)
    names = np.array(origins)

    def share(origin: str, polarity: int) -> float:
        return float(weights[(names == origin) & (polarities == polarity)].sum())

    one = share("large", 0)
    assert [share("large", 1), share("small", 0), share("small", 1), share("single", 2)] == pytest.approx([one] * 4)
    assert share("small", UNCLASSED) == pytest.approx(UNCLASSED_WEIGHT * one)


def along(seed: int, count: int, origin: str, sign: int = 1) -> tuple[list[Example], dict[Source, FloatArray]]:
    """Clips of a corpus that are told apart along one direction, from negative to positive or the other way."""
    rng = np.random.default_rng(seed)
    examples, features = [], dict[Source, FloatArray]()
    for number in range(count):
        polarity = number % 3
        source = SoundSource(Path(f"{origin}-{seed}-{number}"))
        x = 0.3 * rng.standard_normal((1, SIZE))
        x[:, :8] += sign * (polarity - 1)
        features[source] = x.astype(np.float32)
        examples.append(Example(source.path.name, "neutral", {A: source}, {A: CLASSES[polarity]}, origins={A: origin}))
    return examples, features


def test_a_corpus_ten_times_larger_does_not_dominate() -> None:
    """Two corpora read one axis in opposite ways: with equal weights neither is followed."""
    large, features = along(0, 300, "large")
    small, more = along(1, 30, "small", sign=-1)
    probed, others = along(2, 60, "probe")

    def follows_the_large(expert: Expert) -> float:
        return float(answers(expert, [e for e in probed if e.modality_labels[A] == "positive"], others)[:, 2].mean())

    assert follows_the_large(fitted([*large, *small], [], features | more, config=ONE)) < 0.6
    merged = [replace(e, origins={A: "one"}) for e in (*large, *small)]
    assert follows_the_large(fitted(merged, [], features | more, config=ONE)) > 0.75


def test_a_contradicting_corpus_reduces_confidence() -> None:
    one, features = along(0, 3 * MIN_HELD_OUT, "one")
    alike, more = along(1, 3 * MIN_HELD_OUT, "alike")
    third, others = along(2, 3 * MIN_HELD_OUT, "third")
    contrary, opposite = along(3, 3 * MIN_HELD_OUT, "contrary", sign=-1)
    every = features | more | others | opposite
    unsure = fitted([*one, *alike, *contrary], [], every, config=ONE)
    sure = fitted([*one, *alike, *third], [], every, config=ONE)
    assert float(unsure.temperature) < 0.6
    assert float(sure.temperature) >= 1


def test_few_or_small_corpora_are_not_held_out() -> None:
    one, features = along(0, 3 * MIN_HELD_OUT, "one")
    alike, more = along(1, 3 * MIN_HELD_OUT, "alike")
    few, others = along(2, 3 * MIN_HELD_OUT - 3, "few", sign=-1)
    every = features | more | others
    assert float(fitted([*one, *few], [], every, config=ONE, steps=5).temperature) == 1
    assert float(fitted([*one, *alike, *few], [], every, config=ONE, steps=5).temperature) == 1


def test_validation_corpora_have_equal_weight_for_the_temperature() -> None:
    training, features = along(0, 60, "one")
    agreeing, more = along(1, 300, "agreeing")
    contrary, others = along(2, 9, "contrary", sign=-1)
    every = features | more | others
    assert float(fitted(training, agreeing, every, config=ONE).temperature) >= 1
    assert float(fitted(training, [*agreeing, *contrary], every, config=ONE).temperature) < 0.6


def test_invalid_slots_are_never_read() -> None:
    x = torch.randn(2, 3, 4)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    poisoned = x.masked_fill(~valid.unsqueeze(-1), 9.0)
    for width in (4, 20):
        torch.testing.assert_close(expert_input(x, valid, width), expert_input(poisoned, valid, width))
    torch.testing.assert_close(expert_input(x, valid, 4)[0], x[0, :2].mean(dim=0))
    whole = expert_input(x, valid, 20)
    assert whole.shape == (2, 20)
    assert torch.equal(whole[0], torch.cat([x[0, 0], x[0, 1], torch.zeros(12)]))


def test_large_inputs_are_replaced_by_their_mean() -> None:
    assert expert_width(CONFIG, A) == 20 * 33
    assert expert_width(CONFIG, T) == 384  # 12 × 384 are too many
    assert expert_width(CONFIG, V) == 35


def test_an_expert_is_restored_from_its_state() -> None:
    training, features = voices(30, 0)
    expert = fitted(training, training[:9], features, steps=20)
    expert.temperature.fill_(0.7)
    again = Expert.of_state(expert.state_dict(), A).eval()
    assert torch.equal(answers(again, training, features), answers(expert, training, features))


def test_fitting_is_reproducible_and_keeps_the_global_random_state() -> None:
    training, features = voices(30, 0)
    torch.manual_seed(3)
    first = fitted(training, training[:9], features, steps=20)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    second = fitted(training, training[:9], features, steps=20)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_without_validation_the_temperature_is_one() -> None:
    training, features = voices(30, 0)
    expert = fitted(training, [], features)
    assert float(expert.temperature) == 1
    assert accuracy(expert, training, features) > 0.9


def test_an_expert_may_have_two_classes() -> None:
    config = tiny_config(classes=("negative", "positive"), slots=SMALL.slots)
    training, features = voices(60, 0, emotions=False)
    two = [e for e in training if e.modality_labels[A] != "neutral"]
    said = answers(fitted(two, two[:12], features, config=config), two, features)
    assert said.shape == (len(two), 2)
    wanted = torch.tensor([config.classes.index(e.modality_labels[A]) for e in two])
    assert (said.argmax(dim=1) == wanted).float().mean() > 0.95
