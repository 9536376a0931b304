"""Soft targets: Bayes' rule worked out by hand, and nothing seen that is not there."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from model.emmr.batch import Batch, collate
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality
from model.training.corpora.base import Example
from model.training.evaluation import items_of
from model.training.experts import Expert, Perceptron
from model.training.teacher import Teacher, can_be_taught, fit_teacher
from tests.support.network import random_utterances
from tests.support.training import CLASSES, CONFIG, toy

pytestmark = pytest.mark.usefixtures("few_passes")

T, A, V = MODALITIES
CORPUS, FEATURES = toy()


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
        experts[modality] = Expert([Perceptron([CONFIG.feature_size(modality), 3])], torch.eye(3), prior / prior.sum())
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


def test_what_a_modality_carries_alone_is_its_experts_word_under_the_corpus_prior(
    teacher: Teacher, batch: Batch
) -> None:
    own, lesson = posteriors(teacher, batch), teacher(batch)
    for column, modality in enumerate(MODALITIES):
        marginal = teacher.joint.sum(dim=[d for d in range(4) if d != column])
        expert = teacher.experts[modality]
        assert isinstance(expert, Expert)
        wanted = own[modality] / expert.prior * marginal
        torch.testing.assert_close(lesson.alone[modality], wanted / wanted.sum(dim=1, keepdim=True))


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
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0)
    assert teacher is not None
    utterances = random_utterances(CONFIG, [COMPLETE])  # shapes only
    assert teacher(collate(utterances, CONFIG)).answer.shape == (1, 3)
    for split in (TRAINING, VALIDATION):
        items = items_of(split, FEATURES, CLASSES)
        answers = teacher(collate([i.utterance for i in items], CONFIG)).answer.argmax(dim=1)
        assert (answers == torch.tensor([i.label for i in items])).float().mean() > 0.9


def test_a_teacher_comes_back_from_its_state(batch: Batch) -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0)
    assert teacher is not None
    again = Teacher.of_state(teacher.state_dict())
    torch.testing.assert_close(again(batch).answer, teacher(batch).answer, rtol=0, atol=0)


def test_counts_of_the_training_part_are_the_joint_distribution() -> None:
    teacher = fit_teacher(TRAINING, VALIDATION, FEATURES, CONFIG, variants=0)
    assert teacher is not None
    for label in range(3):  # the toy's classes are equally frequent, and every modality carries the label
        assert float(teacher.joint[label, label, label, label]) == pytest.approx(1 / 3, abs=1e-2)
    assert float(teacher.joint.min()) > 0
    assert float(teacher.joint.sum()) == pytest.approx(1)


def test_a_corpus_that_does_not_say_what_each_modality_carries_has_no_teacher() -> None:
    silent = list(CORPUS.examples("train"))
    assert can_be_taught(TRAINING, FEATURES)
    assert not can_be_taught(silent, FEATURES)
    assert fit_teacher(silent, VALIDATION, FEATURES, CONFIG, variants=0) is None
    assert fit_teacher(TRAINING, silent, FEATURES, CONFIG, variants=0) is None
    mixed, others = toy(mixed=True)
    assert not can_be_taught(known(list(mixed.examples("train"))), others)
    always = [replace(e, modality_labels={**e.modality_labels, V: "neutral"}) for e in TRAINING]
    assert not can_be_taught(always, FEATURES)


def test_nor_has_one_whose_clips_are_all_silent() -> None:
    heard = {source: x for source, x in FEATURES.items() if source not in {e.sources[A] for e in TRAINING}}
    assert fit_teacher(TRAINING, VALIDATION, heard, CONFIG, variants=0) is None
