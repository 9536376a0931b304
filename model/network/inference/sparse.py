"""Answering: of EMMR's graph, only what an answer needs.

For: `decide`. A complete utterance costs the transformer encoder and its pooling; a consistent one two subset heads
more, and of the decoder the missing slots alone; only where the check finds an inconsistency do the other branches,
at the missing slots, and all pairs run. Nothing is pooled twice: what no reconstruction touches is shared by all
branches, and the check's features serve the ensemble.
Does not know: how a part of the network is computed (`model.network.inference.fused`), training, files, HTTP.
Source: paper 3.6 (Eqs. 8 to 13).

Shapes: N slots or rows at hand, D hidden, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.modality import COMPLETE, MODALITIES, Modality, ModalitySet
from model.network.batch import Batch
from model.network.consistency import differs, key_score
from model.network.decision import Decision, Distribution
from model.network.emmr import EMMR, PAIRS, subset_of
from model.network.evidence import TRANSFORMER, DecisionBuilder
from model.network.inference.fused import FusedNetwork, Row
from model.network.reconstruction import BRANCHES


def decide(
    network: EMMR | FusedNetwork, batch: Batch, *, explain: bool = False, both_paths: bool = False
) -> list[Decision]:
    """Decide on each utterance of a batch.

    Args:
        network: in eval mode; prepared once where its weights no longer change, else prepared for this batch.
        batch: any mixture of the seven subsets, on the network's device. What is present has at least one valid slot.
        explain: also every pair's vote and how far the branches' reconstructions agree.
        both_paths: also the answer of the path the gate did not take (for measurement).

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """
    with torch.inference_mode():
        prepared = network if isinstance(network, FusedNetwork) else FusedNetwork(network)
        asked = _Asked(prepared, batch)
        if asked.incomplete:
            _check(asked)
            chosen = [i for i in asked.incomplete if asked.rows[i].key or both_paths or explain]
            if chosen:
                _ensemble(asked, chosen, explain=explain)
        if explain:
            _explain_votes(asked)
        return [row.decision(both_paths=both_paths) for row in asked.rows]


class _Asked:
    """A batch on its way through the graph: sequences, reconstructions, and every feature pooled so far."""

    def __init__(self, prepared: FusedNetwork, batch: Batch) -> None:
        self.prepared = prepared
        self.sequences = prepared.encode(batch)
        self.encoded, logits = prepared.transformer_encode(self.sequences)
        presences = [subset_of(p) for p in batch.present.cpu()]
        self.rows = [
            DecisionBuilder(transformer=a, presence=p) for a, p in zip(_distributions(logits), presences, strict=True)
        ]
        self.incomplete = [i for i, p in enumerate(presences) if not p.complete]
        self._decoded: dict[tuple[str, int], Row] = {}
        self._pooled: dict[tuple[ModalitySet, str, int], Tensor] = {}

    def decoded(self, branch: str, rows: Sequence[int]) -> list[Row]:
        """A branch's reconstruction of what each row lacks."""
        new = [i for i in rows if (branch, i) not in self._decoded]
        if new:
            sequences = [self.sequences[i] for i in new]
            missing = [self.rows[i].presence.missing for i in new]
            found = (
                self.prepared.transformer_decode([self.encoded[i] for i in new], sequences, missing)
                if branch == TRANSFORMER
                else self.prepared.decode(branch, sequences, missing)
            )
            self._decoded.update(((branch, i), row) for i, row in zip(new, found, strict=True))
        return [self._decoded[branch, i] for i in rows]

    def pooled(self, subset: ModalitySet, wanted: Sequence[tuple[str, int]]) -> Tensor:
        """Features of a subset for (branch, row) pairs: `(N, D)`."""
        keys = [(subset, self._source(subset, branch, i), i) for branch, i in wanted]
        new = [key for key in dict.fromkeys(keys) if key not in self._pooled]
        if new:
            features = self.prepared.pool(subset, [self._recovered(subset, branch, i) for _, branch, i in new])
            self._pooled.update(zip(new, features, strict=True))
        return torch.stack([self._pooled[key] for key in keys])

    def vote(self, subset: ModalitySet, rows: Sequence[int]) -> Tensor:
        """The transformer branch's vote of a subset: `(N, C)` logits."""
        return self.prepared.logits(TRANSFORMER, subset, self.pooled(subset, [(TRANSFORMER, i) for i in rows]))

    def _source(self, subset: ModalitySet, branch: str, row: int) -> str:
        """The branch that a subset depends on: where nothing of it is missing, all give the same."""
        return branch if any(m in subset for m in self.rows[row].presence.missing) else TRANSFORMER

    def _recovered(self, subset: ModalitySet, branch: str, row: int) -> Row:
        """`I_m`: the true sequence where m is present, else the decoder's slots."""
        lost = [m for m in self.rows[row].presence.missing if m in subset]
        return self.sequences[row] | {m: self.decoded(branch, [row])[0][m] for m in lost}


