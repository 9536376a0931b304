from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batch_cost import encoding_cost, estimate_tokens, group_by_length

LENGTHS = st.lists(st.integers(2, 48), max_size=9)


def cost_of(groups: list[list[int]], lengths: list[int], call: float) -> float:
    return sum(call + len(group) * max(lengths[i] for i in group) for group in groups)


def every_cut(lengths: list[int], call: float) -> list[float]:
    """The cost of every way to cut the sorted lengths into runs."""
    ordered = sorted(lengths)
    places = range(1, len(ordered))
    ways = [(0, *cuts, len(ordered)) for size in range(len(ordered)) for cuts in combinations(places, size)]
    return [sum(call + (end - start) * ordered[end - 1] for start, end in pairwise(way)) for way in ways]


@given(LENGTHS, st.sampled_from([0.0, 5.0, 25.0, 1e6]))
def test_sentences_are_grouped_at_the_lowest_cost(lengths: list[int], call: float) -> None:
    groups = group_by_length(lengths, call)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert cost_of(groups, lengths, call) == encoding_cost(lengths, call) == min(every_cut(lengths, call), default=0)


def test_a_long_sentence_is_not_grouped_with_short_ones() -> None:
    groups = group_by_length([4] * 31 + [48], call=25)
    assert [len(group) for group in groups] == [31, 1]


def test_expensive_calls_lead_to_one_group() -> None:
    assert len(group_by_length([4] * 31 + [48], call=2_000)) == 1


def test_no_sentences_cost_nothing() -> None:
    assert (group_by_length([], 25), encoding_cost([], 25)) == ([], 0)


@pytest.mark.parametrize("text", ["", "a", "word " * 500, "x" * 10_000, "?" * 500, "12345 6,789", "日本語の文", "\n\n"])
def test_an_estimate_is_between_the_special_tokens_and_the_limit(text: str) -> None:
    assert 2 <= estimate_tokens(text, 48) <= 48


def test_estimates_order_sentences_as_the_tokenizer_does(tiny_weights: Path) -> None:
    from app.engine.predictor import Predictor

    tokenizer = Predictor.load(tiny_weights, "cpu").pipeline.extractor.text_encoder.tokenizer
    page = Path(__file__).parents[3].joinpath("docs", "architecture.md").read_text(encoding="utf-8")
    sentences = [line for line in page.splitlines() if 20 < len(line) < 150]
    exact = [len(tokenizer(sentence)["input_ids"]) for sentence in sentences]
    estimated = [estimate_tokens(sentence, 1000) for sentence in sentences]
    assert len(sentences) > 50
    assert sum(estimated) == pytest.approx(sum(exact), rel=0.15)
    assert sum(abs(a - b) for a, b in zip(exact, estimated, strict=True)) < 0.2 * sum(exact)
