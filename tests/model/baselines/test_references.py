import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from model.baselines.base import LabelledUtterance
from model.baselines.references import (
    LEAVES,
    PENALTIES,
    SVM_PENALTIES,
    TREES,
    BestClassical,
    Classifier,
    LateFusion,
    _Data,
)
from model.modality import COMPLETE, MODALITIES, SINGLES, SUBSETS, Modality, ModalitySet
from model.types import FloatArray
from tests.support.baselines import CONFIG, batch_of, config_of, fitted, hide, labelled

VISUAL = ModalitySet.of(Modality.VISUAL)
TRAINING, VALIDATION = labelled(CONFIG, 40), labelled(CONFIG, 20, seed=1)


@pytest.fixture(scope="module")
def data() -> _Data:
    return _Data.of(VISUAL, TRAINING, VALIDATION, CONFIG)


def plain(classifier: Classifier, x: torch.Tensor) -> FloatArray:
    """Logits without the factor of calibration."""
    logits: FloatArray = (classifier(x) / classifier.factor).numpy()
    return logits


def test_logits_are_those_of_logistic_regression(data: _Data) -> None:
    x = torch.from_numpy(data.unseen)
    for penalty, classifier in zip(PENALTIES, data.linear(), strict=True):
        reference = LogisticRegression(C=penalty, max_iter=1000).fit(data.x, data.y)
        expected = reference.decision_function((data.unseen - data.mean) / data.scale)
        np.testing.assert_allclose(plain(classifier, x), expected, atol=1e-3)


def test_logits_are_those_of_support_vector_machines(data: _Data) -> None:
    for penalty, classifier in zip(SVM_PENALTIES, data.support_vectors(0), strict=True):
        machine = SVC(C=penalty, gamma="scale").fit(data.x, data.y == 1)
        expected = machine.decision_function((data.unseen - data.mean) / data.scale)
        np.testing.assert_allclose(plain(classifier, torch.from_numpy(data.unseen))[:, 1], expected, atol=1e-3)


def test_probabilities_are_those_of_the_random_forest(data: _Data) -> None:
    (classifier,) = data.forest(seed=5)
    forest = RandomForestClassifier(TREES, max_leaf_nodes=LEAVES, min_samples_leaf=2, random_state=5)
    expected = forest.fit(data.x, data.y).predict_proba((data.unseen - data.mean) / data.scale)
    found = np.exp(plain(classifier, torch.from_numpy(data.unseen)))
    np.testing.assert_allclose(found, np.maximum(expected, 1e-4), atol=1e-5)


def test_calibration_does_not_increase_the_validation_log_loss(data: _Data) -> None:
    for classifier in (*data.linear(), *data.support_vectors(0), *data.forest(0)):
        logits = torch.from_numpy(plain(classifier, torch.from_numpy(data.unseen)))
        uncalibrated = log_loss(data.unseen_y, logits.softmax(dim=1).numpy(), labels=[0, 1, 2])
        assert data.log_loss(classifier) <= uncalibrated + 1e-4


def test_two_classes_have_the_log_odds_of_the_second() -> None:
    config = config_of("late-fusion", classes=("no", "yes"))
    data = _Data.of(VISUAL, labelled(config, 20), labelled(config, 10, seed=1), config)
    classifier = next(data.linear())
    reference = LogisticRegression(C=PENALTIES[0], max_iter=1000).fit(data.x, data.y)
    logits = plain(classifier, torch.from_numpy(data.unseen))
    expected = reference.decision_function((data.unseen - data.mean) / data.scale)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)


def test_a_class_without_training_utterances_is_never_answered() -> None:
    training = [(u, label) for u, label in TRAINING if label != 1]
    data = _Data.of(VISUAL, training, VALIDATION, CONFIG)
    for classifier in (*data.linear(), *data.support_vectors(0), *data.forest(0)):
        assert 1 not in classifier(torch.from_numpy(data.unseen)).argmax(dim=1).tolist()


def test_late_fusion_joins_posteriors_by_bayes_rule() -> None:
    network = fitted("late-fusion")
    assert isinstance(network, LateFusion)
    batch, _ = batch_of(VALIDATION)
    count = len(VALIDATION)
    alone = {s: network(hide(batch, [s] * count)).log_softmax(dim=1) for s in SINGLES}
    for subset in SUBSETS:
        members = [alone[ModalitySet.of(m)] for m in subset]
        expected = torch.stack(members).sum(dim=0) - (len(subset) - 1) * network.log_prior
        found = network(hide(batch, [subset] * count))
        torch.testing.assert_close(found.softmax(dim=1), expected.softmax(dim=1))


def test_independent_evidence_gives_the_exact_posterior() -> None:
    network = LateFusion(config_of("late-fusion"))
    network.log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    likelihoods = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    for m, likelihood in zip(MODALITIES, likelihoods, strict=True):
        expert = network.experts[m]
        assert isinstance(expert, Classifier)
        expert.fitted["linear"].get_buffer("bias").copy_(likelihood.log() + network.log_prior)
    batch, _ = batch_of(labelled(CONFIG, 1))
    joint = torch.tensor([0.5, 0.3, 0.2]) * likelihoods.prod(dim=0)
    torch.testing.assert_close(network(batch).softmax(dim=1)[0], joint / joint.sum())


def test_the_best_classifier_of_each_subset_is_chosen_on_validation() -> None:
    network = fitted("classical")
    assert isinstance(network, BestClassical)
    for subset in (VISUAL, SUBSETS[3]):
        data = _Data.of(subset, labelled(CONFIG, 30), labelled(CONFIG, 15, seed=1), CONFIG)
        candidates = (*data.linear(), *data.support_vectors(0), *data.forest(0))
        chosen = network.classifiers[subset.name]
        assert isinstance(chosen, Classifier)
        assert data.macro_f1(chosen) == max(map(data.macro_f1, candidates))


@pytest.mark.parametrize("kind", ["linear", "svm", "forest"])
def test_loading_builds_the_classifier_of_the_state(kind: str, data: _Data) -> None:
    found = {"linear": data.linear(), "svm": data.support_vectors(0), "forest": data.forest(0)}
    classifier = next(found[kind])
    loaded = Classifier(CONFIG.feature_size(Modality.VISUAL), 3)
    loaded.load_state_dict(classifier.state_dict())
    assert loaded.kind == kind
    x = torch.from_numpy(data.unseen)
    assert torch.equal(loaded(x), classifier(x))


def test_a_state_of_an_unknown_kind_is_refused(data: _Data) -> None:
    state = {name.replace("linear", "neighbours"): x for name, x in next(data.linear()).state_dict().items()}
    with pytest.raises(RuntimeError, match="neighbours"):
        Classifier(CONFIG.feature_size(Modality.VISUAL), 3).load_state_dict(state)


@pytest.mark.parametrize("kind", [LateFusion, BestClassical])
def test_a_modality_without_training_content_gets_the_prior(kind: type[LateFusion | BestClassical]) -> None:
    without: list[LabelledUtterance] = [(u.keep((Modality.TEXT, Modality.VISUAL)), label) for u, label in TRAINING]
    network = kind(config_of("classical"))
    network.fit([*without, *without[:1] * 60], VALIDATION, seed=0)
    batch, _ = batch_of(VALIDATION)
    answers = network(hide(batch, [ModalitySet.of(Modality.AUDIO)] * 20)).softmax(dim=1)
    assert len(answers.unique(dim=0)) == 1
    together = network(hide(batch, [COMPLETE] * 20)).argmax(dim=1)
    if kind is LateFusion:
        assert len(together.unique()) == 3
