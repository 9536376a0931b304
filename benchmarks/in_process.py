"""The predictor without a service: decoding, features and network in a loop with full batches.

Decoding and features run on as many threads as there are processors, one batch ahead of the network.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

from app.engine.predictor import Predictor, PreparedRequest
from app.settings import DEFAULT_WEIGHTS
from benchmarks.bodies import Bodies
from model.features.audio.loading import read_sound
from model.features.audio.raw_features import extract_voice
from model.features.visual.openface import read_openface
from model.modality import Modality, ModalitySet

BATCH: Final = 32


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
    """`prepare` for parts in memory."""
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


def main() -> None:
    """Print decisions a second, by subset, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("subsets", nargs="+", help="text+audio+visual, text, …")
    options = parser.parse_args()
    predictor = Predictor.load(options.weights, "cpu")
    found = {
        name: decisions_per_second(predictor, ModalitySet.parse(name), options.seconds) for name in options.subsets
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
