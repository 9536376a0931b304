"""Our own predictor behind LitServe, its batching on: the peer of `benchmarks.service`.

For: `python -m benchmarks.litserve_service --port N`. Decoding, features and network are ours, called as LitServe's
hooks ask for them; one worker a processor, batches of at most 32, one millisecond of waiting for company.
Does not know: limits, confinement of decoders, what our service does beyond predicting.
"""

import argparse
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import litserve
import torch
from fastapi import Request

from app.engine.predictor import Inputs, Outcome, Predictor, PreparedRequest
from app.settings import DEFAULT_WEIGHTS
from model.features.audio.loading import read_sound
from model.features.visual.openface import read_openface

MAX_BATCH: Final = 32
BATCH_TIMEOUT: Final = 0.001  # seconds


class PredictorAPI(litserve.LitAPI):
    """LitServe's hooks around our predictor."""

    def __init__(self, weights: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT, api_path="/predict")
        self._weights = weights

    def setup(self, device: str) -> None:
        """Load the weights in the worker; with a worker a processor, more threads than one would only collide."""
        torch.set_num_threads(1)
        self._predictor = Predictor.load(self._weights, device)

    def decode_request(self, request: Request) -> PreparedRequest:
        """A form → what the network needs."""
        config = self._predictor.pipeline.config.visual
        audio, openface = request.get("audio"), request.get("openface")
        return self._predictor.prepare(
            Inputs(
                text=request.get("text"),
                sound=None if audio is None else read_sound(io.BytesIO(audio.file.read())),
                track=None
                if openface is None
                else read_openface(io.BytesIO(openface.file.read()), config.columns, config.min_confidence),
            )
        )

    def batch(self, inputs: Sequence[PreparedRequest]) -> Sequence[PreparedRequest]:
        """Ours takes them as they are."""
        return inputs

    def predict(self, x: Sequence[PreparedRequest]) -> list[Outcome]:
        """Run the network."""
        return self._predictor.decide(x)

    def unbatch(self, output: list[Outcome]) -> list[Outcome]:
        """Ours gives one each."""
        return output

    def encode_response(self, output: Outcome) -> dict[str, object]:
        """The answer's figures."""
        decision, classes = output.decision, self._predictor.pipeline.config.classes
        return {
            "polarity": classes[decision.label_index],
            "probabilities": dict(zip(classes, decision.probabilities, strict=True)),
            "ensemble": decision.ensemble_used,
        }


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    options = parser.parse_args()
    server = litserve.LitServer(
        PredictorAPI(options.weights), accelerator="cpu", workers_per_device=os.cpu_count() or 1
    )
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
