import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.network import Contestants, inconsistent_share, measure, time_pass, utterances, with_votes
from model.modality import SUBSETS
from tests.support.network import random_network, tiny_config

CONFIG = tiny_config()


def test_every_case_and_size_has_a_ratio() -> None:
    medians, ratios, apart = measure(CONFIG, (1, 2), rounds=1, share=0.05)
    for case in ("complete", "one_missing", "two_missing"):
        for size in (1, 2):
            assert ratios[f"{case}_{size}"] > 0
            assert medians[f"{case}_{size}_naive_ms"] > 0
            assert medians[f"{case}_{size}_ours_ms"] > 0
    assert apart < 1e-4


def test_another_pass_has_a_ratio_for_each_incomplete_case_and_size() -> None:
    batches: list[int] = []
    medians, ratios = time_pass(random_network(CONFIG), lambda batch: batches.append(batch.size), 0.1, (1, 2), rounds=1)
    cases = [f"{case}_{size}" for case in ("one_missing", "two_missing") for size in (1, 2)]
    assert ratios.keys() == {f"{case}_{peer}" for case in cases for peer in ("naive", "sparse")}
    assert medians.keys() == {f"{case}_{name}_ms" for case in cases for name in ("naive", "sparse", "pass")}
    assert set(batches) == {1, 2}


@pytest.mark.parametrize("agreeing", [True, False])
def test_votes_always_or_never_agree(agreeing: bool) -> None:
    contestants = Contestants.build(with_votes(random_network(CONFIG), agreeing=agreeing))
    items = utterances(CONFIG, SUBSETS * 4, np.random.default_rng(0), shortest=0.2)
    for item, decision in zip(items, contestants.decide(items), strict=True):
        assert decision.ensemble_used == (not agreeing and not item.presence.complete)


def test_lengths_are_full_unless_drawn() -> None:
    rng = np.random.default_rng(0)
    (full,) = utterances(CONFIG, SUBSETS[:1], rng)
    assert {m: len(x) for m, x in full.features.items()} == {m: CONFIG.slots.of(m) for m in full.features}
    drawn = utterances(CONFIG, SUBSETS[:1] * 30, rng, shortest=0.2)
    assert len({tuple(map(len, item.features.values())) for item in drawn}) > 10


def test_the_inconsistent_share_is_read_from_the_results(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps({"test": {"composite2 test": {"gate": {"gates": {"rule": {"share": 0.25}}}}}}), encoding="utf-8"
    )
    assert inconsistent_share(file) == 0.25
    assert 0 <= inconsistent_share() <= 1
