"""Logs: one event per line on stderr, JSON for machines and a readable form for a terminal.

A JSON line costs some 9 µs, the write included: half of what structlog's own renderer and logger cost.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.lines import LineWriter

LogFormat = Literal["auto", "json", "console"]

#: Libraries that say below these levels what our own events say better (`transitions` does on every move), or what is
#: nobody's concern: Snowflake's connector warns at each sign-in that it runs in no cloud, and repeats what it raises.
QUIET_LIBRARIES = dict.fromkeys(
    ("alembic", "apscheduler", "httpcore", "httpx", "sqlglot", "transitions", "uvicorn"), logging.WARNING
) | {"snowflake.connector": logging.CRITICAL}


def configure_logging(level: str = "info", log_format: LogFormat = "auto", *, stream: TextIO | None = None) -> None:
    """Send structlog's events and the libraries' log records of at least *level* to *stream*, by default stderr.

    *log_format* ``auto`` writes JSON lines unless *stream* is a terminal. Every line has ``timestamp`` (UTC), ``level``
    and ``event``; what `structlog.contextvars` holds is added. Tracebacks never show the values of variables. An event
    with ``each``, a list of dicts, is a line for each of them.
    """
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    write: Callable[..., WrappedLogger]
    before: list[Processor] = [structlog.contextvars.merge_contextvars, stamp]
    if log_format == "console" or (log_format == "auto" and stream.isatty()):
        renderers, write = console_renderers(colors=wants_colors(stream)), structlog.PrintLoggerFactory(stream)
    else:  # past the stream's own encoding
        writer = LineWriter(stream.buffer)
        renderers, write = json_renderers(), lambda *_: writer
    structlog.configure(
        processors=[*before, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=write,
        cache_logger_on_first_use=False,  # gains 1 µs for loggers that are not bound, and would outlive this stream
    )
    redirect_libraries(stream, threshold, before, renderers)


def change_level(level: str) -> None:
    """Log from now on what is of at least *level*, where and in the form that `configure_logging` said."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(threshold))
    admit_libraries(threshold)


def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put the moment, the level and the event's name in front."""
    level = event.pop("level", method)
    return {"timestamp": datetime.now(UTC), "level": level, "event": event.pop("event"), **event}


def json_renderers() -> list[Processor]:
    """Processors that end in one line of UTF-8 JSON; a value that JSON lacks is written as its text."""
    encode = msgspec.json.Encoder(enc_hook=str).encode

    def line(event: EventDict) -> bytes:
        try:
            return encode(event)
        except (TypeError, ValueError, OverflowError, UnicodeEncodeError):  # a key that is no text, say
            return encode({str(key): repr(value) for key, value in event.items()})

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        return b"\n".join(map(line, spread(event)))

    return [structlog.processors.format_exc_info, render]


def spread(event: EventDict) -> Iterator[EventDict]:
    """The lines that an event stands for: one, or one for each dict in its ``each``, all else in common."""
    each = event.pop("each", ({},))
    return ({**event, **own} for own in each)


def console_renderers(*, colors: bool) -> list[Processor]:
    """Processors that end in a line for people, its time local to nobody: UTC, to the millisecond."""

    def shorten(event: EventDict) -> EventDict:
        moment, trace = event.pop("timestamp"), event.pop("exc_info", None)
        plain = msgspec.to_builtins(event, enc_hook=str)
        return {
            **plain,
            "timestamp": moment.strftime("%H:%M:%S.%f")[:-3] + "Z",
            **({"exc_info": trace} if trace else {}),
        }

    console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return "\n".join(str(console(logger, method, shorten(line))) for line in spread(event))

    return [render]


def wants_colors(stream: TextIO) -> bool:
    """A terminal, and nobody asked for plain text (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def redirect_libraries(
    stream: TextIO, threshold: int, before: Sequence[Processor], renderers: Sequence[Processor]
) -> None:
    """Make the records of `logging` look like our events."""

    def as_text(_logger: WrappedLogger, _method: str, rendered: Any) -> str:
        return rendered.decode() if isinstance(rendered, bytes) else str(rendered)

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers, as_text],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    admit_libraries(threshold)


def admit_libraries(threshold: int) -> None:
    """Let through what libraries log of at least this level."""
    logging.getLogger().setLevel(threshold)
    for name, least in QUIET_LIBRARIES.items():
        logging.getLogger(name).setLevel(max(threshold, least))
