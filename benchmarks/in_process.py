"""The predictor without a service: decoding, features and network in a loop with full batches.

Decoding and features run on as many threads as there are processors, one batch ahead of the network.
"""

import argparse
import io
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, Final

from app.engine.predictor import Predictor, PreparedRequest
from app.engine.processes import load_predictor
from app.settings import DEFAULT_WEIGHTS, Settings
from benchmarks.bodies import Bodies
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import extract_voice
from model.features.visual.openface import read_openface
from model.modality import Modality, ModalitySet

BATCH: Final = 32
ROUNDS: Final = 4  # in which numbers of workers are compared


def prepare(predictor: Predictor, text: str | None, audio: BinaryIO | None, face: BinaryIO | None) -> PreparedRequest:
    """Decode the parts of a request in this process and compute their features."""
    request, config = PreparedRequest(predictor), predictor.pipeline.config
    if text is not None:
        request.add_text(text)
    if audio is not None:
        waveform, warnings = read_sound(audio)
        request.add_audio(extract_voice(waveform, warnings=warnings, **config.audio.model_dump()))
    if face is not None:
        request.add_visual(read_openface(face, config.visual.columns, config.visual.min_confidence))
    return request


def prepare_parts(predictor: Predictor, parts: Mapping[Modality, bytes]) -> PreparedRequest:
    """`prepare` with the content of each part."""
    text, audio, face = (parts.get(m) for m in (Modality.TEXT, Modality.AUDIO, Modality.VISUAL))
    files = (None if content is None else io.BytesIO(content) for content in (audio, face))
    return prepare(predictor, None if text is None else text.decode(), *files)


def decisions_per_second(predictor: Predictor, subset: ModalitySet, seconds: float) -> float:
    """Return the decisions a second."""
    bodies = Bodies()
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:

        def submit() -> list[Future[PreparedRequest]]:
            return [threads.submit(prepare_parts, predictor, bodies.parts(subset)) for _ in range(BATCH)]

        predictor.decide([job.result() for job in submit()])  # warm-up: what is compiled or planned once
        ahead, decided, began = submit(), 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or not decided:
            ready, ahead = [job.result() for job in ahead], submit()
            decided += len(predictor.decide(ready))
        elapsed = time.perf_counter() - began
        for job in ahead:
            job.cancel()
    return decided / elapsed


def decisions_of_workers(predictor: Predictor, subset: ModalitySet, seconds: float, most: int) -> dict[int, float]:
    """Return the decisions a second of one and of `most` workers on prepared requests: number of workers → rate.

    Both run in turn, several times.
    """
    bodies = Bodies()
    batches = [[prepare_parts(predictor, bodies.parts(subset)) for _ in range(BATCH)] for _ in range(most)]
    decided, elapsed = Counter[int](), dict.fromkeys((1, most), 0.0)

    def work(batch: Sequence[PreparedRequest], until: float) -> int:
        found = 0
        while time.perf_counter() < until:
            found += len(predictor.decide(batch))
        return found

    with ThreadPoolExecutor(most) as threads:
        list(threads.map(predictor.decide, batches))  # warm-up
        for _ in range(ROUNDS):
            for number in (1, most):
                began = time.perf_counter()
                decided[number] += sum(threads.map(work, batches[:number], repeat(began + seconds / ROUNDS)))
                elapsed[number] += time.perf_counter() - began
    return {number: decided[number] / seconds for number, seconds in elapsed.items()}


def main() -> None:
    """Print decisions a second, by subset or by number of workers, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--workers", type=int, default=0, help="compare this number of processes with one")
    parser.add_argument("subsets", nargs="+", help="text+audio+visual, text, …; with --workers one of them")
    options = parser.parse_args()
    subsets = [ModalitySet.parse(name) for name in options.subsets]
    if options.workers:
        settings = Settings(compute_workers=options.workers, compute_threads=1)
        workers = load_predictor(settings, options.weights, "cpu", 1)
        print(json.dumps(decisions_of_workers(workers, subsets[0], options.seconds, options.workers)))
        workers.close()
    else:
        predictor = Predictor.load(options.weights, "cpu")
        print(json.dumps({s.name: decisions_per_second(predictor, s, options.seconds) for s in subsets}))


if __name__ == "__main__":
    main()
