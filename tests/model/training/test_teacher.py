"""Soft targets: equal to Bayes' rule computed cell by cell, from held content only."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, Utterance
from model.network.batch import Batch, collate
from model.training.datasets.base import CLASSES, Example, SoundSource, Source, Split
from model.training.decision_table import items_of
from model.training.teacher import BALANCES, Teacher, fit_teacher, has_modality_labels
from model.training.unimodal_experts import Expert, Perceptron
from model.types import FloatArray
from tests.support.network import random_utterances
from tests.support.training import CONFIG, Toy, toy

T, A, V = MODALITIES
CORPUS, FEATURES = toy()
STEPS = 60


def known(examples: list[Example]) -> list[Example]:
    """The toy's examples, saying that each modality carries the label."""
    return [replace(e, modality_labels=dict.fromkeys(e.sources, e.label)) for e in examples]


TRAINING, VALIDATION = known(list(CORPUS.examples("train"))), known(list(CORPUS.examples("val")))


def fit(
    training: Sequence[Example], validation: Sequence[Example], features: Mapping[Source, FloatArray] = FEATURES
) -> Teacher | None:
    return fit_teacher(Toy({"train": training, "val": validation}), features, CONFIG, variants=0, steps=STEPS)


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


def test_the_answer_is_bayes_rule_over_present_modalities(teacher: Teacher, batch: Batch) -> None:
    own, targets = posteriors(teacher, batch), teacher(batch)
    for row, subset in enumerate(SUBSETS):
        wanted = by_hand(teacher, own, row, set(subset.present))
        assert targets.answer[row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_targets_of_subsets_use_the_modalities_of_their_heads(teacher: Teacher, batch: Batch) -> None:
    own, targets = posteriors(teacher, batch), teacher(batch)
    for row, present in enumerate(SUBSETS):
        for subset in SUBSETS:
            # Alone, of its true content, present or hidden; else of its own members, or of all that is there where one
            # of them has to be recovered; all three, of all that is held, whether it is there or not.
            whole = len(subset) == 1 or subset.present <= present.present
            seen = set(subset.present if whole or subset.complete else present.present)
            wanted = by_hand(teacher, own, row, seen)
            assert targets.subsets[subset.name][row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_single_modality_has_its_experts_posterior_under_the_corpus_prior(teacher: Teacher, batch: Batch) -> None:
    own, targets = posteriors(teacher, batch), teacher(batch)
    for column, modality in enumerate(MODALITIES):
        marginal = teacher.joint.sum(dim=[d for d in range(4) if d != column])
        expert = teacher.experts[modality]
        assert isinstance(expert, Expert)
        wanted = own[modality] / expert.prior * marginal
        torch.testing.assert_close(targets.alone[modality], wanted / wanted.sum(dim=1, keepdim=True))


def test_balance_divides_the_answer_by_a_power_of_the_prior(teacher: Teacher, batch: Batch) -> None:
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


class WithVoices(Toy):
    """The corpus of `rare_neutral`, with every voice as unimodal example; their classes are equally frequent."""

    def __init__(self) -> None:
        super().__init__({"train": rare_neutral("train", 48), "val": rare_neutral("val", 42)})

    def unimodal(self, split: Split) -> Sequence[Example]:
        return [
            Example(f"alone-{e.id}", e.label, {A: e.sources[A]}, {A: e.label}, origins={A: "alone"})
            for e in CORPUS.examples(split)
        ]


def test_validation_selects_a_balance_that_favours_the_rare_class() -> None:
    """The voices are blurred, so that under the prior of the pairs a neutral one alone is hardly ever called so."""
    rng = np.random.default_rng(0)
    blurred = {
        source: x + 12 * rng.standard_normal(x.shape).astype(np.float32) if isinstance(source, SoundSource) else x
        for source, x in FEATURES.items()
    }
    corpus = WithVoices()
    teacher = fit_teacher(corpus, blurred, CONFIG, variants=0, steps=STEPS)
    assert teacher is not None
    assert set(teacher.balance.tolist()) <= set(BALANCES)
    assert teacher.balance[0] == 0  # of nothing
    gamma = float(teacher.balance[2])
    assert gamma > 0
    voices = collate([Utterance({A: blurred[e.sources[A]]}) for e in corpus.unimodal("val")], CONFIG)
    shifted = teacher(voices).answer[:, 1]
    teacher.balance.zero_()
    assert bool((shifted > teacher(voices).answer[:, 1]).all())


def test_features_that_are_not_held_are_never_read(teacher: Teacher) -> None:
    batch = collate(random_utterances(CONFIG, SUBSETS), CONFIG)
    poisoned = {
        m: x.masked_fill(~batch.held[:, i, None, None], float("nan")) for i, (m, x) in enumerate(batch.features.items())
    }
    targets, other = teacher(batch), teacher(replace(batch, features=poisoned))
    torch.testing.assert_close(targets.answer, other.answer)
    assert bool(other.answer.isfinite().all())
    torch.testing.assert_close(targets.answer.sum(dim=1), torch.ones(7))


def test_a_teacher_of_a_separable_corpus_is_accurate_on_validation() -> None:
    teacher = fit(TRAINING, VALIDATION)
    assert teacher is not None
    utterances = random_utterances(CONFIG, [COMPLETE])  # shapes only
    assert teacher(collate(utterances, CONFIG)).answer.shape == (1, 3)
    for split in (TRAINING, VALIDATION):
        items = items_of(split, FEATURES, CLASSES)
        answers = teacher(collate([i.utterance for i in items], CONFIG)).answer.argmax(dim=1)
        assert (answers == torch.tensor([i.label for i in items])).float().mean() > 0.9


def test_the_prior_is_kept_if_all_balances_are_equally_good() -> None:
    teacher = fit(TRAINING, VALIDATION)
    assert teacher is not None
    assert teacher.balance.tolist() == [0.0] * 8


def test_few_validation_utterances_of_own_data_flatten_the_prior() -> None:
    corpus = Toy({"train": rare_neutral("train", 48), "val": rare_neutral("val", 21)[:6]})
    own = fit_teacher(corpus, FEATURES, CONFIG, variants=0, steps=STEPS, shared_labels=True)
    other = fit_teacher(corpus, FEATURES, CONFIG, variants=0, steps=STEPS)
    assert own is not None
    assert other is not None
    assert own.balance[1:].tolist() == [1.0] * 7
    assert float(other.balance.max()) < 1


def test_a_teacher_is_restored_from_its_state(batch: Batch) -> None:
    teacher = fit(TRAINING, VALIDATION)
    assert teacher is not None
    teacher.balance.copy_(torch.linspace(0, 1, 8))
    again = Teacher.of_state(teacher.state_dict()).eval()
    torch.testing.assert_close(again(batch).answer, teacher(batch).answer, rtol=0, atol=0)


def test_the_joint_distribution_is_counted_in_the_training_part() -> None:
    teacher = fit(TRAINING, VALIDATION)
    assert teacher is not None
    for label in range(3):  # the toy's classes are equally frequent, and every modality carries the label
        assert float(teacher.joint[label, label, label, label]) == pytest.approx(1 / 3, abs=1e-2)
    assert float(teacher.joint.min()) > 0
    assert float(teacher.joint.sum()) == pytest.approx(1)


def test_a_corpus_without_polarities_of_modalities_has_no_teacher() -> None:
    unlabelled = list(CORPUS.examples("train"))
    assert has_modality_labels(TRAINING, FEATURES)
    assert not has_modality_labels(unlabelled, FEATURES)
    assert fit(unlabelled, VALIDATION) is None
    assert fit(TRAINING, unlabelled) is None
    mixed, others = toy(mixed=True)
    assert not has_modality_labels(known(list(mixed.examples("train"))), others)
    always = [replace(e, modality_labels={**e.modality_labels, V: "neutral"}) for e in TRAINING]
    assert not has_modality_labels(always, FEATURES)


def test_a_corpus_without_audio_features_has_no_teacher() -> None:
    without_audio = {source: x for source, x in FEATURES.items() if source not in {e.sources[A] for e in TRAINING}}
    assert fit(TRAINING, VALIDATION, without_audio) is None


def test_shared_labels_teach_a_corpus_that_lacks_modalities() -> None:
    corpus, features = toy(train=42, val=21, mixed=True)
    voices = [e for e in corpus.parts["train"] if Modality.VISUAL not in e.sources]
    teacher = fit_teacher(
        Toy({"train": voices, "val": corpus.parts["val"]}), features, CONFIG, variants=0, steps=150, shared_labels=True
    )
    assert teacher is not None
    items = [e for e in corpus.parts["val"] if Modality.AUDIO in e.sources and len(e.sources) < 3]
    batch = collate([Utterance({m: features[s] for m, s in e.sources.items()}) for e in items], CONFIG)
    labels = [CONFIG.classes.index(e.label) for e in items]
    found = teacher(batch).answer.argmax(dim=1).tolist()
    assert np.mean(np.array(found) == labels) > 0.7
    # No face was in training, so that it has no influence.
    faces = [e for e in corpus.parts["val"] if set(e.sources) == {Modality.VISUAL}]
    batch = collate([Utterance({Modality.VISUAL: features[e.sources[Modality.VISUAL]]}) for e in faces], CONFIG)
    answers = teacher(batch).answer
    assert torch.allclose(answers, answers[:1].expand_as(answers))
