"""The cases at a small scale; `make chaos` runs them at full scale. `test_server_faults.py` covers `device-lost`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.load import chaos, faults_client, faults_disk, faults_shutdown
from tools.load.faults_common import SMALL
from tools.load.generator import run
from tools.load.overload import Plan as Overload
from tools.load.overload import overload
from tools.load.report import Result, line
from tools.load.service import WITH_FAULTS, Service, serving
from tools.load.soak import Plan as Soak
from tools.load.soak import soak

BODY_SECONDS = 2.0  # enough for all but slow clients, also on a busy machine
LONG_SECONDS = 150.0  # of sound: decoding it takes just long enough for a signal


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(
        tiny_weights,
        program=WITH_FAULTS,
        EMMR_BODY_TIMEOUT=str(BODY_SECONDS),
        EMMR_DECODE_TIMEOUT="2",
        EMMR_QUEUE_SIZE="64",
        EMMR_MAX_WAIT="0",  # a slow machine would reject background requests
        EMMR_GRACE_PERIOD="60",  # as long as the clients of a slow machine need; a second signal ends it
        OMP_NUM_THREADS="1",
    ) as running:
        yield running


def passed(result: Result) -> bool:
    assert result.passed, line(result)
    return True


@pytest.mark.parametrize("case", [name for name in chaos.SHARED if not name.startswith("slow-")])
def test_faults_affect_their_victims_only(service: Service, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.load.faults_decoder.LONG_SECONDS", LONG_SECONDS)
    assert passed(run(chaos.run_case(case, chaos.SHARED[case], service, SMALL)))


def test_slow_bodies_time_out_without_affecting_others(service: Service) -> None:
    assert passed(run(faults_client.slow_bodies(service, SMALL, BODY_SECONDS)))


def test_slow_heads_time_out_without_affecting_others(service: Service) -> None:
    assert passed(run(faults_client.slow_heads(service, SMALL, BODY_SECONDS)))


def test_full_disks_reject_large_uploads_only(tiny_weights: Path) -> None:
    with faults_disk.with_full_disk(tiny_weights, OMP_NUM_THREADS="1", EMMR_MAX_WAIT="0") as service:
        assert passed(run(faults_disk.full(service, SMALL)))


def test_soak_leaves_no_resources(service: Service) -> None:
    # A slope over so few seconds is noise, hence the limit.
    plan = Soak(seconds=2, share=0.5, measuring=0.5, settling=0.2, limit=1e6)
    assert passed(run(soak(service, plan)))


def test_overload_is_answered_with_429(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # The time until the idle latency returns depends on the machine; `make overload` measures it.
    monkeypatch.setattr("tools.load.overload.RECOVERY_SECONDS", 0.0)
    result = run(overload(service, Overload(seconds=1.5, times=12, measuring=0.5, settling=0.2)))
    assert not [failure for failure in result.failures if "idle latency" not in failure], line(result)


def test_sigterm_under_load_loses_no_request(service: Service) -> None:
    """Runs last: it ends the shared service."""
    assert passed(run(faults_shutdown.sigterm(service, SMALL, rate=15, skip_grace=True)))
