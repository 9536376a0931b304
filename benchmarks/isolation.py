"""What it costs a small upload that its decoding happens in another process.

For: `python -m benchmarks.isolation`. The same file is decoded, and a sound listened to, here and by a process of the
pool, in turn; the difference is what the pool adds: handing the file over, waking two threads, and taking what came of
it back.
Does not know: requests; the pool is asked as the service asks it.
"""

import asyncio
import io
import tempfile
from collections.abc import Callable

from app.decoding.audio import decode_audio
from app.decoding.openface import decode_openface
from app.decoding.pool import DecodePool
from app.settings import Settings
from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, time_rounds
from model.features.audio.loading import SoundLimits, read_sound
from model.features.audio.raw_features import listen
from model.features.visual.openface import OpenFaceLimits, read_openface
from tests.support.openface import simulate_openface_csv
from tests.support.sound import encode, voice_like

SECONDS = 2.5
FRAMES = 75
SILENCE = -60.0  # dBFS


def contestants(pool: DecodePool, run: Callable[..., object]) -> dict[str, Callable[[], object]]:
    """A sound and a face, decoded here and there."""
    sound, face = encode(voice_like(SECONDS), "wav"), simulate_openface_csv(FRAMES, "action_units")

    def sound_there() -> object:
        with tempfile.SpooledTemporaryFile() as file:
            file.write(sound)
            return run(decode_audio(file, True, SILENCE, SoundLimits(), pool))

    def face_there() -> object:
        with tempfile.SpooledTemporaryFile() as file:
            file.write(face)
            return run(decode_openface(file, "action_units", 0.5, OpenFaceLimits(), pool))

    return {
        "sound_here": lambda: listen(read_sound(io.BytesIO(sound)).waveform, dynamics=True, silence_dbfs=SILENCE),
        "sound_there": sound_there,
        "face_here": lambda: read_openface(io.BytesIO(face), "action_units", 0.5),
        "face_there": face_there,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=200)
    chosen = parser.parse_args()
    settings = Settings()
    pool = DecodePool(workers=1, timeout=settings.decode_timeout, memory_bytes=settings.decode_memory_bytes)
    pool.start()
    try:
        with asyncio.Runner() as runner:
            seconds = time_rounds(contestants(pool, runner.run), rounds=chosen.rounds, warmups=5)
    finally:
        pool.stop()
    medians = {f"{name}_ms": value * 1000 for name, value in medians_of(seconds).items()}
    for kind in ("sound", "face"):
        medians[f"{kind}_isolation_ms"] = medians[f"{kind}_there_ms"] - medians[f"{kind}_here_ms"]
    facts = {"rounds": chosen.rounds, "sound_seconds": SECONDS, "face_rows": FRAMES}
    finish(Report("isolation", machine_line(), medians, facts=facts), chosen.json)


if __name__ == "__main__":
    main()
