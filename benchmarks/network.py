"""The network at the published size: the sparse path beside `benchmarks.naive`, on the same weights.

Batches of 1 and 32; complete, one and two modalities missing; from feature arrays to decisions, collation included.
"""

# Weights and features are random. The time depends on them only through the gate: whether a missing modality is found
# to be key. Both outcomes are therefore timed, with weights whose votes always or never agree, and combined in the
# share in which the test items of the shipped weights are found inconsistent. All utterances have the most slots,
# where padding costs the port nothing; a second set of figures has lengths drawn from a fifth of that upwards.

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice, product
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, ratio_of, time_rounds
from benchmarks.naive import NaiveAnswer, NaivePort, naive_port, pad
from model.config import ModelConfig
from model.experiments.cell_measures import count_operations
from model.modality import MODALITIES, SUBSETS, ModalitySet, Utterance
from model.network.batch import Batch, collate
from model.network.decision import Decision
from model.network.emmr import EMMR
from model.network.inference.fused import FusedNetwork
from model.network.inference.sparse import decide

RESULTS: Final = Path(__file__).resolve().parent.parent / "weights" / "default" / "results.json"
CASES: Final = {0: "complete", 1: "one_missing", 2: "two_missing"}
GOALS: Final = {"complete": 6.0, "one_missing": 3.0}
TOLERANCE: Final = 1e-4
COMPARED: Final = 8  # utterances of each batch whose answers are compared with the port's
OPINION: Final = 2.0  # logits added to the class that the heads agree or disagree on


@dataclass(frozen=True, slots=True)
class Contestants:
    """Both implementations with the same weights."""

    ours: FusedNetwork
    naive: NaivePort

    @classmethod
    def build(cls, network: EMMR) -> "Contestants":
        """Build both from a network."""
        return cls(FusedNetwork(network), naive_port(network))

    def decide(self, utterances: Sequence[Utterance]) -> list[Decision]:
        """Run the sparse path."""
        return decide(self.ours, collate(utterances, self.ours.network.config))

    def answer(self, utterances: Sequence[Utterance]) -> NaiveAnswer:
        """Run the port."""
        answer: NaiveAnswer = self.naive(pad(utterances, self.naive.config))
        return answer


def with_votes(network: EMMR, *, agreeing: bool) -> EMMR:
    """Return a copy whose full vote always, or never, is the class of every other vote."""
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for name, head in changed.subsets.heads["transformer"].named_children():
            assert isinstance(head, torch.nn.Linear)
            head.bias[0 if agreeing or name != SUBSETS[0].name else 1] += OPINION
    return changed


def utterances(
    config: ModelConfig, presences: Sequence[ModalitySet], rng: np.random.Generator, shortest: float = 1.0
) -> list[Utterance]:
    """Return random features of each presence; lengths from `shortest` of the slots up to all of them."""

    def slots(most: int) -> int:
        return int(rng.integers(max(1, round(shortest * most)), most + 1))

    return [
        Utterance(
            {
                m: rng.standard_normal((slots(config.slots.of(m)), config.feature_size(m)), dtype=np.float32)
                for m in presence
            }
        )
        for presence in presences
    ]


def largest_difference(decisions: Sequence[Decision], answer: NaiveAnswer) -> float:
    """Return the largest difference of a probability; infinity where only one of both used the ensemble."""
    if [d.ensemble_used for d in decisions] != answer.ensemble_used.tolist():
        return float("inf")
    ours = torch.tensor([[d.probabilities, d.full, d.available] for d in decisions])  # (B, 3, C)
    theirs = torch.stack([answer.probabilities, answer.full, answer.available], dim=1)
    return float((ours - theirs).abs().max())


def inconsistent_share(results: Path = RESULTS) -> float:
    """Return the share of incomplete test items whose missing modality the shipped weights find to be key."""
    return float(
        json.loads(results.read_text(encoding="utf-8"))["test"]["composite2 test"]["gate"]["gates"]["rule"]["share"]
    )


def _batches(
    config: ModelConfig,
    sizes: Sequence[int],
    cases: Mapping[int, str],
    rng: np.random.Generator,
    shortest: float = 1.0,
) -> Iterator[tuple[str, int, list[list[Utterance]]]]:
    """Yield the key, the missing modalities and the batches of each size and case."""
    for size, (missing, case) in product(sizes, cases.items()):
        subsets = [s for s in SUBSETS if len(s.missing) == missing]
        # A batch of one: one of each pattern, one after another.
        count = len(subsets) if size == 1 else size
        items = utterances(config, list(islice(cycle(subsets), count)), rng, shortest)
        yield f"{case}_{size}", missing, [[item] for item in items] if size == 1 else [items]


def _expected(seconds: Mapping[str, Sequence[float]], share: float) -> list[float]:
    """Combine the times of consistent and inconsistent utterances by the share of the latter."""
    pairs = zip(seconds["consistent"], seconds["inconsistent"], strict=True)
    return [(1 - share) * a + share * b for a, b in pairs]


