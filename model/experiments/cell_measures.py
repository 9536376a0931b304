"""What a cell measures beside `model.training.evaluation`: every answer, doubt, cost, reconstruction, representations.

Shapes: N items, C classes, T_m slots of modality m, D hidden. Rows of answers have the order of `SUBSETS`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.baselines.systems import Network, decide
from model.config import TRANSFORMER
from model.modality import COMPLETE, MODALITIES, SUBSETS, Utterance
from model.network.batch import Batch, collate
from model.network.emmr import EMMR
from model.network.encoders import split
from model.network.inference.fused import FusedNetwork
from model.network.layers import masked_mean
from model.training.decision_table import DecisionTable
from model.training.metrics import auroc, average_precision
from model.training.missing_patterns import RatePatterns
from model.types import BoolArray, FloatArray

BATCH: Final = 128  # utterances of one forward pass
LATENCY_RUNS: Final = 100
REPRESENTED: Final = 1000  # items whose representations are kept
REPRESENTED_RATES: Final = (0.0, 0.5)


def answer_arrays(table: DecisionTable, rates: RatePatterns, *, paths: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Every answer of a part of a corpus.

    Args:
        table: the decisions.
        rates: what each item keeps at each missing rate.
        paths: also give the answers of EMMR's two paths.

    Returns:
        `ids` and `labels` `(N,)`; `answers` `(7, N, C)` float32, NaN where an item lacks a member of the subset;
        `rates` `(6, N)` int8, the row of `SUBSETS` that each item keeps at each of `RATES`. With `paths` also
        `transformer` and `ensemble`, as `answers`; the answer itself where a path was not computed, that is for
        complete utterances, and for items that lack a modality.
    """
    shape = (len(SUBSETS), len(table.items), table.classes)
    answers, transformer, ensemble = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
    for row, subset in enumerate(SUBSETS):
        for case in table.cases(subset):
            decision, column = table[case], case[0]
            answers[row, column] = decision.probabilities
            transformer[row, column] = decision.transformer or decision.probabilities
            ensemble[row, column] = decision.ensemble or decision.probabilities
    return {
        "ids": np.array([item.id for item in table.items]),
        "labels": np.array([item.label for item in table.items], dtype=np.int64),
        "answers": answers,
        "rates": np.array([[SUBSETS.index(kept) for kept in row] for row in rates.kept.values()], dtype=np.int8),
        **({"transformer": transformer, "ensemble": ensemble} if paths else {}),
    }


def doubt(table: DecisionTable) -> dict[str, dict[str, Any]]:
    """How well scores rank the complete items whose key modality is missing.

    The truth of an item and an incomplete subset: the system's own complete answer differs from its answer from the
    available modalities (of EMMR that of the transformer path), and is right.

    Returns:
        `all`, `one_missing` and `two_missing` → score → `auroc`, `average_precision`, `n` and `positives`. Scores:
        `one_minus_max` and `entropy` (over that of equal probabilities) of the available answer, and `verdict` where
        the system has one. Empty where no item is complete.
    """
    items = [index for index, _ in table.cases(COMPLETE)]
    if not items:
        return {}
    truth, complete, _ = table.arrays(table.cases(COMPLETE))
    incomplete = SUBSETS[1:]
    decisions = [[table[index, subset] for index in items] for subset in incomplete]
    available = np.array([[d.transformer or d.probabilities for d in row] for row in decisions])  # (6, N, C)
    positives = (available.argmax(axis=-1) != complete) & (complete == truth)  # (6, N)
    scores = {
        "one_minus_max": 1 - available.max(axis=-1),
        "entropy": -(available * np.log(np.maximum(available, 1e-12))).sum(axis=-1) / np.log(table.classes),
    }
    if decisions[0][0].key_score is not None:
        scores["verdict"] = np.array([[d.key_score for d in row] for row in decisions], dtype=np.float64)
    missing = np.array([len(subset.missing) for subset in incomplete])

    def ranked(rows: BoolArray) -> dict[str, Any]:
        chosen = positives[rows].ravel()
        return {
            name: {
                "auroc": auroc(chosen, values[rows].ravel()),
                "average_precision": average_precision(chosen, values[rows].ravel()),
                "n": chosen.size,
                "positives": int(chosen.sum()),
            }
            for name, values in scores.items()
        }

    return {"all": ranked(missing > 0), "one_missing": ranked(missing == 1), "two_missing": ranked(missing == 2)}


def count_operations(call: Callable[[], object]) -> int:
    """Operations of the matrix products of a call, two for each multiply-add."""
    # The counter does not count attention's kernel for CPUs, only the products that it is made of.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def cost(network: Network, utterance: Utterance, device: torch.device) -> dict[str, float]:
    """What one decision on an utterance costs, without its features.

    Returns:
        `parameters`: trained ones; `operations`: of matrix products, two for each multiply-add; `ms`: median time of a
        batch of one.
    """
    used = FusedNetwork(network) if isinstance(network, EMMR) else network
    batch = collate([utterance], network.config).to(device)
    operations = count_operations(lambda: decide(used, batch))
    times = []
    for _ in range(LATENCY_RUNS):
        started = time.perf_counter()
        decide(used, batch)
        times.append(time.perf_counter() - started)
    return {
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "operations": operations,
        "ms": 1000 * float(np.median(times)),
    }


