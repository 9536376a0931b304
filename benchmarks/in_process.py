"""The same code without a service: as fast as decoding, features and network go in a loop with perfect batches.

For: `python -m benchmarks.in_process`, which `benchmarks.service` starts in a process of its own. Decoding and features
on as many threads as there are processors, always a full batch ahead of the network's.
Does not know: HTTP, queues, confinement.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from app.engine.predictor import Inputs, Predictor, PreparedRequest
from app.settings import DEFAULT_WEIGHTS
from benchmarks.bodies import Bodies
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface
from model.modality import Modality, ModalitySet

BATCH: Final = 32


def answers_per_second(predictor: Predictor, subset: ModalitySet, seconds: float) -> float:
    """Utterances decided a second."""
    bodies = Bodies()

    def prepare(parts: Mapping[Modality, bytes]) -> PreparedRequest:
        config = predictor.pipeline.config.visual
        text, audio, face = (parts.get(m) for m in (Modality.TEXT, Modality.AUDIO, Modality.VISUAL))
        return predictor.prepare(
            Inputs(
                text=None if text is None else text.decode(),
                sound=None if audio is None else read_sound(io.BytesIO(audio)),
                track=None if face is None else read_openface(io.BytesIO(face), config.columns, config.min_confidence),
            )
        )

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:

        def begin() -> list[Future[PreparedRequest]]:
            return [threads.submit(prepare, bodies.parts(subset)) for _ in range(BATCH)]

        predictor.decide([job.result() for job in begin()])  # warms up whatever is compiled or planned once
        ahead, decided, began = begin(), 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or not decided:
            ready, ahead = [job.result() for job in ahead], begin()
            decided += len(predictor.decide(ready))
        elapsed = time.perf_counter() - began
        for job in ahead:
            job.cancel()
    return decided / elapsed


def main() -> None:
    """Print answers a second, by subset, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("subsets", nargs="+", help="text+audio+visual, text, …")
    options = parser.parse_args()
    predictor = Predictor.load(options.weights, "cpu")
    found = {name: answers_per_second(predictor, ModalitySet.parse(name), options.seconds) for name in options.subsets}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
