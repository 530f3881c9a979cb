"""The log on stderr: JSON for machines, aligned text for a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from listener import stderr
from listener.printable import as_json, printable_lines

log: Any = structlog.get_logger("pgherald")


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set up the log, once and before the first event. `auto` is `console` on a terminal, and else `json`."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        # `format_exc_info` below has made text of the exception. structlog's default formatter would warn about that.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(as_json)
    )
    journal: list[Any] = [_with_priority] if stderr.is_journal() else []
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _in_order,
            *([_printable_values] if console else []),
            renderer,
            *journal,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write for each line. Otherwise lines of several processes on one stream would be mixed.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # asyncio and other libraries use Python's `logging`, for example for a task that failed.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
    # The daemon reports what the driver notices, once and with a remedy. The driver's own lines would repeat it.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def write_in_background() -> None:
    """Let a thread write stderr from now on, so that no line blocks or ends the daemon. Call it before `configure`."""
    stderr.write_in_background(lambda lines: log.error("log_lines_lost", lines=lines))


class _PrintableFormatter(logging.Formatter):
    """Make a library's message safe for a terminal, and give it its level in the journal."""

    def format(self, record: logging.LogRecord) -> str:
        return stderr.with_priority(record.levelname.lower(), printable_lines(super().format(record)))


def _with_priority(_: Any, level: str, line: str) -> str:
    """Put the level before each line of an event, for the journal. A traceback has several lines."""
    return stderr.with_priority(level, line)


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put time, level and name of the event first, for people who read the lines unformatted."""
    return {name: event.pop(name) for name in ("timestamp", "level", "event")} | dict(event)


def _printable_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make texts safe for a terminal. structlog itself escapes other values, and texts with a space or a line end."""
    return {name: printable_lines(value) if isinstance(value, str) else value for name, value in event.items()}
