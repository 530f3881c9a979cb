"""run: the daemon."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from listener import logs
from listener.cli.options import config_option, load_settings, quantity
from listener.cli.output import write_error, write_line
from listener.config.settings import Settings
from listener.daemon.daemon import Daemon
from listener.errors import ConfigError, RuleBroken
from listener.worker import tracing

T = TypeVar("T")


@click.command()
@click.option("--once", is_flag=True, help="Deliver the events that are due, then exit.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    envvar="PGHERALD_LOG_FORMAT",
    help="Default: console on a terminal, else json.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    envvar="PGHERALD_LOG_LEVEL",
    help="The lowest level that is logged. Default: info.",
)
@config_option
def run(once: bool, log_format: str | None, log_level: str | None, config_file: Path | None) -> None:
    """Run the daemon: wait for events and send their emails, until SIGTERM.

    SIGHUP reloads the configuration and the templates. Exit status 1 with --once: the mail server or the database could
    not be reached, or a rule is broken. Events that remain for a later retry are no error.

    \b
    Exit status:  0   SIGTERM, or with --once all is done that could be
                  1   an error that may be gone at the next start, such as a missing schema
                  78  the configuration is invalid, so that another start would end in the same way

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://herald@db/app PGHERALD_SMTP_URL=smtp://relay:587 pgherald run
    """
    try:
        _run(once, log_format, log_level, config_file)
    except ConfigError as exc:
        write_error(str(exc))
        sys.exit(os.EX_CONFIG)


def _run(once: bool, log_format: str | None, log_level: str | None, config_file: Path | None) -> None:
    overrides = {"log": {name: value for name, value in (("format", log_format), ("level", log_level)) if value}}
    loaded = load_settings(config_file, overrides)
    logs.write_in_background()
    logs.configure(loaded.log.format, loaded.log.level)
    tracing.start()
    click.get_current_context().call_on_close(tracing.stop)
    try:
        daemon = Daemon(loaded, read=lambda: load_settings(config_file, overrides))
    except RuleBroken as exc:
        # A template. The database has not been asked yet, so that the next start would find the same.
        raise ConfigError(str(exc)) from exc
    if not once:
        _asyncio_run(daemon.run())
        return
    left = _asyncio_run(daemon.run_once())
    if left.available or left.in_doubt:
        write_line(f"{quantity(left.available, 'event')} left for a later retry, {left.in_doubt} in doubt", err=True)
    if left.paused:
        write_line(
            f"{quantity(left.paused, 'event')} of a paused rule not sent; resume with `pgherald resume RULE`",
            err=True,
        )
    for rule, suspension in left.suspended.items():
        write_error(f"rule {rule}: suspended, its events wait: {suspension.reason}; correct it, see `pgherald doctor`")
    if not left.server_reached:
        raise click.ClickException(
            f"the mail server ({_where(loaded)}) could not be reached; see the log for the reason; no event is lost"
        )
    if left.suspended:
        sys.exit(1)


def _where(loaded: Settings) -> str:
    """Return the destination of messages, and the key that sets it."""
    if loaded.mail.transport == "file":
        return f"{loaded.mail.directory}, [mail] directory"
    return f"{loaded.smtp.server.host}:{loaded.smtp.server.port}, [smtp] url"


def _asyncio_run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop if the extra `speed` is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
