"""The process that loads weights and forks those that compute: `python -m app.engine.fork_server`, on Linux."""

# Processes that are forked share the memory of the weights, and each has an interpreter's lock of its own. The process
# that forks has one thread and computes on it alone: a forked process would wait forever for threads it has not got.

import gc
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Final, Literal, NoReturn, cast

from app.engine.predictor import COMPUTE_NICENESS, Predictor, PreparedRequest
from app.engine.remote import decide
from app.engine.warmup import SENTENCE
from app.linux import PR_SET_PDEATHSIG, forbid_dumps, prctl, return_free_memory
from app.logging import configure_logging
from model.errors import EMMRError

IDLE_SECONDS: Final = 1.0  # after which a process returns freed memory to the system


def main() -> None:
    """Load, then fork until the connection ends.

    Arguments: weights folder, threads of a computation, level and form of the log, and the descriptor of a connection.
    It sends the version of the weights or the error, then, for each descriptor that it receives, the id of a process
    that takes batches from it, or None where the system is short of what a process needs.
    """
    weights, threads, level, form, descriptor = sys.argv[1:]
    configure_logging(level, cast(Literal["auto", "json", "text"], form))
    forbid_dumps()
    control = Connection(int(descriptor))
    try:
        predictor = load(Path(weights))
    except EMMRError as error:
        control.send(error)
        return
    control.send(predictor.pipeline.checkpoint.version)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets ended processes
    parent = os.getpid()
    while True:
        try:
            batches = recv_handle(control)
        except (EOFError, OSError):
            return
        try:
            child: int | None = os.fork()
        except OSError:
            child = None
        if child == 0:
            control.close()
            _run(predictor, Connection(batches), int(threads), parent)
        os.close(batches)
        control.send(child)


def load(weights: Path) -> Predictor:
    """Load weights on one thread, and decide once, so that what is laid out on first use is shared.

    Raises:
        CheckpointError, ConfigError: see `Predictor.load`.
    """
    predictor = Predictor.load(weights, "cpu", 1, voices=False)
    request = PreparedRequest(predictor)
    request.text = SENTENCE  # without the language check, whose model is not needed here
    predictor.decide([request])
    # The collector would write to every object, and so copy the pages they lie on.
    gc.collect()
    gc.freeze()
    return predictor


def compute(predictor: Predictor, connection: Connection) -> None:
    """Decide on the batches of a connection until it ends."""
    while True:
        try:
            batch: list[PreparedRequest] = connection.recv()
        except EOFError:
            return
        connection.send(decide(predictor, batch))
        if not connection.poll(IDLE_SECONDS):
            return_free_memory()


def _run(predictor: Predictor, connection: Connection, threads: int, parent: int) -> NoReturn:
    """The whole of a forked process, which ends with its parent, also in the middle of a batch."""
    status = 1
    try:
        import torch

        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.nice(COMPUTE_NICENESS)
            torch.set_num_threads(threads)
            compute(predictor, connection)
            status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
