"""The cost of decoding a small upload in another process; fails where it exceeds `MAX_ISOLATION_MS`.

The same file is decoded, and audio features are computed, here and in a confined process of the pool, in turn.
"""

import asyncio
import io
import statistics
from collections.abc import Callable
from typing import Final

from app.decoding.parts import audio_job, openface_job
from app.decoding.pool import DecodePool
from app.settings import Settings
from benchmarks.harness import Report, arguments, finish, machine_line, medians_of, time_rounds
from model.config import AudioConfig, VisualConfig
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import AudioFeatures, extract_voice
from model.features.visual.openface import FaceTrack, read_openface
from tests.support.openface import simulate_openface_csv
from tests.support.sound import encode, voice_like

SECONDS: Final = 2.5
FRAMES: Final = 75
MAX_ISOLATION_MS: Final = 5.0  # median over rounds of the difference within a round


def contestants(pool: DecodePool, settings: Settings, run: Callable[..., object]) -> dict[str, Callable[[], object]]:
    """Return the decoding of a sound and a face, in this process and in the pool."""
    sound, face = encode(voice_like(SECONDS), "wav"), simulate_openface_csv(FRAMES, "action_units")
    audio, visual = AudioConfig(dynamics=True), VisualConfig()
    return {
        "sound_here": lambda: extract_voice(read_sound(io.BytesIO(sound))[0], **audio.model_dump()),
        "sound_in_pool": lambda: run(pool.run(audio_job(audio, settings), io.BytesIO(sound), "audio", AudioFeatures)),
        "face_here": lambda: read_openface(io.BytesIO(face), visual.columns, visual.min_confidence),
        "face_in_pool": lambda: run(pool.run(openface_job(visual, settings), io.BytesIO(face), "openface", FaceTrack)),
    }


def main() -> None:
    """Run the command."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=200)
    options = parser.parse_args()
    settings = Settings()
    pool = DecodePool(workers=1, timeout=settings.decode_timeout, memory_bytes=settings.decode_memory_bytes)
    pool.start()
    sandbox = pool.state().sandbox
    try:
        with asyncio.Runner() as runner:
            seconds = time_rounds(contestants(pool, settings, runner.run), rounds=options.rounds, warmups=5)
    finally:
        pool.stop()
    medians = {f"{name}_ms": value * 1000 for name, value in medians_of(seconds).items()}
    costs = {}
    for kind in ("sound", "face"):
        pairs = zip(seconds[f"{kind}_in_pool"], seconds[f"{kind}_here"], strict=True)
        costs[f"{kind}_isolation_ms"] = 1000 * statistics.median(there - here for there, here in pairs)
    facts: dict[str, float | int | str | bool] = {"rounds": options.rounds, "sound_seconds": SECONDS}
    facts |= {"face_rows": FRAMES, **sandbox}
    finish(Report("isolation", machine_line(), medians | costs, facts=facts), options.json)
    assert max(costs.values()) <= MAX_ISOLATION_MS, f"isolation costs more than {MAX_ISOLATION_MS} ms"


if __name__ == "__main__":
    main()
