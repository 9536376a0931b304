"""The phases of the service, from starting to draining, as a state machine."""

#     starting → warming → ready → leaving → draining
#         └─────────┴────────┴────────┴──────────┴──→ failed
#
# `leaving` is the grace period after SIGTERM: not ready, so that load balancers send traffic elsewhere, but requests
# are still answered. In `draining` new requests are refused. `failed` is final.

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from app.errors import DeviceLost, NotReady


class Phase(StrEnum):
    """A phase of the service."""

    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    FAILED = "failed"


_ORDER: Final = tuple(Phase)


class Lifecycle:
    """The current phase; may be changed from any thread, and only forward.

    Args:
        on_failure: called once, on the thread that reported the failure.
    """

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._on_failure = on_failure
        self.phase = Phase.STARTING
        self.reason: str | None = None
        """Why the service failed; None unless it has."""

    @property
    def ready(self) -> bool:
        """Whether new traffic should be sent here."""
        return self.phase is Phase.READY

    def advance(self, phase: Phase) -> bool:
        """Move forward to `phase`; return False, and change nothing, if that is backward or the service has failed."""
        with self._lock:
            if _ORDER.index(phase) <= _ORDER.index(self.phase):
                return False
            self.phase = phase
            return True

    def fail(self, reason: str) -> None:
        """Enter the final phase. `reason` is shown by health checks and logs, so it must not quote any content."""
        with self._lock:
            if self.phase is Phase.FAILED:
                return
            self.phase, self.reason = Phase.FAILED, reason
        if self._on_failure is not None:
            self._on_failure()

    def admit(self, retry_after: int) -> None:
        """Raise unless requests are answered in this phase.

        Raises:
            NotReady: the service is starting, warming up or draining.
            DeviceLost: it has failed.
        """
        match self.phase:
            case Phase.READY | Phase.LEAVING:
                return
            case Phase.FAILED:
                raise DeviceLost("The service has failed and is about to end.", retry_after)
            case phase:
                raise NotReady(f"The service is {phase}.", retry_after)
