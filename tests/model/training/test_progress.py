"""The record of a training run."""

import pytest

from model.training.progress import FitReport


@pytest.mark.parametrize(("select", "kept"), [(True, 2), (False, 4)])
def test_the_best_or_the_last_epoch_is_kept(select: bool, kept: int) -> None:
    report = FitReport()
    for score in (0.5, 0.8, 0.7, 0.6):
        report.record({"text": score}, select=select)
    assert report.best_epoch == kept
    assert report.best_macro_f1 == report.history[kept - 1]
    assert report.stale(2) is select
