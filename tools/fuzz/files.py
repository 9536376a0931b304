"""Sounds and tables for the parts of a form, good ones and damaged ones.

For: `tools.fuzz.hooks`, which puts them into the requests that Schemathesis makes.
Does not know: Schemathesis, or what the service should answer.

Which file, and how it is damaged, follows from the bytes it stands in for, so a seed brings everything back.
"""

import random
import zlib
from functools import cache
from typing import Final, Literal

from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, encode, voice_like
from tools.load.bodies import face, sound

Content = Literal["good", "damaged"]
CONTENT: Final = "EMMR_FUZZ_CONTENT"  # the environment variable that says which
SECONDS: Final = 0.6
MOST_CHANGES: Final = 8
FILES: Final = ("audio", "openface")


@cache
def good(part: str) -> tuple[bytes, ...]:
    """Files that the service must accept: every container, several shapes of table."""
    if part == "audio":
        shapes = [
            encode(voice_like(SECONDS, 8_000), "wav", 8_000, subtype) for subtype in ("PCM_U8", "PCM_24", "FLOAT")
        ]
        return (*(sound(container, SECONDS) for container in CONTAINERS), *shapes)
    return (
        face(0, 5),
        simulate_openface_csv(3, "all"),
        simulate_openface_csv(2, "action_units", mode="image"),
        simulate_openface_csv(2, "action_units", face_id=False, spaces=False, newline="\r\n"),
        simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.9, 0.6)),
    )


def damaged(content: bytes, rng: random.Random) -> bytes:
    """`content` with a few bytes changed, put in, taken out or repeated; the beginning more often than the rest."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        if not changed:
            break
        place = rng.randrange(min(len(changed), 200) if rng.random() < 0.5 else len(changed))
        length = rng.randint(1, 16)
        match rng.randrange(5):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                changed[place:place] = rng.randbytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                changed += changed[place : place + 16 * length]
            case _:
                del changed[place:]
    return bytes(changed)


def file_for(part: str, stand_in: bytes, content: Content) -> bytes:
    """The file that is sent where `stand_in` would have been."""
    rng = random.Random(zlib.crc32(part.encode() + stand_in))
    chosen = rng.choice(good(part))
    # Damaged ones are mixed with whole ones, so that one bad part meets good neighbours.
    return damaged(chosen, rng) if content == "damaged" and rng.random() < 0.8 else chosen
