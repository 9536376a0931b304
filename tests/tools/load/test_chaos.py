"""The cases at a small size. What each does at full size, and the figures, are `make chaos`'s.

A lost device has its tests in `tests/app/test_server_faults.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.load import chaos, client_trouble, disk_trouble, exit_trouble
from tools.load.findings import Finding, line
from tools.load.overload import Plan as Overload
from tools.load.overload import overload
from tools.load.scene import SMALL
from tools.load.service import WITH_FAULTS, Service, serving
from tools.load.soak import Plan as Soak
from tools.load.soak import soak
from tools.load.traffic import run

BODY_SECONDS = 2.0  # what nobody but the slow needs, even on a machine that is busy with other work
LONG_SECONDS = 150.0  # of sound: decoding it takes long enough to be hit, and not much longer


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(
        tiny_weights,
        program=WITH_FAULTS,
        EMMR_BODY_TIMEOUT=str(BODY_SECONDS),
        EMMR_DECODE_TIMEOUT="2",
        EMMR_QUEUE_SIZE="64",
        EMMR_MAX_WAIT="0",  # a slow machine would refuse a bystander
        OMP_NUM_THREADS="1",
    ) as running:
        yield running


def passed(finding: Finding) -> bool:
    assert finding.passed, line(finding)
    return True


@pytest.mark.parametrize("case", [name for name in chaos.SURVIVED if not name.startswith("slow-")])
def test_a_misfortune_befalls_its_victims_alone(service: Service, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.load.decoder_trouble.LONG_SECONDS", LONG_SECONDS)
    assert passed(run(chaos.played(chaos.SURVIVED[case], service, SMALL)))


def test_slow_bodies_are_ended_and_disturb_nobody(service: Service) -> None:
    assert passed(run(client_trouble.slow_bodies(service, SMALL, BODY_SECONDS)))


def test_slow_heads_are_ended_and_disturb_nobody(service: Service) -> None:
    assert passed(run(client_trouble.slow_heads(service, SMALL, BODY_SECONDS)))


def test_a_full_disk_refuses_what_does_not_fit_on_it(tiny_weights: Path) -> None:
    with disk_trouble.without_room(tiny_weights, OMP_NUM_THREADS="1", EMMR_MAX_WAIT="0") as service:
        assert passed(run(disk_trouble.full(service, SMALL)))


def test_sigterm_under_load_loses_nothing(tiny_weights: Path) -> None:
    with serving(tiny_weights, OMP_NUM_THREADS="1", EMMR_GRACE_PERIOD="60", EMMR_MAX_WAIT="0") as service:
        assert passed(run(exit_trouble.sigterm(service, SMALL, rate=15, hurried=True)))


def test_a_soaked_service_holds_on_to_nothing(service: Service) -> None:
    # A slope over so few seconds says nothing, so it may be anything.
    plan = Soak(seconds=2, share=0.5, measuring=0.5, settling=0.2, limit=1e6)
    assert passed(run(soak(service, plan)))


def test_an_overloaded_service_says_so(service: Service) -> None:
    finding = run(overload(service, Overload(seconds=1.5, times=12, measuring=0.5, settling=0.2)))
    # How soon an idle latency is back depends on the machine; `make overload` measures that on a quiet one.
    assert not [failure for failure in finding.failures if "idle latency" not in failure], line(finding)
