"""Every reader on every seed, and on what once was a finding. Fuzzing itself is `make fuzz`."""

import numpy as np
import pytest

from model.features.audio.loading import Sound
from tools.fuzz import targets
from tools.fuzz.seeds import dictionary, seeds
from tools.fuzz.targets import TARGETS, Finding

SEEDS = [(target, name) for target in TARGETS for name in seeds(target)]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What a reader's invariants came to; one that is broken does not end the reading."""
    found: list[bool] = []
    monkeypatch.setattr(targets, "_must", lambda holds, otherwise: found.append(holds))
    return found


@pytest.mark.parametrize(("target", "name"), SEEDS, ids=[f"{target}-{name}" for target, name in SEEDS])
def test_a_seed_is_read_or_refused_and_nothing_else(target: str, name: str, held: list[bool]) -> None:
    TARGETS[target](seeds(target)[name])
    assert all(held)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_at_all_is_no_finding(target: str, held: list[bool]) -> None:
    TARGETS[target](b"")
    assert all(held)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_small_and_some_of_them_are_accepted(target: str, held: list[bool]) -> None:
    assert all(len(content) <= targets.LONGEST[target] for content in seeds(target).values())
    assert all(len(word) < 64 for word in dictionary(target))
    for content in seeds(target).values():
        TARGETS[target](content)
    # A form is compared with itself whether or not it is accepted; two more checks follow where it is.
    assert len(held) > len(seeds(target)) if target == "form" else len(held) >= 5


def test_a_sample_that_is_not_finite_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Sound(np.array([0.0, np.nan], dtype=np.float32), seconds=2 / 16_000, source_rate=16_000, channels=1)
    monkeypatch.setattr(targets, "read_sound", lambda *_: sound)
    with pytest.raises(Finding, match="not finite"):
        targets.audio(b"RIFF")


def test_a_form_that_is_read_by_its_chunks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reads_less(body: bytes, kind: str, chunk: int) -> dict[str, bytes]:
        return {"text": body[:chunk]}

    monkeypatch.setattr(targets, "_parts", reads_less)
    with pytest.raises(Finding, match="how a body is cut"):
        targets.form(b"\x02some text")


def test_an_error_of_no_known_kind_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise IndexError

    monkeypatch.setattr(targets, "read_openface", breaks)
    with pytest.raises(IndexError):
        targets.openface(b"\x00")
