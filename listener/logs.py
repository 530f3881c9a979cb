"""Log events on stderr: JSON for machines, aligned text for a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from listener.printable import as_json, printable_lines

log: Any = structlog.get_logger("pgherald")


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set up once, before the first event. `auto` is `console` on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        # The exception comes as text already; the default formatter would warn about that.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(as_json)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _in_order,
            *([_shown] if console else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write a line: where several processes share a stream, none gets into another's.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What asyncio and other libraries say, each in its own words, of a task that failed.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Shown())
    # What the driver notices, the daemon says once, in its own words.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


class _Shown(logging.Formatter):
    """A library's message, made safe for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad and what come first, for whoever reads the lines as they are."""
    return {name: event.pop(name) for name in ("timestamp", "level", "event")} | dict(event)


def _shown(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make texts safe for a terminal. structlog escapes what is no text, and texts that have a blank or a line end."""
    return {name: printable_lines(value) if isinstance(value, str) else value for name, value in event.items()}
