"""Soft targets: Bayes' rule worked out by hand, and nothing seen that is not there."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, Utterance
from model.network.batch import Batch, collate
from model.training.datasets.base import Example, SoundSource, Split
from model.training.evaluation import items_of
from model.training.teacher import BALANCES, Teacher, can_be_taught, fit_teacher
from model.training.unimodal_experts import Expert, Perceptron
from tests.support.network import random_utterances
from tests.support.training import CLASSES, CONFIG, toy

T, A, V = MODALITIES
CORPUS, FEATURES = toy()
STEPS = 60


def known(examples: list[Example]) -> list[Example]:
    """The toy's examples, saying that each modality carries the label."""
    return [replace(e, modality_labels=dict.fromkeys(e.sources, e.label)) for e in examples]


TRAINING, VALIDATION = known(list(CORPUS.examples("train"))), known(list(CORPUS.examples("val")))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    joint = torch.rand(3, 3, 3, 3)
    experts = {}
    for modality in MODALITIES:
        prior = torch.rand(3) + 0.2
        member = Perceptron([CONFIG.feature_size(modality), 3])
        experts[modality] = Expert([member], torch.eye(3), prior / prior.sum(), torch.tensor(0.8))
    return Teacher(experts, joint / joint.sum()).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    """One utterance under each of the seven patterns, all of them held whole."""
    whole = collate(random_utterances(CONFIG, [COMPLETE] * 7), CONFIG, room_to_impute=True)
    return whole.with_present(torch.tensor([s.mask() for s in SUBSETS]))


@torch.no_grad()
def posteriors(teacher: Teacher, batch: Batch) -> dict[Modality, Tensor]:
    return {m: teacher.experts[m](batch.features[m], batch.valid[m]) for m in MODALITIES}


def by_hand(teacher: Teacher, own: dict[Modality, Tensor], row: int, seen: set[Modality]) -> list[float]:
    """p(label | x) of one row, summed cell by cell."""
    weights = [0.0, 0.0, 0.0]
    for *polarities, label in product(range(3), repeat=4):
        weight = float(teacher.joint[(*polarities, label)])
        for modality, polarity in zip(MODALITIES, polarities, strict=True):
            if modality in seen:
                prior = teacher.experts[modality].prior
                assert isinstance(prior, Tensor)
                weight *= float(own[modality][row, polarity] / prior[polarity])
        weights[label] += weight
    return [w / sum(weights) for w in weights]


