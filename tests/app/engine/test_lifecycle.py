import pytest

from app.engine.lifecycle import Lifecycle, Phase
from app.errors import DeviceLost, NotReady


def test_phases_only_advance() -> None:
    lifecycle = Lifecycle()
    phases = [Phase.WARMING, Phase.READY, Phase.LEAVING, Phase.DRAINING]
    assert [lifecycle.advance(phase) for phase in phases] == [True] * 4
    assert [lifecycle.advance(phase) for phase in phases] == [False] * 4
    assert lifecycle.phase is Phase.DRAINING


def test_a_service_leaving_while_starting_never_becomes_ready() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.advance(Phase.LEAVING)
    assert not lifecycle.advance(Phase.READY)
    assert not lifecycle.ready


@pytest.mark.parametrize(
    ("phase", "ready", "admits"),
    [
        (Phase.STARTING, False, False),
        (Phase.WARMING, False, False),
        (Phase.READY, True, True),
        (Phase.LEAVING, False, True),
        (Phase.DRAINING, False, False),
    ],
)
def test_each_phase_admits_or_refuses_requests(phase: Phase, ready: bool, admits: bool) -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(phase)
    assert lifecycle.ready is ready
    if admits:
        lifecycle.admit(retry_after=3)
    else:
        with pytest.raises(NotReady) as refusal:
            lifecycle.admit(retry_after=3)
        assert refusal.value.retry_after == 3


def test_a_failure_is_final_and_reported_once() -> None:
    failures: list[str] = []
    lifecycle = Lifecycle(on_failure=lambda: failures.append("failed"))
    lifecycle.fail("the weights are altered")
    lifecycle.fail("something later")
    assert failures == ["failed"]
    assert lifecycle.reason == "the weights are altered"
    assert not lifecycle.advance(Phase.DRAINING)
    with pytest.raises(DeviceLost):
        lifecycle.admit(retry_after=1)
