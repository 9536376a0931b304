"""Structured logs: one JSON object a line, on standard error, with the request's id.

For: the service's own events, and those of the libraries beneath it in the same form.
Does not know: what a request held. Nothing called with it may be given a text, an upload's bytes, a file name, a query
string or a key. Of an exception (`exc_info=error`) only its type and the places it passed through are written: its
message may quote what a client sent.
"""

import logging
import sys
import traceback
from typing import Final, TextIO

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor, WrappedLogger

LOGGER_NAME: Final = "emmr"
FRAMES: Final = 8  # of a traceback, the innermost

_SHARED: Final[tuple[Processor, ...]] = (
    merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is now, not to what it was when logging was configured."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(level: str) -> None:
    """Send everything from `level` up to standard error as JSON lines; may be called again to change the level."""
    handler = _StandardError()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=(*_SHARED, _first_line),
            processors=[
                ProcessorFormatter.remove_processors_meta,
                _exception_without_message,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [*(other for other in root.handlers if not isinstance(other, _StandardError)), handler]
    root.setLevel(level.upper())
    for chatty in ("asyncio", "h11", "multipart", "numba", "python_multipart"):
        # At debug level these print pieces of what they are given.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger() -> structlog.stdlib.BoundLogger:
    """The service's logger."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(LOGGER_NAME)
    return logger


def _first_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Cut a library's message to its first line: asyncio's following ones show objects, and what they hold."""
    event["event"] = str(event.get("event", "")).partition("\n")[0]
    return event


def _exception_without_message(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    match event.pop("exc_info", None):
        case BaseException() as error:
            pass
        case (_, BaseException() as error, _):
            pass
        case _:
            return event
    event["error"] = f"{type(error).__module__}.{type(error).__qualname__}"
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event
