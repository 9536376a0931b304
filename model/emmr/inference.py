"""Answering: of EMMR's graph, only what an answer needs.

For: `decide`. A complete utterance costs the transformer encoder and its pooling; a consistent one two subset heads
more; only where the check finds an inconsistency do the other branches and all pairs run.
Does not know: training, files, HTTP.
Source: paper 3.6 (Eqs. 8 to 13).

Shapes: B batch, N the rows at hand, T_m slots of modality m, D hidden, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from model.emmr.attention import masked_mean
from model.emmr.batch import Batch
from model.emmr.consistency import differs, key_modalities, key_score
from model.emmr.decision import Decision, Distribution
from model.emmr.network import EMMR, PAIRS, subset_of
from model.emmr.reconstruction import BRANCHES
from model.emmr.subsets import concatenate, split
from model.modality import COMPLETE, MODALITIES, Modality, Presence

Sequences = dict[Modality, Tensor]


@dataclass(slots=True)
class _Row:
    """What is known of one utterance so far."""

    transformer: Distribution
    presence: Presence
    full: Distribution | None = None
    available: Distribution | None = None
    key: tuple[Modality, ...] = ()
    score: float = 0.0
    ensemble: Distribution | None = None
    branch_weights: dict[str, float] = field(default_factory=dict)
    votes: dict[str, Distribution] | None = None
    reconstruction: dict[Modality, dict[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows of a batch with the same presence, on their way through the graph."""

    rows: list[int]
    presence: Presence
    sequences: Mapping[Modality, Tensor]
    slots: Mapping[Modality, Tensor]
    x: Tensor
    valid: Tensor
    encoded: Tensor

    def select(self, keep: list[int]) -> "_Part":
        """Some of its rows, by position."""
        at = torch.tensor(keep, device=self.x.device)
        return _Part(
            rows=[self.rows[i] for i in keep],
            presence=self.presence,
            sequences={m: s[at] for m, s in self.sequences.items()},
            slots={m: s[at] for m, s in self.slots.items()},
            x=self.x[at],
            valid=self.valid[at],
            encoded=self.encoded[at],
        )


@torch.inference_mode()
def decide(network: EMMR, batch: Batch, *, explain: bool = False, both_paths: bool = False) -> list[Decision]:
    """Decide on each utterance of a batch.

    Args:
        network: in eval mode.
        batch: any mixture of the seven subsets, on the network's device.
        explain: also every pair's vote and how far the branches' reconstructions agree.
        both_paths: also the answer of the path the gate did not take (for measurement).

    Raises:
        ValueError: the network is in training mode, where dropout would make answers random.
    """
    if network.training:
        raise ValueError("the network must be in eval mode to decide")
    common = network.encoder.encode(batch.features, batch.valid, batch.present)
    sequences, slots = network.encoder.fill(common, batch.valid, batch.present)
    x, valid = concatenate(COMPLETE, sequences, slots)
    encoded = network.transformer.encode(x, valid)
    answers = _distributions(network.classify(network.pool(encoded, valid)))
    presences = [subset_of(p) for p in batch.present.cpu()]
    rows = [_Row(transformer=a, presence=p) for a, p in zip(answers, presences, strict=True)]

    whole = _Part(list(range(len(rows))), COMPLETE, sequences, slots, x, valid, encoded)
    for presence in dict.fromkeys(presences):
        members = [i for i, p in enumerate(presences) if p == presence]
        part = whole if len(members) == len(rows) else whole.select(members)
        part = _Part(members, presence, part.sequences, part.slots, part.x, part.valid, part.encoded)
        if presence.complete:
            if explain:
                _explain_votes(network, part, part.sequences, rows)
        else:
            _check(network, part, rows, explain=explain, both_paths=both_paths)
    return [_decision(row, both_paths=both_paths) for row in rows]


def _check(network: EMMR, part: _Part, rows: list[_Row], *, explain: bool, both_paths: bool) -> None:
    """The consistency check (Eqs. 8, 9, 13) and, where it fails, the ensemble."""
    decoded = split(network.transformer.decode(part.encoded, part.valid), part.slots)
    recovered = _recover(part, decoded)
    full = _vote(network, COMPLETE, recovered, part)
    available = _vote(network, part.presence, recovered, part)
    inconsistent = differs(full, available).tolist()
    scores = key_score(full.softmax(dim=-1), available.softmax(dim=-1)).tolist()
    without = _votes_without(network, part, recovered, full) if any(inconsistent) else {}
    for i, (row, p_full, p_available) in enumerate(
        zip(part.rows, _distributions(full), _distributions(available), strict=True)
    ):
        rows[row].full, rows[row].available, rows[row].score = p_full, p_available, scores[i]
        rows[row].key = tuple(
            key_modalities(inconsistent[i], part.presence.missing, {m: d[i] for m, d in without.items()})
        )
    if explain:
        _explain_votes(network, part, recovered, rows)
    needed = [i for i in range(len(part.rows)) if inconsistent[i] or both_paths or explain]
    if needed:
        _ensemble(network, part.select(needed), rows, explain=explain)


