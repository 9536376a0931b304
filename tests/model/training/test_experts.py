"""Experts of one modality alone: what they are fitted to, how they are averaged, that they come back from a file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.config import Slots
from model.modality import Modality
from model.training.corpora.base import Example, SoundSource, Source, TextSource, Unclassed
from model.training.experts import Expert, Perceptron, describe, described_width, fit_expert
from tests.support.network import tiny_config
from tests.support.training import CLASSES, CONFIG

pytestmark = pytest.mark.usefixtures("few_passes")

FloatArray = npt.NDArray[np.float32]
T, A, V = Modality
SIZE = CONFIG.feature_size(A)
EMOTIONS = {"negative": ("sad", "angry"), "neutral": ("calm",), "positive": ("happy",)}


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


def accuracy(expert: Expert, examples: list[Example], features: Mapping[Source, FloatArray]) -> float:
    x = torch.stack([torch.from_numpy(features[e.sources[A]]) for e in examples])
    answers = expert(x, torch.ones(x.shape[:2], dtype=torch.bool)).argmax(dim=1)
    return float(np.mean([CLASSES[a] == e.modality_labels[A] for a, e in zip(answers.tolist(), examples, strict=True)]))


def test_an_expert_learns_from_the_order_of_slots_what_their_mean_does_not_say() -> None:
    config = tiny_config(slots=Slots(text=12, audio=8, visual=1))
    training, features = voices(90, 0)
    validation, more = voices(30, 1)
    expert = fit_expert(A, training, validation, features | more, config, variants=0)
    assert accuracy(expert, validation, more) > 0.8
    unseen, others = voices(60, 2)
    assert accuracy(expert, unseen, others) > 0.8


@pytest.mark.parametrize("emotions", [True, False])
def test_its_answer_is_a_distribution_over_polarities_and_emotions_are_told_apart_where_known(emotions: bool) -> None:
    training, features = voices(60, 0, emotions=emotions)
    expert = fit_expert(A, training, training[:12], features, CONFIG, variants=0)
    assert expert.classes.shape == ((4 if emotions else 3), 3)
    assert torch.equal(expert.classes.sum(dim=1), torch.ones(len(expert.classes)))
    x = torch.randn(5, 8, SIZE)
    answer = expert(x, torch.ones(5, 8, dtype=torch.bool))
    torch.testing.assert_close(answer.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(expert.prior, torch.full((3,), 1 / 3))


def test_an_emotion_that_goes_with_two_polarities_is_not_used() -> None:
    training, features = voices(60, 0)
    surprised = [
        Example(e.id, e.label, e.sources, e.modality_labels, emotions={A: "surprised"}) for e in training[:9]
    ] + training[9:]
    expert = fit_expert(A, surprised, training[:12], features, CONFIG, variants=0)
    torch.testing.assert_close(expert.classes, torch.eye(3))


def surprised(count: int, seed: int) -> tuple[list[Unclassed], dict[Source, FloatArray]]:
    """Voices that look half like the positive ones and show something that goes with no class."""
    examples, features = voices(3 * count, seed)
    positive = [e.sources[A] for e in examples if e.modality_labels[A] == "positive"]
    beside = {source: features[source] * np.float32(0.5) for source in positive}
    return [Unclassed({A: source}, {A: "surprised"}) for source in positive], dict(beside)


def test_what_goes_with_no_class_is_told_apart_and_then_ruled_out() -> None:
    training, features = voices(60, 0)
    others, beside = surprised(20, 5)
    expert = fit_expert(A, training, training[:12], features | beside, CONFIG, unclassed=others, variants=0)
    assert expert.classes.shape == (5, 3)
    assert sorted(expert.classes.sum(dim=1).tolist()) == [0, 1, 1, 1, 1]
    torch.testing.assert_close(expert.prior, torch.full((3,), 1 / 3))  # of the classes' own items
    x = torch.stack([torch.from_numpy(beside[o.sources[A]]) for o in others])
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(expert(x, valid).sum(dim=1), torch.ones(len(x)))
    regression = expert.members[0](describe(x, valid, expert.width))  # (N, 5)
    without_class = expert.classes.sum(dim=1) == 0
    assert regression[:, without_class].mean() > 0.5
    assert accuracy(expert, training, features) > 0.9
    again = Expert.of_state(expert.state_dict())
    assert torch.equal(again(x, valid), expert(x, valid))


def test_where_emotions_are_of_no_use_what_has_no_class_is_of_none_either() -> None:
    training, features = voices(60, 0)
    muddled = [Example(e.id, e.label, e.sources, e.modality_labels, emotions={A: "felt"}) for e in training]
    others, beside = surprised(20, 5)
    expert = fit_expert(A, muddled, training[:12], features | beside, CONFIG, unclassed=others, variants=0)
    alone = fit_expert(A, muddled, training[:12], features, CONFIG, variants=0)
    torch.testing.assert_close(expert.classes, torch.eye(3))
    x, valid = torch.randn(4, 8, SIZE), torch.ones(4, 8, dtype=torch.bool)
    assert torch.equal(expert(x, valid), alone(x, valid))


def test_variants_are_learnt_from_and_a_source_counts_once() -> None:
    training, features = voices(30, 0, variants=2)
    expert = fit_expert(A, training + training, training[:12], features, CONFIG, variants=2)
    one = fit_expert(A, training, training[:12], features, CONFIG, variants=2)
    x = torch.randn(4, 8, SIZE)
    valid = torch.ones(4, 8, dtype=torch.bool)
    assert torch.equal(expert(x, valid), one(x, valid))
    without = fit_expert(A, training, training[:12], features, CONFIG, variants=0)
    assert not torch.allclose(expert(x, valid), without(x, valid), atol=1e-3)


def test_text_has_a_regression_alone() -> None:
    rng = np.random.default_rng(0)
    training = [Example(str(n), "neutral", {T: TextSource(str(n))}, {T: CLASSES[n % 3]}) for n in range(30)]
    features: dict[Source, FloatArray] = {
        e.sources[T]: rng.standard_normal((3, CONFIG.feature_size(T))).astype(np.float32) for e in training
    }
    expert = fit_expert(T, training, training[:9], features, CONFIG, variants=0)
    assert len(expert.members) == 1
    heard, sounds = voices(30, 0)
    assert len(fit_expert(A, heard, heard[:9], sounds, CONFIG, variants=0).members) == 3


def test_a_regression_counts_as_much_as_all_perceptrons() -> None:
    torch.manual_seed(0)
    members = [Perceptron([SIZE, 3]), Perceptron([SIZE, 5, 3]), Perceptron([SIZE, 5, 3])]
    expert = Expert(members, torch.eye(3), torch.full((3,), 1 / 3))
    x, valid = torch.randn(2, 4, SIZE), torch.ones(2, 4, dtype=torch.bool)
    mean = x.mean(dim=1)
    wanted = 0.5 * members[0](mean) + 0.25 * members[1](mean) + 0.25 * members[2](mean)
    torch.testing.assert_close(expert(x, valid), wanted)


def test_slots_that_are_not_valid_are_never_read() -> None:
    x = torch.randn(2, 3, 4)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    poisoned = x.masked_fill(~valid.unsqueeze(-1), 9.0)
    for width in (4, 20):
        torch.testing.assert_close(describe(x, valid, width), describe(poisoned, valid, width))
    torch.testing.assert_close(describe(x, valid, 4)[0], x[0, :2].mean(dim=0))
    whole = describe(x, valid, 20)
    assert whole.shape == (2, 20)
    assert torch.equal(whole[0], torch.cat([x[0, 0], x[0, 1], torch.zeros(12)]))


def test_long_items_are_described_by_their_mean() -> None:
    assert described_width(CONFIG, A) == 20 * 33
    assert described_width(CONFIG, T) == 384  # 12 × 384 are too many
    assert described_width(CONFIG, V) == 35


def test_an_expert_comes_back_from_its_state() -> None:
    training, features = voices(30, 0)
    expert = fit_expert(A, training, training[:9], features, CONFIG, variants=0)
    again = Expert.of_state(expert.state_dict())
    x, valid = torch.randn(3, 8, SIZE), torch.ones(3, 8, dtype=torch.bool)
    assert torch.equal(again(x, valid), expert(x, valid))


def test_without_anything_to_judge_by_a_middling_penalty_is_taken() -> None:
    training, features = voices(30, 0)
    expert = fit_expert(A, training, [], features, CONFIG, variants=0)
    assert accuracy(expert, training, features) > 0.9


def test_two_classes_are_told_apart_as_three_are() -> None:
    config = tiny_config(classes=("negative", "positive"))
    training, features = voices(60, 0, emotions=False)
    two = [e for e in training if e.modality_labels[A] != "neutral"]
    expert = fit_expert(A, two, two[:12], features, config, variants=0)
    x = torch.stack([torch.from_numpy(features[e.sources[A]]) for e in two])
    answers = expert(x, torch.ones(x.shape[:2], dtype=torch.bool))
    assert answers.shape == (len(two), 2)
    wanted = torch.tensor([config.classes.index(e.modality_labels[A]) for e in two])
    assert (answers.argmax(dim=1) == wanted).float().mean() > 0.95
