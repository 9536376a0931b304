"""Every reader on every seed and earlier finding; `make fuzz` runs the fuzzers."""

import numpy as np
import pytest

from tools.fuzz import targets
from tools.fuzz.seeds import dictionary, seeds
from tools.fuzz.targets import TARGETS, Finding

SEEDS = [(target, name) for target in TARGETS for name in seeds(target)]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The outcomes of the invariants; a violated one does not end the target."""
    found: list[bool] = []
    monkeypatch.setattr(targets, "_check", lambda condition, failure: found.append(condition))
    return found


@pytest.mark.parametrize(("target", "name"), SEEDS, ids=[f"{target}-{name}" for target, name in SEEDS])
def test_seeds_are_read_or_rejected(target: str, name: str, checks: list[bool]) -> None:
    TARGETS[target](seeds(target)[name])
    assert all(checks)


@pytest.mark.parametrize("target", TARGETS)
def test_empty_inputs_are_no_findings(target: str, checks: list[bool]) -> None:
    TARGETS[target](b"")
    assert all(checks)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_small_and_some_are_accepted(target: str, checks: list[bool]) -> None:
    assert all(len(content) <= targets.LONGEST[target] for content in seeds(target).values())
    assert all(len(word) < 64 for word in dictionary(target))
    for content in seeds(target).values():
        TARGETS[target](content)
    # A body is compared with itself whether or not it is accepted; two more checks follow where it is.
    assert len(checks) > len(seeds(target)) if target in {"form", "json"} else len(checks) >= 5


def test_infinite_samples_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "read_sound", lambda *_: (np.array([0.0, np.nan], dtype=np.float32), {}))
    with pytest.raises(Finding, match="not finite"):
        targets.audio(b"RIFF")


def test_results_that_depend_on_chunks_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_partially(body: bytes, kind: str, chunk: int) -> dict[str, bytes]:
        return {"text": body[:chunk]}

    monkeypatch.setattr(targets, "_parts", read_partially)
    with pytest.raises(Finding, match="the chunks of a body"):
        targets.form(b"\x02some text")


def test_unexpected_errors_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise IndexError

    monkeypatch.setattr(targets, "read_openface", breaks)
    with pytest.raises(IndexError):
        targets.openface(b"\x00")