def _votes_without(network: EMMR, part: _Part, recovered: Sequences, full: Tensor) -> dict[Modality, list[bool]]:
    """With two missing: for each, whether the full vote differs from the vote of all but it."""
    missing = part.presence.missing
    if len(missing) < 2:
        return {}
    return {
        m: differs(full, _vote(network, Presence.of(*(o for o in MODALITIES if o != m)), recovered, part)).tolist()
        for m in missing
    }


def _ensemble(network: EMMR, part: _Part, rows: list[_Row], *, explain: bool) -> None:
    """All three branches, their key features, and β's weighted sum (Eqs. 10 to 12)."""
    keys: list[Tensor] = []
    recovered: dict[str, Sequences] = {}
    for branch in BRANCHES:
        decoded = (
            network.transformer.decode(part.encoded, part.valid)
            if branch == BRANCHES[0]
            else network.branches[branch](part.x, part.valid)[1]
        )
        recovered[branch] = _recover(part, split(decoded, part.slots))
        pooled = [network.subsets.pool(p, recovered[branch], part.slots) for p in PAIRS]
        votes = {(branch, p.name): network.subsets.logits(branch, p, f) for p, f in zip(PAIRS, pooled, strict=True)}
        keys.append(network.key_feature(branch, pooled, votes))
    summary, weights = network.branch_weights(torch.stack(keys, dim=1))  # (N, D), (N, 3)
    for row, answer, beta in zip(part.rows, _distributions(network.classify(summary)), weights.tolist(), strict=True):
        rows[row].ensemble = answer
        rows[row].branch_weights = dict(zip(BRANCHES, beta, strict=True))
    if explain:
        _explain_reconstruction(part, recovered, rows)


def _recover(part: _Part, decoded: Mapping[Modality, Tensor]) -> Sequences:
    """`I_m`: the true sequence where m is present, else the decoder's slots."""
    return {m: part.sequences[m] if m in part.presence else decoded[m] for m in MODALITIES}


def _vote(network: EMMR, subset: Presence, recovered: Sequences, part: _Part) -> Tensor:
    """The transformer branch's vote of a subset: `(N, C)` logits."""
    return network.subsets.logits(BRANCHES[0], subset, network.subsets.pool(subset, recovered, part.slots))


def _explain_votes(network: EMMR, part: _Part, recovered: Mapping[Modality, Tensor], rows: list[_Row]) -> None:
    for row in part.rows:
        rows[row].votes = {}
    for subset in (*PAIRS, COMPLETE):
        for row, vote in zip(part.rows, _distributions(_vote(network, subset, dict(recovered), part)), strict=True):
            votes = rows[row].votes
            assert votes is not None
            votes["all" if subset.complete else subset.name] = vote


def _explain_reconstruction(part: _Part, recovered: Mapping[str, Sequences], rows: list[_Row]) -> None:
    """How alike the branches' reconstructions of a missing modality are: mean cosine over slots and branch pairs."""
    figures: list[dict[Modality, dict[str, float]]] = [{} for _ in part.rows]
    for modality in part.presence.missing:
        slots = part.slots[modality]  # (N, T_m)
        a, b, c = (recovered[branch][modality] for branch in BRANCHES)
        cosine = torch.stack([F.cosine_similarity(p, q, dim=-1) for p, q in ((a, b), (a, c), (b, c))]).mean(dim=0)
        agreement = masked_mean(cosine.unsqueeze(-1), slots).squeeze(-1)  # (N,)
        for figure, value, count in zip(figures, agreement.tolist(), slots.sum(dim=1).tolist(), strict=True):
            figure[modality] = {"slots": float(count), "agreement": value}
    for row, figure in zip(part.rows, figures, strict=True):
        rows[row].reconstruction = figure


def _decision(row: _Row, *, both_paths: bool) -> Decision:
    gated = bool(row.key) and row.ensemble is not None
    answer = row.ensemble if gated and row.ensemble is not None else row.transformer
    return Decision(
        probabilities=answer,
        full=row.full or answer,
        available=row.available or answer,
        key_modalities=row.key,
        key_score=row.score,
        ensemble_used=gated,
        branch_weights=row.branch_weights if gated else {b: float(b == BRANCHES[0]) for b in BRANCHES},
        votes=row.votes,
        reconstruction=row.reconstruction,
        transformer=row.transformer if both_paths else None,
        ensemble=row.ensemble if both_paths else None,
    )


def _distributions(logits: Tensor) -> list[Distribution]:
    """`(N, C)` logits → N distributions."""
    return [tuple(p) for p in logits.float().softmax(dim=-1).tolist()]
