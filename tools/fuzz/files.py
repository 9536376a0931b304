"""Valid and damaged uploads for the requests that Schemathesis generates.

The file and its damage follow from the bytes that it repositions, so that a seed reproduces everything.
"""

import random
import zlib
from functools import cache
from typing import Final, Literal

from tests.support.openface import simulate_openface_csv
from tests.support.sound import CONTAINERS, encode
from tools.load.payloads import face, sound, speech

Content = Literal["good", "damaged"]
CONTENT: Final = "EMMR_FUZZ_CONTENT"  # the environment variable with the `Content`
SECONDS: Final = 0.6
MAX_CHANGES: Final = 8
FILES: Final = ("audio", "openface")


@cache
def good(part: str) -> tuple[bytes, ...]:
    """Return files that the service must accept: every container, several kinds of table."""
    if part == "audio":
        encodings = [encode(speech(SECONDS, 8_000), "wav", 8_000, subtype) for subtype in ("PCM_U8", "PCM_24", "FLOAT")]
        return (*(sound(container, SECONDS) for container in CONTAINERS), *encodings)
    return (
        face(0, 5),
        simulate_openface_csv(3, "all"),
        simulate_openface_csv(2, "action_units", mode="image"),
        simulate_openface_csv(2, "action_units", face_id=False, spaces=False, newline="\r\n"),
        simulate_openface_csv(2, "action_units", faces=(0, 1), confidence=(0.9, 0.6)),
    )


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return `content` with a few bytes changed, inserted, removed or repeated, more often at its beginning."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, MAX_CHANGES)):
        if not changed:
            break
        position = rng.randrange(min(len(changed), 200) if rng.random() < 0.5 else len(changed))
        length = rng.randint(1, 16)
        match rng.randrange(5):
            case 0:
                changed[position] = rng.randrange(256)
            case 1:
                changed[position:position] = rng.randbytes(length)
            case 2:
                del changed[position : position + length]
            case 3:
                changed += changed[position : position + 16 * length]
            case _:
                del changed[position:]
    return bytes(changed)


def file_for(part: str, placeholder: bytes, content: Content) -> bytes:
    """Return the file that replaces `placeholder`."""
    rng = random.Random(zlib.crc32(part.encode() + placeholder))
    chosen = rng.choice(good(part))
    # Some files stay undamaged, so that a damaged part is also sent together with a valid one.
    return damaged(chosen, rng) if content == "damaged" and rng.random() < 0.8 else chosen
