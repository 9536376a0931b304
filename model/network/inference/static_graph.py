"""The whole graph at fixed shapes, without asking the device anything on the way: what a CUDA graph can record.

For: `model.network.inference.cuda_graphs`. On an accelerator a small batch costs its launches, not its operations: computing everything
for everyone and launching once beats computing only what an answer needs (`model.network.inference.sparse`, whose decisions
these are).
Does not know: how it is recorded, where its inputs come from.
Source: paper 3.6 (Eqs. 8 to 13).

Shapes: B batch, T_m slots of modality m, D hidden, C classes.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.modality import COMPLETE, MODALITIES, Modality, ModalitySet
from model.network.batch import Batch
from model.network.consistency import differs, key_score
from model.network.decision import Decision
from model.network.emmr import EMMR, PAIRS, SINGLES
from model.network.evidence import TRANSFORMER, DecisionBuilder
from model.network.reconstruction import BRANCHES
from model.network.subset_heads import concatenate, split

VOTES: Final = (*PAIRS, COMPLETE)


class Findings(NamedTuple):
    """All that a decision may need of B utterances.

    Args:
        transformer, ensemble: `(B, C)` answers of the two paths.
        votes: `(B, 4, C)` of `VOTES`, on the transformer's reconstructions.
        available: `(B, C)` vote of what is present.
        inconsistent: `(B, 1)` whether the vote of all three names another class than that.
        score: `(B, 1)` of `key_score`.
        branch_weights: β, `(B, 3)`.
        agreement: `(B, 3)` for each modality how alike the branches' reconstructions of it are, were it missing.
    """

    transformer: Tensor
    ensemble: Tensor
    votes: Tensor
    available: Tensor
    inconsistent: Tensor
    score: Tensor
    branch_weights: Tensor
    agreement: Tensor

    @property
    def matrix(self) -> Tensor:
        """Everything side by side, `(B, K)`: one transfer to the host."""
        return torch.cat([part.flatten(1).float() for part in self], dim=1)


def whole_graph(network: EMMR, batch: Batch) -> Findings:
    """Run every branch and every vote on every slot.

    Args:
        network: in eval mode.
        batch: at least as long as a modality's imputed slots wherever it is missing. What lies in modalities that are
            not present is never read.
    """
    present = batch.present
    common = network.encoder.encode(batch.features, batch.valid, present)
    sequences, slots = network.encoder.fill(common, batch.valid, present)
    x, valid = concatenate(COMPLETE, sequences, slots)
    encoded = network.transformer.encode(x, valid)
    decodings = {branch: network.branches[branch](x, valid)[1] for branch in BRANCHES if branch != TRANSFORMER}
    decodings[TRANSFORMER] = network.transformer.decode(encoded, valid)
    decoded = {branch: split(decodings[branch], slots) for branch in BRANCHES}
    recovered = {branch: network.recover(sequences, decoded[branch], present) for branch in BRANCHES}

    everywhere = {m: torch.cat([recovered[branch][m] for branch in BRANCHES]) for m in MODALITIES}  # (3 B, T_m, D)
    thrice = {m: slots[m].repeat(len(BRANCHES), 1) for m in MODALITIES}
    pooled = {pair: network.subsets.pool(pair, everywhere, thrice).chunk(len(BRANCHES)) for pair in PAIRS}
    heads: dict[tuple[str, str], Tensor] = {}
    keys = []
    for k, branch in enumerate(BRANCHES):
        heads |= {(branch, pair.name): network.subsets.logits(branch, pair, pooled[pair][k]) for pair in PAIRS}
        keys.append(network.key_feature(branch, [pooled[pair][k] for pair in PAIRS], heads))
    summary, branch_weights = network.branch_weights(torch.stack(keys, dim=1))

    votes = {pair: heads[TRANSFORMER, pair.name] for pair in PAIRS}
    for subset in (COMPLETE, *SINGLES):
        feature = network.subsets.pool(subset, recovered[TRANSFORMER], slots)
        votes[subset] = network.subsets.logits(TRANSFORMER, subset, feature)
    full, available = votes[COMPLETE], _of_the_present(votes, present)
    return Findings(
        transformer=network.classify(network.pool(encoded, valid)).softmax(dim=-1),
        ensemble=network.classify(summary).softmax(dim=-1),
        votes=torch.stack([votes[subset] for subset in VOTES], dim=1).softmax(dim=-1),
        available=available.softmax(dim=-1),
        inconsistent=differs(full, available)[:, None],
        score=key_score(full.softmax(dim=-1), available.softmax(dim=-1))[:, None],
        branch_weights=branch_weights,
        agreement=_agreement(network, [decoded[branch] for branch in BRANCHES]),
    )


def decisions(
    matrix: Tensor, presences: Sequence[ModalitySet], config: ModelConfig, *, explain: bool, both_paths: bool
) -> list[Decision]:
    """Decide on what `Findings.matrix` holds, as `model.network.inference.sparse.decide` does.

    Args:
        matrix: `(B or more, K)` on the host; rows beyond the presences mean nothing.
        presences: what is there in each of B utterances.
        config: the network's.
        explain: as for `decide`.
        both_paths: as for `decide`.
    """
    classes = len(config.classes)
    widths = (classes, classes, len(VOTES) * classes, classes, 1, 1, len(BRANCHES), len(MODALITIES))
    parts = zip(*(part.tolist() for part in matrix[: len(presences)].split(widths, dim=1)), strict=True)
    made = []
    for presence, (transformer, ensemble, flat, available, (inconsistent,), (score,), beta, agreement) in zip(
        presences, parts, strict=True
    ):
        votes = {s: tuple(flat[k * classes : (k + 1) * classes]) for k, s in enumerate(VOTES)}
        evidence = DecisionBuilder(tuple(transformer), presence)
        if not presence.complete:
            without = {}
            if len(presence.missing) == 2:
                without = {m: votes[ModalitySet(COMPLETE.present - {m})] for m in presence.missing}
            full, differ = votes[COMPLETE], bool(inconsistent)
            evidence.compare(full, tuple(available), without, inconsistent=differ, score=score)
            evidence.ensemble = tuple(ensemble)
            evidence.branch_weights = dict(zip(BRANCHES, beta, strict=True))
        if explain:
            evidence.votes = {"all" if s.complete else s.name: vote for s, vote in votes.items()}
            if not presence.complete:
                evidence.reconstruction = {
                    m: {"slots": float(config.network.imputed_slots.of(m)), "agreement": agreement[MODALITIES.index(m)]}
                    for m in presence.missing
                }
        made.append(evidence.decision(both_paths=both_paths))
    return made


def _of_the_present(votes: Mapping[ModalitySet, Tensor], present: Tensor) -> Tensor:
    """Of the votes of all subsets, that of the subset which is there: `(B, C)`."""
    chosen = votes[COMPLETE]
    for subset, vote in votes.items():
        column = {m: present[:, i] for i, m in enumerate(MODALITIES)}
        this = torch.stack([column[m] if m in subset else ~column[m] for m in MODALITIES]).all(dim=0)  # (B,)
        chosen = torch.where(this[:, None], vote, chosen)
    return chosen


def _agreement(network: EMMR, decoded: Sequence[Mapping[Modality, Tensor]]) -> Tensor:
    """Mean cosine over a modality's imputed slots and pairs of branches: `(B, 3)`."""
    figures = []
    for modality in MODALITIES:
        parts = [branch[modality][:, : network.encoder.imputed[modality]] for branch in decoded]
        cosines = [F.cosine_similarity(a, b, dim=-1) for a, b in combinations(parts, 2)]  # (B, imputed) each
        figures.append(torch.stack(cosines).mean(dim=(0, 2)))
    return torch.stack(figures, dim=1)
