import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from app.decoding.process import MAX_BACKOFF, Decoder


def test_the_delay_after_each_failed_start_doubles_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    # Of this module alone: threads of other services in this process use the clock.
    monkeypatch.setattr("app.decoding.process.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(sys, "executable", os.devnull)
    decoder, may_launch = Decoder(2**30, 1.0), []
    for delay in (2.0, 4.0, 8.0, 16.0, MAX_BACKOFF, MAX_BACKOFF):
        with pytest.raises(PermissionError):
            decoder.launch()
        for passed in (0.0, delay - 0.1, 0.1):
            now += passed
            may_launch.append(decoder.may_launch)
    assert decoder.failing
    assert may_launch == [False, False, True] * 6


def test_a_process_that_was_killed_here_is_not_reported_as_ended() -> None:
    decoder = Decoder(2**30, 1.0)
    decoder.launch()
    assert decoder.kill() is None
    assert decoder.pid is None


def test_the_exit_status_of_a_process_that_ended_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    decoder = Decoder(2**30, 1.0)
    decoder.launch()
    assert decoder.kill(wait=30.0) == "status 1"
