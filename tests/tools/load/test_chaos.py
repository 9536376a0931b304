"""The cases at a small scale; `make chaos` runs them at full scale. `test_server_faults.py` covers `device-lost`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.load import chaos, faults_client, faults_disk, faults_reload, faults_shutdown
from tools.load.faults_common import SMALL
from tools.load.generator import run
from tools.load.overload import Plan as Overload
from tools.load.overload import overload
from tools.load.report import Result, line
from tools.load.service import MIB, WITH_FAULTS, Service, serving
from tools.load.soak import Plan as Soak
from tools.load.soak import soak

SLOW_SECONDS = 2.0  # enough for all but slow clients, also on a busy machine
HEADS = 600  # half-sent; more than may be from one address, and than are kept beside these
LONG_SECONDS = 40.0  # of sound: decoding it takes just long enough for a signal


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(
        tiny_weights,
        program=WITH_FAULTS,
        EMMR_BODY_TIMEOUT=str(SLOW_SECONDS),
        EMMR_HEAD_TIMEOUT=str(SLOW_SECONDS),
        EMMR_MAX_UPLOADS_PER_ADDRESS=str(SMALL.clients - 2),
        EMMR_ADMIN_KEYS=f'["{faults_reload.KEY}"]',
        EMMR_COMPUTE_WORKERS="2",
        EMMR_DECODE_WORKERS="2",
        EMMR_DECODE_TIMEOUT="6",
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
    result = run(faults_client.slow_bodies(service, SMALL, SLOW_SECONDS))
    assert passed(result)
    assert result.figures["victims"] == {"408": SMALL.clients - 2, "429": 2}


def test_slow_heads_time_out_without_affecting_others(service: Service) -> None:
    assert passed(run(faults_client.slow_heads(service, SMALL, SLOW_SECONDS)))


def test_half_sent_heads_leave_health_checks_answered(service: Service) -> None:
    result = run(faults_client.half_sent_heads(service, SMALL, heads=HEADS))
    assert passed(result)
    assert result.figures["victims"] == {"200": 10}


def test_reloads_affect_no_request(service: Service) -> None:
    result = run(faults_reload.repeated(service, SMALL, reloads=3))
    assert result.figures["victims"] == {"200": 3}
    # Memory of so small a network is noise.
    assert not [one for one in result.failures if "memory" not in one], line(result)


def test_full_disks_reject_large_uploads_only(tiny_weights: Path) -> None:
    with faults_disk.with_full_disk(tiny_weights, OMP_NUM_THREADS="1", EMMR_MAX_WAIT="0") as service:
        assert passed(run(faults_disk.full(service, SMALL)))


def test_uploads_past_the_temporary_space_are_refused(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BUDGET", 8 * MIB), ("LARGE", 2 * MIB), ("PENDING", 8), ("LARGE_SECONDS", 2.0)):
        monkeypatch.setattr(faults_disk, name, value)
    with faults_disk.with_small_budget(tiny_weights, OMP_NUM_THREADS="1", EMMR_MAX_WAIT="0") as service:
        assert passed(run(faults_disk.over_budget(service, SMALL)))


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