def reconstruction(
    network: EMMR, training: Sequence[Utterance], test: Sequence[Utterance], device: torch.device
) -> dict[str, dict[str, float]]:
    """How similar a missing modality's reconstruction is to its true sequence in the common space.

    Args:
        network: in eval mode.
        training: utterances that the mean predictor is computed from; incomplete ones are left out, as of `test`.
        test: utterances; each modality in turn is made missing.
        device: of the network.

    Returns:
        missing modality → `n` utterances, and the mean cosine similarity over slots, then over utterances, of
        `network`, the transformer branch's reconstruction; `mean`, the training mean at the same slot; and `copy`, the
        mean of the present modalities' sequences. Empty without complete utterances in both parts.
    """
    training, test = ([u for u in utterances if u.presence.complete] for utterances in (training, test))
    if not training or not test:
        return {}
    hidden, imputed = network.config.network.hidden, network.encoder.imputed
    sums = {m: torch.zeros(imputed[m], hidden, device=device) for m in MODALITIES}
    counts = {m: torch.zeros(imputed[m], 1, device=device) for m in MODALITIES}
    found: dict[str, dict[str, list[Tensor]]] = {m: {"network": [], "mean": [], "copy": []} for m in MODALITIES}
    with torch.inference_mode():
        for batch in _batches(network, training, device):
            common = network.encoder.encode(batch.features, batch.valid, batch.held)
            for m in MODALITIES:
                valid = batch.valid[m][:, : imputed[m]].unsqueeze(-1)  # (B, T_m, 1)
                sums[m] += (common[m][:, : imputed[m]] * valid).sum(dim=0)
                counts[m] += valid.sum(dim=0)
        means = {m: sums[m] / counts[m].clamp(min=1) for m in MODALITIES}
        for batch in _batches(network, test, device):
            for column, m in enumerate(MODALITIES):
                present = batch.held.clone()
                present[:, column] = False
                output, slots = network(batch.with_present(present)), imputed[m]
                true, valid = output.common[m][:, :slots], batch.valid[m][:, :slots]  # (B, T_m, D), (B, T_m)
                decoded = split(output.decodings[TRANSFORMER], batch.valid)[m][:, :slots]
                others = [masked_mean(output.common[o], batch.valid[o]) for o in MODALITIES if o != m]  # 2 × (B, D)
                guesses = {"network": decoded, "mean": means[m], "copy": torch.stack(others).mean(dim=0)[:, None]}
                for name, guess in guesses.items():
                    cosines = F.cosine_similarity(true, guess.expand_as(true), dim=-1) * valid  # (B, T_m)
                    found[m][name].append(cosines.sum(dim=1) / valid.sum(dim=1))
    return {
        m: {"n": len(test), **{name: float(torch.cat(cosines).mean()) for name, cosines in kinds.items()}}
        for m, kinds in found.items()
    }


def representations(
    network: EMMR, table: DecisionTable, rates: RatePatterns, device: torch.device
) -> dict[str, FloatArray]:
    """The joint representations of the first `REPRESENTED` items at each of `REPRESENTED_RATES`.

    Returns:
        rate → `(N, D)` float32, the input of the classifier on the path that the answer is from; `labels` `(N,)`.
    """
    items = table.items[:REPRESENTED]
    found: dict[str, Any] = {"labels": np.array([item.label for item in items], dtype=np.int64)}
    inputs: list[Tensor] = []  # of the classifier: those of the transformer path, then those of the ensemble
    hook = network.classifier.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.inference_mode():
        for rate in REPRESENTED_RATES:
            kept = rates.kept[rate][: len(items)]
            parts = []
            for start in range(0, len(items), BATCH):
                rows = slice(start, start + BATCH)
                used = [table[i, s].ensemble_used for i, s in zip(range(len(items))[rows], kept[rows], strict=True)]
                utterances = [item.utterance.keep(s) for item, s in zip(items[rows], kept[rows], strict=True)]
                inputs.clear()
                network(collate(utterances, network.config).to(device))
                transformer, ensemble = inputs
                parts.append(torch.where(torch.tensor(used, device=device)[:, None], ensemble, transformer))
            found[str(rate)] = torch.cat(parts).float().cpu().numpy()
    hook.remove()
    return found


def _batches(network: EMMR, utterances: Sequence[Utterance], device: torch.device) -> list[Batch]:
    return [
        collate(utterances[start : start + BATCH], network.config, room_to_impute=True).to(device)
        for start in range(0, len(utterances), BATCH)
    ]
