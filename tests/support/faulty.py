"""`emmr` with faults on request: `python -m tests.support.faulty serve …`; certain sentences fail the forward pass.

On a CUDA device memory really runs out and the context is really lost; on a CPU the exceptions are raised.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final
from unittest.mock import patch

from app.cli import main
from app.engine.predictor import Predictor, PreparedRequest, Result

HANGS: Final = "This sentence has the forward pass never return."
FAILS: Final = "This sentence has the forward pass fail."
NO_ROOM_FOR_TWO: Final = "This sentence needs all the memory for itself."
NO_ROOM: Final = "This sentence needs more memory than there is."
BREAKS: Final = "This sentence breaks the device for good."


def faulty(decide: Callable[..., list[Result]]) -> Callable[..., list[Result]]:
    """Return `decide`, with the faults that the sentences of a batch request."""
    broken = False

    def wrapped(predictor: Predictor, batch: Sequence[PreparedRequest]) -> list[Result]:
        nonlocal broken
        sentences = {prepared.text for prepared in batch}
        broken = broken or BREAKS in sentences
        if broken:
            lose_device(predictor.device)
        if HANGS in sentences:
            time.sleep(3600)
        if FAILS in sentences:
            raise RuntimeError("a fault of the forward pass")
        if NO_ROOM in sentences or (NO_ROOM_FOR_TWO in sentences and len(batch) > 1):
            exhaust_memory(predictor.device)
        return decide(predictor, batch)

    return wrapped


def lose_device(device: str) -> None:
    """Fail a device-side assertion, after which the CUDA context of the process is unusable."""
    import torch

    if device == "cpu":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    torch.zeros(1, device=device)[torch.tensor([7], device=device)].tolist()


def exhaust_memory(device: str) -> None:
    """Allocate more memory than any device has."""
    import torch

    if device == "cpu":
        raise torch.OutOfMemoryError("CUDA out of memory.")
    torch.empty(2**50, dtype=torch.uint8, device=device)


if __name__ == "__main__":
    # Without `forbid_dumps` its descriptors can be counted by a process that is not root's.
    with (
        patch.object(Predictor, "decide", faulty(Predictor.decide)),
        patch("app.engine.processes.MODULE", "tests.support.faulty_fork_server"),
        patch("app.linux.forbid_dumps", bool),
    ):
        main()