def measure(
    config: ModelConfig, sizes: Sequence[int], rounds: int, share: float, shortest: float = 1.0
) -> tuple[dict[str, float], dict[str, float], float]:
    """Return medians in ms for each batch, ratios, and the largest difference of a probability."""
    torch.manual_seed(0)
    network = EMMR(config).eval()
    agree, differ = (Contestants.build(with_votes(network, agreeing=a)) for a in (True, False))
    rng = np.random.default_rng(0)
    medians: dict[str, float] = {}
    ratios: dict[str, float] = {}
    apart = 0.0
    for key, missing, batches in _batches(config, sizes, CASES, rng, shortest):
        checked = list(chain.from_iterable(batches))[:COMPARED]
        for side in (agree, differ):
            apart = max(apart, largest_difference(side.decide(checked), side.answer(checked)))
        runs = {
            "naive": lambda b=batches: [agree.answer(x) for x in b],
            "consistent": lambda b=batches: [agree.decide(x) for x in b],
            "inconsistent": lambda b=batches: [differ.decide(x) for x in b],
        }
        if not missing:
            del runs["inconsistent"]
        seconds = time_rounds(runs, rounds)
        if missing:
            seconds["ours"] = _expected(seconds, share)
            ratios[f"{key}_all_inconsistent"] = ratio_of(seconds, "naive", "inconsistent")
        else:
            seconds["ours"] = seconds.pop("consistent")
        ratios[key] = ratio_of(seconds, "naive", "ours")
        medians |= {f"{key}_{n}_ms": 1e3 * s / len(batches) for n, s in medians_of(seconds).items()}
    return medians, ratios, apart


def operations(config: ModelConfig, share: float) -> dict[str, float]:
    """Return counted operations of matrix products in units of 10⁹, two for each multiply-add, of one utterance.

    `whole_graph_gflop`: everything computed, with all branches and all heads, and of each case the sparse path. Times
    fall with operations only as long as these run at the same rate.
    """
    network = EMMR(config).eval()
    agree, differ = (FusedNetwork(with_votes(network, agreeing=agrees)) for agrees in (True, False))
    rng, found = np.random.default_rng(0), dict[str, float]()
    for missing, case in CASES.items():
        subsets = [s for s in SUBSETS if len(MODALITIES) - len(s) == missing]
        batches = [collate([item], config, room_to_impute=True) for item in utterances(config, subsets, rng)]
        counts = [np.mean([count_operations(partial(decide, side, b)) for b in batches]) for side in (agree, differ)]
        found[f"{case}_gflop"] = float(np.average(counts, weights=(1 - share, share))) / 1e9
        with torch.inference_mode():
            found["whole_graph_gflop"] = max(count_operations(partial(network, b)) for b in batches) / 1e9
    for case in CASES.values():
        found[f"{case}_fewer_operations"] = found["whole_graph_gflop"] / found[f"{case}_gflop"]
    return found


def time_pass(
    network: EMMR, run: Callable[[Batch], object], share: float, sizes: Sequence[int], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return medians in ms of another pass on incomplete batches, and how many times longer the others take."""
    config, rng = network.config, np.random.default_rng(0)
    agree, differ = (Contestants.build(with_votes(network, agreeing=a)) for a in (True, False))
    medians: dict[str, float] = {}
    ratios: dict[str, float] = {}
    incomplete = {missing: case for missing, case in CASES.items() if missing}
    for key, _, batches in _batches(config, sizes, incomplete, rng):
        runs = {
            "naive": lambda b=batches: [agree.answer(x) for x in b],
            "consistent": lambda b=batches: [agree.decide(x) for x in b],
            "inconsistent": lambda b=batches: [differ.decide(x) for x in b],
            "pass": lambda b=batches: [run(collate(x, config)) for x in b],
        }
        seconds = time_rounds(runs, rounds)
        seconds["sparse"] = _expected(seconds, share)
        del seconds["consistent"], seconds["inconsistent"]
        ratios |= {f"{key}_{peer}": ratio_of(seconds, peer, "pass") for peer in ("naive", "sparse")}
        medians |= {f"{key}_{n}_ms": 1e3 * s / len(batches) for n, s in medians_of(seconds).items()}
    return medians, ratios


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="batches of 1 and 4, one round")
    options = parser.parse_args(argv)
    sizes, rounds = ((1, 4), 1) if options.quick else ((1, 32), options.rounds)
    report = Report("network", machine_line())
    share = inconsistent_share()
    config, largest = ModelConfig.paper(), 0.0
    for prefix, shortest, times in (("", 1.0, rounds), ("drawn_lengths_", 0.2, rounds // 2 + 1)):
        medians, ratios, apart = measure(config, sizes, times, share, shortest)
        report.medians.update({prefix + name: value for name, value in medians.items()})
        report.ratios.update({prefix + name: value for name, value in ratios.items()})
        report.facts[f"{prefix}largest_difference"] = apart
        largest = max(largest, apart)
    report.facts.update(operations(config, share))
    for case, goal in GOALS.items():
        for size in sizes:
            report.facts[f"{case}_{size}_goal_{goal:g}_met"] = report.ratios[f"{case}_{size}"] >= goal
    report.facts.update(
        {
            "equal_within_1e-4": largest <= TOLERANCE,
            "inconsistent_share": share,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
        }
    )
    finish(report, options.json)


if __name__ == "__main__":
    main()