def test_the_answer_is_bayes_rule_over_what_is_present(teacher: Teacher, batch: Batch) -> None:
    own, lesson = posteriors(teacher, batch), teacher(batch)
    for row, subset in enumerate(SUBSETS):
        wanted = by_hand(teacher, own, row, set(subset.present))
        assert lesson.answer[row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_subset_is_told_what_it_can_know(teacher: Teacher, batch: Batch) -> None:
    own, lesson = posteriors(teacher, batch), teacher(batch)
    for row, present in enumerate(SUBSETS):
        for subset in SUBSETS:
            # Alone, of its true content, present or hidden; else of its own members, or of all that is there where one
            # of them has to be recovered; all three, of all that is held, whether it is there or not.
            whole = len(subset) == 1 or subset.present <= present.present
            seen = set(subset.present if whole or subset.complete else present.present)
            wanted = by_hand(teacher, own, row, seen)
            assert lesson.subsets[subset.name][row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_modality_alone_carries_its_experts_word_under_the_corpus_prior(teacher: Teacher, batch: Batch) -> None:
    own, lesson = posteriors(teacher, batch), teacher(batch)
    for column, modality in enumerate(MODALITIES):
        marginal = teacher.joint.sum(dim=[d for d in range(4) if d != column])
        expert = teacher.experts[modality]
        assert isinstance(expert, Expert)
        wanted = own[modality] / expert.prior * marginal
        torch.testing.assert_close(lesson.alone[modality], wanted / wanted.sum(dim=1, keepdim=True))


def test_balance_divides_a_subsets_answer_by_a_power_of_the_prior(teacher: Teacher, batch: Batch) -> None:
    flattened = copy.deepcopy(teacher)
    flattened.balance.copy_(torch.tensor([0.0, 1.0, 0.75, 0.0, 0.5, 0.0, 0.0, 0.25]))  # none, T, A, TA, V, TV, AV, TAV
    gammas = {"text": 1.0, "audio": 0.75, "visual": 0.5, "text+audio+visual": 0.25}
    before, after = teacher(batch), flattened(batch)
    prior = teacher.joint.sum(dim=(0, 1, 2))
    for row, subset in enumerate(SUBSETS):
        wanted = before.answer[row] * prior ** -gammas.get(subset.name, 0.0)
        torch.testing.assert_close(after.answer[row], wanted / wanted.sum())
    for modality in MODALITIES:
        torch.testing.assert_close(after.alone[modality], before.alone[modality])
        wanted = before.subsets[str(modality)] * prior ** -gammas[str(modality)]
        torch.testing.assert_close(after.subsets[str(modality)], wanted / wanted.sum(dim=1, keepdim=True))


def rare_neutral(split: Split, count: int) -> list[Example]:
    """Voices decide; a sixth of the labels is neutral, faces and words are of equal, unrelated polarities."""
    examples = []
    by_label = {name: [e for e in CORPUS.examples(split) if e.label == name] for name in CLASSES}
    for number in range(count):
        label = ("negative", "positive", "negative", "positive", "negative", "neutral")[number % 6]
        voice = by_label[label][number % len(by_label[label])]
        other = by_label[CLASSES[number % 3]][number % 5]
        sources = {T: other.sources[T], A: voice.sources[A], V: other.sources[V]}
        labels = {T: other.label, A: label, V: other.label}
        examples.append(Example(f"{split}-{number}", label, sources, labels, origins={A: "paired"}))
    return examples


def alone_of(split: Split) -> list[Example]:
    """Every voice alone, under equal frequencies."""
    return [
        Example(f"alone-{e.id}", e.label, {A: e.sources[A]}, {A: e.label}, origins={A: "alone"})
        for e in CORPUS.examples(split)
    ]


def test_validation_chooses_the_balance_that_shifts_a_voice_towards_neutral() -> None:
    """The voices are blurred, so that under the prior of the pairs a neutral one alone is hardly ever called so."""
    training, validation = rare_neutral("train", 48), rare_neutral("val", 42)
    rng = np.random.default_rng(0)
    blurred = {
        source: x + 12 * rng.standard_normal(x.shape).astype(np.float32) if isinstance(source, SoundSource) else x
        for source, x in FEATURES.items()
    }
    alone = alone_of("train"), alone_of("val")
    teacher = fit_teacher(training, validation, blurred, CONFIG, alone=alone, variants=0, steps=STEPS)
    assert teacher is not None
    assert set(teacher.balance.tolist()) <= set(BALANCES)
    assert teacher.balance[0] == 0  # of nothing
    gamma = float(teacher.balance[2])
    assert gamma > 0
    voices = collate([Utterance({A: blurred[e.sources[A]]}) for e in alone[1]], CONFIG)
    shifted = teacher(voices).answer[:, 1]
    teacher.balance.zero_()
    assert bool((shifted > teacher(voices).answer[:, 1]).all())


def test_what_is_not_held_is_never_read(teacher: Teacher) -> None:
    batch = collate(random_utterances(CONFIG, SUBSETS), CONFIG)
    poisoned = {
        m: x.masked_fill(~batch.held[:, i, None, None], float("nan")) for i, (m, x) in enumerate(batch.features.items())
    }
    lesson, other = teacher(batch), teacher(replace(batch, features=poisoned))
    torch.testing.assert_close(lesson.answer, other.answer)
    assert bool(other.answer.isfinite().all())
    torch.testing.assert_close(lesson.answer.sum(dim=1), torch.ones(7))


def test_a_teacher_fitted_to_a_separable_corpus_knows_its_validation_part() -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0, steps=STEPS)
    assert teacher is not None
    utterances = random_utterances(CONFIG, [COMPLETE])  # shapes only
    assert teacher(collate(utterances, CONFIG)).answer.shape == (1, 3)
    for split in (TRAINING, VALIDATION):
        items = items_of(split, FEATURES, CLASSES)
        answers = teacher(collate([i.utterance for i in items], CONFIG)).answer.argmax(dim=1)
        assert (answers == torch.tensor([i.label for i in items])).float().mean() > 0.9


def test_where_every_balance_is_as_good_the_prior_is_kept() -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0, steps=STEPS)
    assert teacher is not None
    assert teacher.balance.tolist() == [0.0] * 8


def test_a_teacher_comes_back_from_its_state(batch: Batch) -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0, steps=STEPS)
    assert teacher is not None
    teacher.balance.copy_(torch.linspace(0, 1, 8))
    again = Teacher.of_state(teacher.state_dict()).eval()
    torch.testing.assert_close(again(batch).answer, teacher(batch).answer, rtol=0, atol=0)


def test_counts_of_the_training_part_are_the_joint_distribution() -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0, steps=STEPS)
    assert teacher is not None
    for label in range(3):  # the toy's classes are equally frequent, and every modality carries the label
        assert float(teacher.joint[label, label, label, label]) == pytest.approx(1 / 3, abs=1e-2)
    assert float(teacher.joint.min()) > 0
    assert float(teacher.joint.sum()) == pytest.approx(1)


def test_a_corpus_silent_on_what_each_modality_carries_has_no_teacher() -> None:
    silent = list(CORPUS.examples("train"))
    assert can_be_taught(TRAINING, FEATURES)
    assert not can_be_taught(silent, FEATURES)
    assert fit_teacher(silent, VALIDATION, FEATURES, CONFIG, variants=0, steps=STEPS) is None
    assert fit_teacher(TRAINING, silent, FEATURES, CONFIG, variants=0, steps=STEPS) is None
    mixed, others = toy(mixed=True)
    assert not can_be_taught(known(list(mixed.examples("train"))), others)
    always = [replace(e, modality_labels={**e.modality_labels, V: "neutral"}) for e in TRAINING]
    assert not can_be_taught(always, FEATURES)


def test_nor_has_one_whose_clips_are_all_silent() -> None:
    heard = {source: x for source, x in FEATURES.items() if source not in {e.sources[A] for e in TRAINING}}
    assert fit_teacher(TRAINING, VALIDATION, heard, CONFIG, variants=0, steps=STEPS) is None
