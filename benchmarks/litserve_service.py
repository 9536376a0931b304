"""Our predictor behind LitServe with batching: a peer of `benchmarks.service` (`--port N`).

One worker for each processor, batches of at most 32, a batch timeout of one millisecond.
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

from app.engine.predictor import Predictor, PreparedRequest, Result
from app.settings import DEFAULT_WEIGHTS
from benchmarks.in_process import prepare

MAX_BATCH: Final = 32
BATCH_TIMEOUT: Final = 0.001  # seconds


class PredictorAPI(litserve.LitAPI):
    """LitServe's hooks around our predictor."""

    def __init__(self, weights: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT, api_path="/predict")
        self._weights = weights

    def setup(self, device: str) -> None:
        """Load the weights in the worker; one thread, since there is a worker for each processor."""
        torch.set_num_threads(1)
        self._predictor = Predictor.load(self._weights, device)

    def decode_request(self, request: Request) -> PreparedRequest:
        """Decode a form and compute its features."""
        audio, openface = request.get("audio"), request.get("openface")
        files = (None if upload is None else io.BytesIO(upload.file.read()) for upload in (audio, openface))
        return prepare(self._predictor, request.get("text"), *files)

    def batch(self, inputs: Sequence[PreparedRequest]) -> Sequence[PreparedRequest]:
        """Return the inputs unchanged; the predictor collates them."""
        return inputs

    def predict(self, x: Sequence[PreparedRequest]) -> list[Result]:
        """Run the network."""
        return self._predictor.decide(x)

    def unbatch(self, output: list[Result]) -> list[Result]:
        """Return the results unchanged; there is one for each request."""
        return output

    def encode_response(self, output: Result) -> dict[str, object]:
        """Return the fields of the response."""
        decision, classes = output.decision, self._predictor.pipeline.config.classes
        return {
            "polarity": classes[decision.label_index],
            "probabilities": dict(zip(classes, decision.probabilities, strict=True)),
            "ensemble": decision.ensemble_used,
        }


def main() -> None:
    """Run the command."""
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
