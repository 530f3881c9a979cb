"""install, uninstall: the database's side."""

import time
from collections.abc import Iterable
from pathlib import Path

import click

from listener.cli.options import configured, counted, settings
from listener.cli.output import write_line, write_lines
from listener.db import schema
from listener.db.connection import connect
from listener.db.errors import translate_errors
from listener.errors import PgheraldError
from listener.printable import printable_lines


@click.command()
@click.option("--print", "print_only", is_flag=True, help="Print the SQL and connect to nothing.")
@click.option("--create-roles", is_flag=True, help="Also make the roles pgherald_owner and pgherald_daemon, and grant.")
@click.option("--grant-to", metavar="NAME", help="Grant the daemon's rights to this existing role.")
@configured
def install(print_only: bool, create_roles: bool, grant_to: str | None, config_file: Path | None) -> None:
    """Put the outbox and every rule's triggers into the database, or bring them up to date.

    Never blocks the application for longer than two seconds at a time, and gives up within thirty.

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://dba@db/app pgherald install
    """
    loaded = settings(config_file)
    steps = schema.install_steps(loaded.rules, roles=create_roles, daemon_role=grant_to)
    if print_only:
        _print(steps)
        return
    end = time.monotonic() + schema.PATIENCE
    with connect(loaded.database.url) as conn:
        with translate_errors():
            schema.check_tables(conn, loaded.rules)
        for step in steps:
            schema.run(conn, step, lambda text: write_line(text, err=True), end)
        for name, rule in loaded.rules.items():
            write_line(f"{name}: watching {rule.table}.{rule.column} for {rule.becomes!r}")
        for name in schema.unconfigured(conn, loaded.rules):
            write_line(f"{name}: watched, but not configured; to end it: SELECT pgherald.unwatch('{name}')", err=True)


@click.command()
@click.option("--print", "print_only", is_flag=True, help="Print the SQL and connect to nothing.")
@click.option("--force", is_flag=True, help="Even if events are not settled; they are lost.")
@configured
def uninstall(print_only: bool, force: bool, config_file: Path | None) -> None:
    """Take everything away that install has put into the database.

    \b
    Example:  pgherald uninstall --print
    """
    loaded = settings(config_file)
    steps = schema.uninstall_steps(loaded.rules)
    if print_only:
        _print(steps)
        return
    end = time.monotonic() + schema.PATIENCE
    with connect(loaded.database.url) as conn:
        waiting = schema.unsettled(conn)
        if waiting is None:
            write_line("nothing to remove: this database has no pgherald in it")
            return
        if waiting and not force:
            raise click.ClickException(
                f"not settled: {counted(waiting, 'event')}; deliver them (pgherald run --once), or --force to lose them"
            )
        for step in steps:
            schema.run(conn, step, lambda text: write_line(text, err=True), end)
    write_line("removed")


def _print(steps: Iterable[schema.InstallStep]) -> None:
    """Print what may be piped into psql: as it is, or not at all.

    Raises:
        PgheraldError: a step has characters that do not show; replaced, they would watch for another value.
    """
    text = "\n".join(map(str, steps))
    if printable_lines(text) != text:
        raise PgheraldError(
            "the SQL has characters that do not show, from a rule's table, column or value, or from --grant-to; "
            "take them out of the configuration, or run the command without --print"
        )
    write_lines(text)
