"""Log events on stderr: JSON for machines, aligned text for a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

log: Any = structlog.get_logger("pgherald")


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set up once, before the first event. `auto` is `console` on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _in_order,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write a line: where several processes share a stream, none gets into another's.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What the driver notices, the daemon says once, in its own words.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad and what come first, for whoever reads the lines as they are."""
    return {name: event.pop(name) for name in ("timestamp", "level", "event")} | dict(event)