def _check(asked: _Asked) -> None:
    """The consistency check (Eqs. 8, 9, 13) of every row with something missing."""
    rows = asked.incomplete
    asked.decoded(TRANSFORMER, rows)  # all at once
    full = asked.vote(COMPLETE, rows)
    available = torch.empty_like(full)
    for presence, at in _by_presence(asked, rows).items():
        available[at] = asked.vote(presence, [rows[k] for k in at])
    inconsistent = differs(full, available).tolist()
    without = _votes_without(asked, [i for i, does in zip(rows, inconsistent, strict=True) if does])
    scores = key_score(full.softmax(dim=-1), available.softmax(dim=-1)).tolist()
    for i, p_full, p_available, score, does in zip(
        rows, _distributions(full), _distributions(available), scores, inconsistent, strict=True
    ):
        asked.rows[i].compare(p_full, p_available, without.get(i, {}), inconsistent=does, score=score)


def _votes_without(asked: _Asked, rows: Sequence[int]) -> dict[int, dict[Modality, Distribution]]:
    """Where two are missing: for each of them, the vote of all but it."""
    votes: dict[int, dict[Modality, Distribution]] = {}
    for modality in MODALITIES:
        chosen = [i for i in rows if len(missing := asked.rows[i].presence.missing) == 2 and modality in missing]
        if chosen:
            rest = ModalitySet.of(*(m for m in MODALITIES if m != modality))
            for i, vote in zip(chosen, _distributions(asked.vote(rest, chosen)), strict=True):
                votes.setdefault(i, {})[modality] = vote
    return votes


def _ensemble(asked: _Asked, rows: Sequence[int], *, explain: bool) -> None:
    """All three branches, their key features, and β's weighted sum (Eqs. 10 to 12)."""
    for branch in BRANCHES:
        asked.decoded(branch, rows)
    wanted = [(branch, i) for branch in BRANCHES for i in rows]
    pooled = {pair: asked.pooled(pair, wanted).chunk(len(BRANCHES)) for pair in PAIRS}  # a chunk (N, D) a branch
    network, keys = asked.prepared.network, []
    for k, branch in enumerate(BRANCHES):
        features = [pooled[pair][k] for pair in PAIRS]
        votes = {(branch, p.name): asked.prepared.logits(branch, p, f) for p, f in zip(PAIRS, features, strict=True)}
        keys.append(network.key_feature(branch, features, votes))
    summary, weights = network.branch_weights(torch.stack(keys, dim=1))  # (N, D), (N, 3)
    for i, answer, beta in zip(rows, _distributions(network.classify(summary)), weights.tolist(), strict=True):
        asked.rows[i].ensemble = answer
        asked.rows[i].branch_weights = dict(zip(BRANCHES, beta, strict=True))
        if explain:
            asked.rows[i].reconstruction = _agreement([asked.decoded(branch, [i])[0] for branch in BRANCHES])


def _explain_votes(asked: _Asked) -> None:
    """Each pair's vote and that of all three, on recovered sequences."""
    everyone = range(len(asked.rows))
    for row in asked.rows:
        row.votes = {}
    for subset in (*PAIRS, COMPLETE):
        for row, vote in zip(asked.rows, _distributions(asked.vote(subset, everyone)), strict=True):
            assert row.votes is not None
            row.votes["all" if subset.complete else subset.name] = vote


def _agreement(decoded: Sequence[Row]) -> dict[Modality, dict[str, float]]:
    """How alike the branches' reconstructions of one utterance are: mean cosine over slots and branch pairs."""
    figures: dict[Modality, dict[str, float]] = {}
    for modality in decoded[0]:
        a, b, c = (row[modality] for row in decoded)  # (T_m, D)
        cosine = torch.stack([F.cosine_similarity(p, q, dim=-1) for p, q in ((a, b), (a, c), (b, c))])
        figures[modality] = {"slots": float(len(a)), "agreement": float(cosine.mean())}
    return figures


def _by_presence(asked: _Asked, rows: Sequence[int]) -> dict[ModalitySet, list[int]]:
    """Positions in `rows` by what is present there."""
    positions: dict[ModalitySet, list[int]] = {}
    for position, i in enumerate(rows):
        positions.setdefault(asked.rows[i].presence, []).append(position)
    return positions


def _distributions(logits: Tensor) -> list[Distribution]:
    """`(N, C)` logits → N distributions."""
    return [tuple(p) for p in logits.float().softmax(dim=-1).tolist()]
