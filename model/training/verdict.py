"""Fit of the verdict: the probability that providing missing modalities would change the answer.

See `model.network.reliability.Verdict`.
"""
# Shapes: N cases, V inputs of the verdict.

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.modality import COMPLETE, SUBSETS, ModalitySet
from model.network.decision import argmax
from model.network.reliability import PLAIN_SIZE, Reliability, Verdict, provided_sets, verdict_features
from model.training.crossfit import SubsetDecisions
from model.types import DoubleArray, FloatArray, IntArray

STEPS: Final = 3000
BATCH: Final = 512
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 1.0


@dataclass(frozen=True, slots=True)
class VerdictDataset:
    """Cases: an incomplete utterance, and missing modalities that might be provided.

    Args:
        inputs: `(N, V)`.
        changed: `(N,)` 0 or 1, whether providing them changed the answer.
        missing: `(N,)`, the number of missing modalities where all of them are provided, else 0.
        better: `(N,)` 0 or 1, whether the changed answer is correct.
        weights: `(N,)`.
    """

    inputs: FloatArray
    changed: FloatArray
    missing: IntArray
    better: FloatArray
    weights: FloatArray


def verdict_dataset(reliability: Reliability, parts: Sequence[SubsetDecisions]) -> VerdictDataset:
    """All cases of some decisions: each incomplete subset, with each set of missing modalities."""
    inputs: list[list[float]] = []
    changed, missing, better, weights = [], [], [], list[float]()
    for part in parts:
        decisions = {subset: part.calibrated(reliability, subset) for subset in SUBSETS}
        answers = {subset: [argmax(d.available) for d in decisions[subset]] for subset in SUBSETS}
        first = len(inputs)
        for subset in SUBSETS[1:]:
            for provided in provided_sets(subset):
                union = ModalitySet(subset.present | provided.present)
                for i, decision in enumerate(decisions[subset]):
                    doubt = reliability.doubt(decision.available, subset)
                    inputs.append(verdict_features(decision, subset, provided, doubt))
                    changed.append(answers[union][i] != answers[subset][i])
                    missing.append(len(subset.missing) if union == COMPLETE else 0)
                    better.append(changed[-1] and answers[union][i] == part.labels[i])
        count = len(inputs) - first
        weights += [part.weight / max(count, 1)] * count
    return VerdictDataset(
        np.array(inputs, dtype=np.float32),
        np.array(changed, dtype=np.float32),
        np.array(missing, dtype=np.int64),
        np.array(better, dtype=np.float32),
        np.array(weights, dtype=np.float32),
    )


def fit_verdict(verdict: Verdict, cases: VerdictDataset, steps: int = STEPS) -> None:
    """Minimise the cross-entropy of `changed`; the standardisation of the inputs is merged into the first layers."""
    x, y, weights = torch.from_numpy(cases.inputs), torch.from_numpy(cases.changed), torch.from_numpy(cases.weights)
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-3)
    standardised = (x - mean) / scale
    generator = torch.Generator().manual_seed(0)
    layers = [layer for layer in verdict.modules() if isinstance(layer, nn.Linear)]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for layer in layers:
            layer.reset_parameters()
    optimiser = torch.optim.AdamW(verdict.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch, target = standardised[rows], y[rows, None]
        loss = F.binary_cross_entropy_with_logits(verdict.layers(batch), target)
        loss = loss + F.binary_cross_entropy_with_logits(verdict.plain(batch[:, :PLAIN_SIZE]), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        for layer in (layers[0], verdict.plain):
            width = layer.in_features
            layer.weight.div_(scale[:width])
            layer.bias.sub_(layer.weight @ mean[:width])
        odds = verdict.log_odds(x)
    platt = torch.tensor([1.0, 0.0], requires_grad=True)  # slope and intercept

    def loss_of_scale() -> Tensor:
        losses = F.binary_cross_entropy_with_logits(odds * platt[0] + platt[1], y, reduction="none")
        return (weights * losses).sum() / weights.sum()

    minimise([platt], loss_of_scale, max_iterations=100)
    verdict.scale.copy_(platt.detach())
    verdict.fitted.fill_(value=True)
    verdict.eval().requires_grad_(requires_grad=False)


def choose_threshold(verdict: Verdict, cases: VerdictDataset, missing: int) -> float:
    """The score that as many cases reach as have an answer that would change to the correct one.

    Args:
        verdict: fitted.
        cases: of any number of missing modalities.
        missing: number of missing modalities that the threshold is for.
    """
    rows = cases.missing == missing
    with torch.inference_mode():
        scores = verdict(torch.from_numpy(cases.inputs[rows])).numpy()
    weights = cases.weights[rows].astype(np.float64)
    return weighted_quantile(scores, weights, 1 - float(np.average(cases.better[rows], weights=weights)))


def weighted_quantile(values: npt.NDArray[np.floating], weights: DoubleArray, quantile: float) -> float:
    """The smallest value at which the cumulative weight reaches a quantile."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, quantile)), len(values) - 1)])


def minimise(parameters: Iterable[Tensor], loss: Callable[[], Tensor], max_iterations: int) -> None:
    """Minimise a smooth loss by L-BFGS."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
