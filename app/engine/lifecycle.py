"""The service's life, from starting to draining, as one small state machine.

For: everyone who must know whether to take a request, and whoever must tell the orchestrator.
Does not know: what is being loaded or served.

    starting → warming → ready → leaving → draining
        └─────────┴────────┴────────┴──────────┴──→ failed

`leaving` is the grace period after SIGTERM: no longer ready, so that load balancers turn away, and still serving those
who have not noticed. In `draining` nothing new is taken. `failed` is final.
"""

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from app.engine.errors import DeviceLost, NotReady


class Phase(StrEnum):
    """Where the service is in its life."""

    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    FAILED = "failed"


_ORDER: Final = tuple(Phase)


class Lifecycle:
    """The phase, changed from any thread, only ever forward.

    Args:
        on_failure: called once, from whichever thread saw the failure.
    """

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._phase = Phase.STARTING
        self._reason: str | None = None
        self._on_failure = on_failure

    @property
    def phase(self) -> Phase:
        """Where the service is."""
        return self._phase

    @property
    def reason(self) -> str | None:
        """Why it failed; None while it has not."""
        return self._reason

    @property
    def ready(self) -> bool:
        """Whether new traffic should be sent here."""
        return self._phase is Phase.READY

    def advance(self, phase: Phase) -> bool:
        """Move forward to `phase`; False, and nothing done, where that would be backward or out of `failed`."""
        with self._lock:
            if self._phase is Phase.FAILED or _ORDER.index(phase) <= _ORDER.index(self._phase):
                return False
            self._phase = phase
            return True

    def fail(self, reason: str) -> None:
        """Give up for good. `reason` is shown in health and logs, so it must not quote any request's content."""
        with self._lock:
            if self._phase is Phase.FAILED:
                return
            self._phase, self._reason = Phase.FAILED, reason
        if self._on_failure is not None:
            self._on_failure()

    def admit(self, retry_after: int) -> None:
        """Let a request in.

        Raises:
            NotReady: the service is starting, warming or draining.
            DeviceLost: it has failed.
        """
        match self._phase:
            case Phase.READY | Phase.LEAVING:
                return
            case Phase.FAILED:
                raise DeviceLost("The service has failed and is about to end.", retry_after)
            case phase:
                raise NotReady(f"The service is {phase}.", retry_after)
