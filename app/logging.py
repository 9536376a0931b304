"""Structured logs on standard error, with the request's id: lines of JSON, or of text on a terminal."""

# Nothing a request contains may be logged: no text, upload, file name, query string or key. Of an exception
# (`exc_info=error`) only its type and its stack are written, because its message may quote what a client sent.

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Final, Literal, TextIO

if TYPE_CHECKING:  # imported where it is used: the commands that do not serve log nothing
    from structlog.stdlib import BoundLogger
    from structlog.types import EventDict, Processor, WrappedLogger

LOGGER_NAME: Final = "emmr"
FRAMES: Final = 8  # of a traceback, the innermost


class _StandardErrorHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, not to that of the time of configuration."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(level: str, form: Literal["auto", "json", "text"] = "auto") -> None:
    """Log everything from `level` up; may be called again to change the level.

    Args:
        level: debug, info, warning or error.
        form: of the lines; `auto` is text where standard error is a terminal, JSON elsewhere.
    """
    import structlog
    from structlog.contextvars import merge_contextvars
    from structlog.stdlib import ProcessorFormatter

    shared: tuple[Processor, ...] = (
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Processor = structlog.processors.JSONRenderer()
    if text:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False, pad_event_to=0)
    handler = _StandardErrorHandler()
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=(*shared, _keep_first_line),
            processors=[
                ProcessorFormatter.remove_processors_meta,
                _format_exception,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [*(other for other in root.handlers if not isinstance(other, _StandardErrorHandler)), handler]
    root.setLevel(level.upper())
    for name in ("asyncio", "h11", "multipart", "numba", "python_multipart"):
        # At debug level these log parts of their input.
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger() -> "BoundLogger":
    """Return the service's logger."""
    import structlog

    logger: BoundLogger = structlog.get_logger(LOGGER_NAME)
    return logger


def _keep_first_line(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """Cut a library's message to its first line: the following lines of asyncio's messages show objects."""
    event["event"] = str(event.get("event", "")).partition("\n")[0]
    return event


def _format_exception(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """Replace `exc_info` by the exception's type and the innermost frames of its traceback."""
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = f"{type(error).__module__}.{type(error).__qualname__}"
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event
