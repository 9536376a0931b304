import io
import random

import pytest

from model.errors import ModalityError
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from tools.fuzz.files import FILES, damaged, file_for, good


def readable(part: str, content: bytes) -> bool:
    try:
        if part == "audio":
            read_sound(io.BytesIO(content))
        else:
            read_openface(io.BytesIO(content), "action_units", 0.5)
    except ModalityError:
        return False
    return True


@pytest.mark.parametrize("part", FILES)
def test_good_files_are_readable_and_most_damaged_are_not(part: str) -> None:
    assert all(readable(part, content) for content in good(part))
    placeholders = [bytes([number]) for number in range(60)]
    assert all(readable(part, file_for(part, one, "good")) for one in placeholders)
    read = sum(readable(part, file_for(part, one, "damaged")) for one in placeholders)
    assert 5 <= read <= 40


@pytest.mark.parametrize("part", FILES)
def test_a_placeholder_is_always_replaced_by_the_same_file(part: str) -> None:
    assert file_for(part, b"a", "damaged") == file_for(part, b"a", "damaged")
    assert len({file_for(part, bytes([number]), "damaged") for number in range(20)}) > 10


def test_empty_files_stay_empty() -> None:
    assert damaged(b"", random.Random(0)) == b""
