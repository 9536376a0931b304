"""The training loss against formulas evaluated by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from model.config import BRANCHES
from model.modality import COMPLETE, MODALITIES, SUBSETS, Modality, ModalitySet
from model.network.batch import Batch, collate
from model.network.emmr import EMMR, Output
from model.network.encoders import split
from model.network.guidance import GuidanceNetwork
from model.network.losses import IGNORED, LossSettings, SoftTargets, Targets, symmetric_kl, total_loss
from tests.support.network import ABLATIONS, ablation_config, random_network, random_utterances, tiny_config

CONFIG = tiny_config()
T, A, V = MODALITIES
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
OWN = {T: LABELS, A: LABELS.flip(0), V: LABELS.roll(1)}
TARGETS = Targets(LABELS, OWN)


@pytest.fixture(scope="module")
def network() -> EMMR:
    return random_network(CONFIG)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """One complete utterance under each of the seven missing patterns."""
    whole = collate(random_utterances(CONFIG, [COMPLETE] * 7), CONFIG, room_to_impute=True)
    return whole.with_present(torch.tensor([s.mask() for s in SUBSETS]))


@pytest.fixture(scope="module")
def output(network: EMMR, batch: Batch) -> Output:
    with torch.no_grad():
        found: Output = network(batch)
        return found


@pytest.fixture(scope="module")
def guidance(batch: Batch) -> Tensor:
    torch.manual_seed(1)
    return GuidanceNetwork(CONFIG).eval().guide(batch)


def parts_of(
    output: Output, batch: Batch, guidance: Tensor | None = None, targets: Targets = TARGETS, **settings: object
) -> dict[str, Tensor]:
    return total_loss(output, targets, batch.held, guidance, LossSettings.model_validate(settings))[1]


def test_symmetric_kl_equals_the_formula() -> None:
    p, q = [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    backward = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    a, b = torch.tensor([[p]]).log() + 3, torch.tensor([[q]]).log() - 1  # a softmax is shift-invariant
    assert symmetric_kl(a, b, torch.ones(1, 1)).item() == pytest.approx(0.5 * (forward + backward), rel=1e-5)


def test_symmetric_kl_is_symmetric_and_zero_only_for_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 4, 8, generator=generator) for _ in range(2))
    weights = torch.ones(3, 4)
    torch.testing.assert_close(symmetric_kl(a, b, weights), symmetric_kl(b, a, weights))
    assert symmetric_kl(a, b, weights) > 0
    assert symmetric_kl(a, a, weights).item() == pytest.approx(0, abs=1e-7)


def test_symmetric_kl_is_the_weighted_mean_over_slots() -> None:
    a, b = (torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(k)) for k in range(2))
    each = [symmetric_kl(a[:, i : i + 1], b[:, i : i + 1], torch.ones(1, 1)) for i in range(3)]
    weights = torch.tensor([[1.0, 0.0, 4.0]])
    torch.testing.assert_close(symmetric_kl(a, b, weights), (each[0] + 4 * each[2]) / 5)


def test_similarity_without_slots_is_zero() -> None:
    a = torch.randn(1, 3, 8)
    assert symmetric_kl(a, -a, torch.zeros(1, 3)).item() == 0


def test_total_is_the_weighted_sum_of_its_parts(output: Output, batch: Batch, guidance: Tensor) -> None:
    settings = LossSettings(forward_weight=0.3, backward_weight=0.7, auxiliary_weight=0.2, modality_weight=0.4)
    total, parts = total_loss(output, TARGETS, batch.held, guidance, settings)
    assert all(part > 0 for part in parts.values())
    expected = (
        0.5 * (parts["transformer"] + parts["ensemble"])
        + 0.2 * parts["auxiliary"]
        + 0.4 * parts["modality"]
        + 0.3 * parts["forward"]
        + 0.7 * parts["backward"]
    )
    torch.testing.assert_close(total, expected)


def test_both_paths_are_trained_on_the_label(output: Output, batch: Batch) -> None:
    parts = parts_of(output, batch)
    torch.testing.assert_close(parts["transformer"], F.cross_entropy(output.transformer, LABELS))
    torch.testing.assert_close(parts["ensemble"], F.cross_entropy(output.ensemble, LABELS))


def test_every_head_of_every_branch_is_trained_on_the_label(output: Output, batch: Batch) -> None:
    assert len(output.heads) == 4 * len(BRANCHES) + 3
    mean = torch.stack([F.cross_entropy(logits, LABELS) for logits in output.heads.values()]).mean()
    torch.testing.assert_close(parts_of(output, batch)["auxiliary"], mean)


@pytest.mark.parametrize("name", ABLATIONS)
def test_loss_of_an_ablation_trains_every_parameter(name: str, batch: Batch, guidance: Tensor) -> None:
    network = random_network(ablation_config(name))
    loss, parts = total_loss(network(batch), TARGETS, batch.held, guidance, LossSettings())
    loss.backward()
    assert {n for n, parameter in network.named_parameters() if parameter.grad is None} == set()
    assert all(part > 0 for part in parts.values())


def test_single_head_is_trained_only_where_its_modality_is_held(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [COMPLETE, ModalitySet.of(T), ModalitySet.of(T, A)]), CONFIG)
    targets = Targets(torch.tensor([0, 1, 2]), {})
    with torch.no_grad():
        output = network(batch)
    parts = parts_of(output, batch, targets=targets)
    rows = {"text": [0, 1, 2], "audio": [0, 2], "visual": [0]}
    losses = [
        F.cross_entropy(logits[rows.get(name, [0, 1, 2])], targets.labels[rows.get(name, [0, 1, 2])])
        for (_, name), logits in output.heads.items()
    ]
    torch.testing.assert_close(parts["auxiliary"], torch.stack(losses).mean())


def test_head_of_a_modality_held_nowhere_is_omitted(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [ModalitySet.of(T)] * 2), CONFIG)
    targets = Targets(torch.tensor([0, 1]), {m: torch.tensor([0, 1]) for m in MODALITIES})
    with torch.no_grad():
        output = network(batch)
    parts = parts_of(output, batch, targets=targets)
    losses = [
        F.cross_entropy(logits, targets.labels)
        for (_, name), logits in output.heads.items()
        if name not in {"audio", "visual"}
    ]
    torch.testing.assert_close(parts["auxiliary"], torch.stack(losses).mean())
    torch.testing.assert_close(parts["modality"], F.cross_entropy(output.modality_heads[T], targets.labels))


def test_modality_heads_are_trained_on_their_own_labels(output: Output, batch: Batch) -> None:
    mean = torch.stack([F.cross_entropy(output.modality_heads[m], OWN[m]) for m in MODALITIES]).mean()
    torch.testing.assert_close(parts_of(output, batch)["modality"], mean)


def test_unknown_labels_are_ignored(output: Output, batch: Batch) -> None:
    some = OWN[T].clone()
    some[3:] = IGNORED
    targets = Targets(LABELS, {T: some, A: torch.full_like(LABELS, IGNORED)})
    expected = F.cross_entropy(output.modality_heads[T][:3], OWN[T][:3])
    torch.testing.assert_close(parts_of(output, batch, targets=targets)["modality"], expected)
    nothing = Targets(LABELS, {m: torch.full_like(LABELS, IGNORED) for m in MODALITIES})
    assert parts_of(output, batch, targets=nothing)["modality"].item() == 0


def test_class_weights_and_label_smoothing_are_applied(output: Output, batch: Batch) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5])
    parts = parts_of(output, batch, targets=replace(TARGETS, class_weights=weights), label_smoothing=0.1)
    expected = F.cross_entropy(output.transformer, LABELS, weights, label_smoothing=0.1)
    torch.testing.assert_close(parts["transformer"], expected)


@pytest.mark.parametrize("kind", ["kl", "mae", "cosine"])
def test_forward_loss_compares_encodings_with_the_guidance(
    output: Output, batch: Batch, guidance: Tensor, kind: str
) -> None:
    known = output.known
    expected = torch.stack([plain(output.encodings[b][known], guidance[known], kind).mean() for b in BRANCHES]).mean()
    torch.testing.assert_close(parts_of(output, batch, guidance, similarity=kind)["forward"], expected)


def plain(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Dissimilarity of the rows of two `(N, D)`, with functions of torch: `(N,)`."""
    if kind == "mae":
        return F.l1_loss(a, b, reduction="none").mean(dim=1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(a, b)
    log_a, log_b = a.log_softmax(dim=1), b.log_softmax(dim=1)
    both = [F.kl_div(x, y, reduction="none", log_target=True).sum(dim=1) for x, y in ((log_a, log_b), (log_b, log_a))]
    return 0.5 * (both[0] + both[1])


def test_forward_loss_is_zero_without_guidance(output: Output, batch: Batch) -> None:
    assert parts_of(output, batch, None)["forward"].item() == 0


@pytest.mark.parametrize("target", ["complete", "input"])
@pytest.mark.parametrize("kind", ["kl", "mae", "cosine"])
@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_backward_loss_weights_missing_slots_and_ignores_padding(
    output: Output, batch: Batch, kind: str, target: str, weight: float
) -> None:
    wanted = output.complete if target == "complete" else output.filled
    missing = torch.cat(
        [(~batch.present[:, i, None]).expand_as(batch.valid[m]) for i, m in enumerate(MODALITIES)], dim=1
    )
    weights = torch.where(missing, weight, 1.0)[output.known]
    expected = torch.stack(
        [
            (plain(output.decodings[b][output.known], wanted[output.known], kind) * weights).sum() / weights.sum()
            for b in BRANCHES
        ]
    ).mean()
    found = parts_of(output, batch, similarity=kind, backward_target=target, missing_slot_weight=weight)["backward"]
    torch.testing.assert_close(found, expected)


def test_slots_without_known_content_have_no_weight(output: Output, batch: Batch, guidance: Tensor) -> None:
    unknown = ~output.known
    assert unknown.any()

    def with_noise(x: Tensor) -> Tensor:
        return torch.where(unknown[:, :, None], 50.0 * torch.randn_like(x), x)

    other = replace(
        output,
        common=split(with_noise(output.complete), batch.valid),
        filled=with_noise(output.filled),
        encodings={b: with_noise(x) for b, x in output.encodings.items()},
        decodings={b: with_noise(x) for b, x in output.decodings.items()},
    )
    clean = parts_of(output, batch, guidance)
    for name, part in parts_of(other, batch, with_noise(guidance)).items():
        torch.testing.assert_close(part, clean[name], atol=0, rtol=0)


def test_content_that_is_not_held_is_no_target(network: EMMR) -> None:
    batch = collate(random_utterances(CONFIG, [ModalitySet.of(V)] * 2), CONFIG)
    with torch.no_grad():
        output = network(batch)
    text_and_audio = batch.valid[T].shape[1] + batch.valid[A].shape[1]
    assert output.imputed[:, :text_and_audio].any()
    assert not output.known[:, :text_and_audio].any()
    assert output.known[:, text_and_audio:].all()


@pytest.mark.parametrize("target", ["complete", "input"])
def test_target_of_the_backward_loss_gets_no_gradient(network: EMMR, batch: Batch, target: str) -> None:
    output = network(batch)
    parts = {b: x.detach().requires_grad_() for b, x in output.decodings.items()}
    leaves = replace(
        output,
        decodings=parts,
        common={m: x.detach().requires_grad_() for m, x in output.common.items()},
        filled=output.filled.detach().requires_grad_(),
    )
    settings = LossSettings.model_validate({"backward_target": target})
    total_loss(leaves, TARGETS, batch.held, None, settings)[0].backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in parts.values())
    assert all(x.grad is None for x in leaves.common.values())
    assert leaves.filled.grad is None


