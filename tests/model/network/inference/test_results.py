"""Columns of the result matrix."""

import torch

from model.network.inference.results import VOTES, Results
from tests.support.network import tiny_config

CONFIG = tiny_config()


def test_results_are_views_of_the_matrix() -> None:
    matrix = torch.arange(58.0).view(2, 29)
    results = Results.of(matrix, CONFIG)
    assert results.available[0].tolist() == [6, 7, 8]
    for k, subset in enumerate(VOTES):
        results.vote(subset)[1] = float(k)
    assert matrix[1, 9:21].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3 + [3.0] * 3
