"""The sparse path: of EMMR's graph, only what a decision depends on (paper 3.6, Eqs. 8 to 13).

Shapes: B utterances, N of them at a time, T_m slots of modality m, D hidden, C classes, K branches.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TRANSFORMER
from model.modality import COMPLETE, MODALITIES, PAIRS, ModalitySet
from model.network.batch import Batch
from model.network.consistency import agreement, available_vote, differs, key_feature, key_score
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork, Row
from model.network.inference.results import VOTES, Results, decisions


def decide(
    network: EMMR | FusedNetwork, batch: Batch, *, explain: bool = False, both_paths: bool = False
) -> list[Decision]:
    """Decide on each utterance of a batch.

    A complete utterance needs the transformer encoder and its pooling; an incomplete one also the decoder at the
    missing slots and two subset heads. The other branches, at the missing slots, and all pairs are computed only where
    the check finds an inconsistency. Features that no reconstruction affects are pooled once for all branches.

    Args:
        network: in eval mode. A `FusedNetwork` saves fusing the weights for this batch.
        batch: any mixture of subsets, on the network's device. A present modality has at least one valid slot.
        explain: also give every pair's vote and the agreement of the branches' reconstructions.
        both_paths: also give the answer of the path that the gate did not select.

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """
    with torch.inference_mode():
        fused = network if isinstance(network, FusedNetwork) else FusedNetwork(network)
        graph = _SparseGraph(fused, batch)
        incomplete = [i for i, presence in enumerate(graph.presences) if not presence.complete]
        if incomplete:
            inconsistent = graph.check(incomplete)
            if chosen := incomplete if both_paths or explain else inconsistent:
                graph.combine(chosen, explain=explain)
        if explain:
            everything = range(batch.size)
            for subset in VOTES:
                graph.results.vote(subset).copy_(graph.vote(subset, everything).softmax(dim=-1))
        return decisions(graph.matrix, graph.presences, fused.network.config, explain=explain, both_paths=both_paths)


class _SparseGraph:
    """A batch with everything computed for it so far: sequences, reconstructions, pooled features and results."""

    def __init__(self, fused: FusedNetwork, batch: Batch) -> None:
        self.fused, self.present = fused, batch.present
        self.presences = [ModalitySet.from_mask(row) for row in batch.present.tolist()]
        self.sequences = fused.encode(batch)
        self.encoded, logits = fused.transformer_encode(self.sequences)
        self.config = fused.network.config
        columns = sum(Results.widths(self.config)) - logits.shape[1]
        self.matrix = F.pad(logits.softmax(dim=-1), (0, columns))  # the first field, then zeros
        self._decoded: dict[str, dict[int, Row]] = {}
        self._pooled: dict[tuple[ModalitySet, str, int], Tensor] = {}

    @cached_property
    def results(self) -> Results:
        """Views of the result matrix."""
        return Results.of(self.matrix, self.config)

    def check(self, rows: Sequence[int]) -> list[int]:
        """Compare the full and the available vote of incomplete rows; return the inconsistent ones."""
        self._decode(TRANSFORMER, rows)
        full = self.vote(COMPLETE, rows)  # (N, C)
        groups: dict[ModalitySet, list[int]] = {}
        for position, i in enumerate(rows):
            groups.setdefault(self.presences[i], []).append(position)
        votes = {}
        for presence, positions in groups.items():
            vote = self.vote(presence, [rows[k] for k in positions])
            votes[presence] = vote if len(groups) == 1 else vote.new_zeros(full.shape)
            if len(groups) > 1:
                votes[presence][positions] = vote
        at = self._index(rows)
        available = available_vote(votes, self.present[at])
        changed = differs(full, available)
        p_full, p_available = full.softmax(dim=-1), available.softmax(dim=-1)
        self.results.vote(COMPLETE)[at] = p_full
        self.results.available[at] = p_available
        self.results.inconsistent[at] = changed[:, None].to(p_full.dtype)
        self.results.score[at] = key_score(p_full, p_available)[:, None]
        inconsistent = [i for i, does in zip(rows, changed.tolist(), strict=True) if does]
        for pair in PAIRS:  # the votes without one of two missing modalities, which `key_modalities` needs
            chosen = [i for i in inconsistent if self.presences[i].present < pair.present]
            if chosen:
                self.results.vote(pair)[self._index(chosen)] = self.vote(pair, chosen).softmax(dim=-1)
        return inconsistent

    def combine(self, rows: Sequence[int], *, explain: bool) -> None:
        """Answer of the ensemble: all branches, their key features, and β's weighted sum (Eqs. 10 to 12)."""
        network, branches = self.fused.network, self.config.network.branches
        for branch in branches[1:]:
            self._decode(branch, rows)
        wanted = [(branch, i) for branch in branches for i in rows]
        pooled = {pair: self.pool(pair, wanted).chunk(len(branches)) for pair in PAIRS}  # one (N, D) for each branch
        keys = []
        for k, branch in enumerate(branches):
            features = [pooled[pair][k] for pair in PAIRS]
            votes = [network.subsets.logits(branch, pair, f) for pair, f in zip(PAIRS, features, strict=True)]
            keys.append(key_feature(features, votes))
        summary, weights = network.branch_weights(torch.stack(keys, dim=1))  # (N, D), (N, K)
        at = self._index(rows)
        self.results.ensemble[at] = network.classify(summary).softmax(dim=-1)
        self.results.branch_weights[at] = weights
        for column, modality in enumerate(MODALITIES if explain else ()):
            lost = [i for i in rows if modality not in self.presences[i]]
            if lost:
                decoded = [torch.stack([self._decoded[branch][i][modality] for i in lost]) for branch in branches]
                self.results.agreement[self._index(lost), column] = agreement(decoded)  # K × (N, T_m, D) → (N,)

    def vote(self, subset: ModalitySet, rows: Sequence[int]) -> Tensor:
        """The transformer branch's vote of a subset: `(N, C)` logits."""
        pooled = self.pool(subset, [(TRANSFORMER, i) for i in rows])
        return self.fused.network.subsets.logits(TRANSFORMER, subset, pooled)

    def _decode(self, branch: str, rows: Sequence[int]) -> None:
        """A branch's reconstructions of the missing modalities of each row."""
        missing = [self.presences[i].missing for i in rows]
        sequences, encoded = [self.sequences[i] for i in rows], [self.encoded[i] for i in rows]
        self._decoded[branch] = dict(zip(rows, self.fused.decode(branch, sequences, encoded, missing), strict=True))

    def pool(self, subset: ModalitySet, wanted: Sequence[tuple[str, int]]) -> Tensor:
        """Features of a subset for (branch, row) pairs: `(N, D)`. Without a missing member all branches share one."""
        keys = [
            (subset, TRANSFORMER if subset.present <= self.presences[i].present else branch, i) for branch, i in wanted
        ]
        new = [key for key in dict.fromkeys(keys) if key not in self._pooled]
        if new:
            features = self.fused.pool(subset, [self._recovered(subset, branch, i) for _, branch, i in new])
            self._pooled.update(zip(new, features, strict=True))
        return torch.stack([self._pooled[key] for key in keys])  # N × (D,) → (N, D)

    def _recovered(self, subset: ModalitySet, branch: str, row: int) -> Row:
        """`I_m`: the true sequence where m is present, else the decoded slots."""
        missing = [m for m in self.presences[row].missing if m in subset]
        return self.sequences[row] | {m: self._decoded[branch][row][m] for m in missing}

    def _index(self, rows: Sequence[int]) -> slice | Tensor:
        """Index of ascending rows; a slice where that is all of them."""
        if len(rows) == len(self.presences):
            return slice(None)
        return torch.tensor(rows, device=self.matrix.device)