def test_parts_are_detached(network: EMMR, batch: Batch) -> None:
    total, parts = total_loss(network(batch), TARGETS, batch.held, None, LossSettings())
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("settings", [{"similarity": "l2"}, {"forward_weight": -1}, {"missing_slot_weight": 0.5}])
def test_unknown_options_and_weights_out_of_range_are_rejected(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LossSettings.model_validate(settings)


def test_default_weights_are_those_of_the_paper() -> None:
    settings = LossSettings()
    assert (settings.forward_weight, settings.backward_weight, settings.similarity) == (0.1, 0.1, "kl")
    assert settings.backward_target == "complete"


def test_labels_of_modalities_are_not_interchangeable(output: Output, batch: Batch) -> None:
    swapped: dict[Modality, Tensor] = {T: OWN[A], A: OWN[T], V: OWN[V]}
    one = parts_of(output, batch)["modality"]
    assert not torch.allclose(parts_of(output, batch, targets=Targets(LABELS, swapped))["modality"], one)


def soft_targets(probability: float) -> SoftTargets:
    """Soft targets with a given probability of the label."""

    def distributions(labels: Tensor) -> Tensor:
        return torch.full((len(labels), 3), (1 - probability) / 2).scatter(1, labels[:, None], probability)

    return SoftTargets(
        distributions(LABELS),
        {s.name: distributions(LABELS) for s in SUBSETS},
        {m: distributions(OWN[m]) for m in MODALITIES},
    )


def test_one_hot_soft_targets_give_the_losses_of_labels(output: Output, batch: Batch) -> None:
    settings = LossSettings(key_weight=1)
    total, parts = total_loss(output, TARGETS, batch.held, None, settings)
    total_soft, same = total_loss(output, TARGETS, batch.held, None, settings, soft_targets(1.0))
    torch.testing.assert_close(total_soft, total)
    for name, part in parts.items():
        torch.testing.assert_close(same[name], part)


def test_soft_targets_replace_the_labels(output: Output, batch: Batch) -> None:
    soft = soft_targets(0.6)
    _, parts = total_loss(output, TARGETS, batch.held, None, LossSettings(key_weight=1), soft)
    wanted = -(soft.answer * output.transformer.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(parts["transformer"], wanted)
    heads = [
        -(soft.subsets[s] * logits.log_softmax(dim=1)).sum(dim=1).mean() for (_, s), logits in output.heads.items()
    ]
    torch.testing.assert_close(parts["auxiliary"], torch.stack(heads).mean())
    own = [-(soft.alone[m] * x.log_softmax(dim=1)).sum(dim=1).mean() for m, x in output.modality_heads.items()]
    torch.testing.assert_close(parts["modality"], torch.stack(own).mean())


def test_class_weights_apply_to_soft_targets(output: Output, batch: Batch) -> None:
    soft, weights = soft_targets(0.6), torch.tensor([0.5, 2.0, 1.0])
    _, parts = total_loss(output, Targets(LABELS, OWN, weights), batch.held, None, LossSettings(), soft)
    wanted = -(weights * soft.answer * output.transformer.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(parts["transformer"], wanted)


def test_soft_targets_are_ignored_where_a_modality_is_not_held(output: Output, batch: Batch) -> None:
    soft = soft_targets(0.6)
    held = batch.held.clone()
    held[3:, 1] = False
    _, parts = total_loss(output, TARGETS, held, None, LossSettings(), soft)
    changed = {m: x.clone() for m, x in soft.alone.items()}
    changed[A][3:] = torch.tensor([0.0, 0.0, 1.0])
    subsets = {**soft.subsets, "audio": soft.subsets["audio"].clone()}
    subsets["audio"][3:] = torch.tensor([0.0, 0.0, 1.0])
    _, same = total_loss(output, TARGETS, held, None, LossSettings(), SoftTargets(soft.answer, subsets, changed))
    torch.testing.assert_close(same["modality"], parts["modality"])
    torch.testing.assert_close(same["auxiliary"], parts["auxiliary"])


def test_key_weight_applies_where_missing_modalities_change_the_vote(output: Output, batch: Batch) -> None:
    soft, missing = soft_targets(0.6), ~batch.present.all(dim=1)
    key = missing & (output.available.argmax(dim=1) != soft.subsets[COMPLETE.name].argmax(dim=1))
    assert 0 < int(key.sum()) < int(missing.sum())
    heads = []
    for (_, name), logits in output.heads.items():
        each = -(soft.subsets[name] * logits.log_softmax(dim=1)).sum(dim=1)
        weights = torch.where(key, 4.0, 1.0) if name == COMPLETE.name else torch.ones(len(each))
        heads.append((weights * each).sum() / weights.sum())
    _, parts = total_loss(output, TARGETS, batch.held, None, LossSettings(key_weight=4), soft)
    torch.testing.assert_close(parts["auxiliary"], torch.stack(heads).mean())


@pytest.mark.parametrize(("kind", "distance"), [("l1", abs), ("mse", lambda x: x**2)])
def test_a_regression_compares_the_expected_value_of_both_paths(
    output: Output, batch: Batch, kind: str, distance: Callable[[float], float]
) -> None:
    scores, values = torch.linspace(-1, 1, 7), torch.tensor([-1.0, 0.0, 2.0])
    targets = replace(TARGETS, scores=scores, class_values=values)
    part = parts_of(output, batch, targets=targets, score_loss=kind)["score"]
    expected = [
        distance(sum(p * v for p, v in zip(row.tolist(), values.tolist(), strict=True)) - score)
        for path in (output.transformer, output.ensemble)
        for row, score in zip(path.softmax(dim=-1), scores.tolist(), strict=True)
    ]
    assert float(part) == pytest.approx(sum(expected) / 14, rel=1e-5)


def test_the_score_has_its_weight_in_the_total(output: Output, batch: Batch) -> None:
    targets = replace(TARGETS, scores=torch.ones(7), class_values=torch.tensor([-1.0, 0.0, 1.0]))
    plain, _ = total_loss(output, TARGETS, batch.held, None, LossSettings())
    total, parts = total_loss(output, targets, batch.held, None, LossSettings(score_weight=3))
    assert float(total - plain) == pytest.approx(3 * float(parts["score"]), rel=1e-4)
    assert "score" not in parts_of(output, batch)
