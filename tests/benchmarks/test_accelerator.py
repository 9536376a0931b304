"""Counted work and reported figures of `benchmarks.accelerator`."""

import pytest
import torch

from benchmarks.accelerator import Rates, Work, count, main, measure
from benchmarks.harness import Report
from tests.support.network import tiny_config


def test_products_and_inputs_are_counted() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 2)
    work = count(lambda: torch.relu(a @ b) @ torch.ones(2, 2))
    assert work == Work(operations=2 * 4 * 8 * 2 + 2 * 4 * 2 * 2, bytes=4 * (32 + 16))


def test_input_read_twice_counts_once() -> None:
    a = torch.randn(8, 8)
    assert count(lambda: a @ a + a[0]).bytes == 4 * 64


def test_floor_is_the_longer_of_both_times() -> None:
    rates = Rates({torch.float32: 100.0}, bytes=10.0)
    assert rates.floor(Work(200, 1), torch.float32) == 2
    assert rates.floor(Work(200, 50), torch.float32) == 5


def test_every_time_has_a_floor() -> None:
    report = Report("accelerator", "")
    measure(report, tiny_config(), torch.device("cpu"), batch=2, large=7, product=64, rounds=1)
    for name in ("training_step_2", "complete_7_step_by_step", "mixed_7_step_by_step", "one_step_by_step"):
        assert report.medians[f"{name}_ms"] > 0
        assert report.medians[f"{name}_floor_ms"] > 0
        assert report.ratios[f"{name}_of_its_floor"] > 0
    assert "one_replayed_ms" not in report.medians


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "there is no CUDA device" in capsys.readouterr().err
