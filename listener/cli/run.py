"""run: the daemon."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from listener import logs, tracing
from listener.cli.options import configured, counted, settings
from listener.cli.output import write_line
from listener.daemon.daemon import Daemon

T = TypeVar("T")


@click.command()
@click.option("--once", is_flag=True, help="Deliver what is due, then exit.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    envvar="PGHERALD_LOG_FORMAT",
    help="Default: json unless on a terminal.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    envvar="PGHERALD_LOG_LEVEL",
    help="Default: info.",
)
@configured
def run(once: bool, log_format: str | None, log_level: str | None, config_file: Path | None) -> None:
    """Deliver: listen for events and mail them, until SIGTERM. SIGHUP reads configuration and templates again.

    With --once: exit 0 when only later retries remain, 1 when the mail server or the database could not be reached.

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://herald@db/app PGHERALD_SMTP_URL=smtp://relay:587 pgherald run
    """
    given = {name: value for name, value in (("format", log_format), ("level", log_level)) if value}
    loaded = settings(config_file, {"log": given})
    logs.configure(loaded.log.format, loaded.log.level)
    tracing.start()
    click.get_current_context().call_on_close(tracing.stop)
    daemon = Daemon(loaded, read=lambda: settings(config_file, {"log": given}))
    if not once:
        _asyncio_run(daemon.run())
        return
    reached, available, in_doubt, paused = _asyncio_run(daemon.run_once())
    if available or in_doubt:
        write_line(f"{counted(available, 'event')} left for a later try, {in_doubt} in doubt", err=True)
    if paused:
        write_line(f"{counted(paused, 'event')} left behind a paused rule: pgherald resume RULE", err=True)
    if not reached:
        where = f"{loaded.smtp.server.host}:{loaded.smtp.server.port}, [smtp] url"
        if loaded.mail.transport == "file":
            where = f"{loaded.mail.directory}, [mail] directory"
        raise click.ClickException(
            f"the mail server ({where}) could not be reached; the log says why; the events are kept"
        )


def _asyncio_run(main: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
