"""Decoding of a long file in a decoder process of its own, which reads the file itself and sends it block by block."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import IO, Literal

from app.decoding.pool import START_SECONDS
from app.decoding.process import ENDED_SECONDS, Decoder, DecoderDied, Unresponsive
from app.decoding.protocol import DecodingStopped, Json, ProtocolError, raise_error
from app.errors import DecoderFailed, NoDecoder
from app.logging import get_logger


async def stream(
    job: Json,
    file: IO[bytes],
    part: Literal["audio", "openface", "video"],
    *,
    memory_bytes: int,
    seconds: float,
    on_block: Callable[[int, bytearray], None],
) -> dict[str, str]:
    """Decode the whole of `file`. The caller may close the file once this has returned or raised.

    Args:
        job: see `app.decoding.worker.blocks`.
        file: a file with a descriptor.
        part: named by the errors.
        memory_bytes: limit of the process's address space.
        seconds: for the whole file, and of processor time.
        on_block: called in a thread with the number of columns and the content of each block.

    Returns:
        Warnings about the file: code → detail.

    Raises:
        ModalityError: the file is not accepted, or empty.
        DecoderFailed, NoDecoder: decoding failed.
    """
    file.seek(0)
    decoder = Decoder(memory_bytes, seconds, file.fileno())
    cancelled = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(_run, decoder, job, part, seconds, on_block, cancelled))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        cancelled.set()
        decoder.kill()
        await asyncio.gather(work, return_exceptions=True)
        raise


def _run(
    decoder: Decoder,
    job: Json,
    part: str,
    seconds: float,
    on_block: Callable[[int, bytearray], None],
    cancelled: threading.Event,
) -> dict[str, str]:
    try:
        try:
            decoder.launch()
            decoder.await_ready(START_SECONDS)
            decoder.begin(job, START_SECONDS)
        except (DecoderDied, Unresponsive, OSError):
            raise NoDecoder("no decoder takes the file at this moment", part=part) from None
        deadline = time.monotonic() + seconds
        try:
            while not cancelled.is_set():
                message, content = decoder.receive(deadline)
                if message.get("kind") == "block":
                    on_block(_columns(message, content), content)
                elif message.get("kind") == "done":
                    return {str(code): str(detail) for code, detail in message["warnings"].items()}
                else:
                    raise_error(message)
                    raise ProtocolError("the reply is of no known kind")
            raise DecoderDied("the work has been cancelled")
        except Unresponsive:
            raise DecoderFailed(f"decoding takes longer than the {seconds:g} seconds allowed", part=part) from None
        except DecodingStopped as error:
            raise DecoderFailed(f"decoding stopped: {error}", part=part) from None
        except (DecoderDied, ProtocolError, AttributeError, KeyError):
            if (ended_by := decoder.kill(ENDED_SECONDS)) is not None:
                get_logger().warning("decoder ended while decoding", ended_by=ended_by, part=part)
            raise DecoderFailed("the decoder broke off", part=part) from None
    finally:
        decoder.kill()


def _columns(message: Json, content: bytearray) -> int:
    columns = message.get("columns")
    if not isinstance(columns, int) or not 1 <= columns <= len(content):
        raise ProtocolError("a block has no columns")
    return columns
