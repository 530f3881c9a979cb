"""install, uninstall: create and remove pgherald's objects in the database."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click

from listener.cli.options import config_option, load_settings, quantity
from listener.cli.output import write_line, write_lines
from listener.db import backup, schema
from listener.db.connection import connect
from listener.db.errors import translate_errors
from listener.db.install import INSTALL_TIMEOUT_S, InstallStep, install_steps, run, uninstall_steps
from listener.db.state import try_conditions
from listener.errors import PgheraldError
from listener.printable import excerpt, printable_lines

_print_option = click.option("--print", "print_only", is_flag=True, help="Print the SQL, without a connection.")


@click.command()
@_print_option
@click.option(
    "--create-roles",
    is_flag=True,
    help="Also create the roles pgherald_owner, pgherald_daemon and pgherald_backup, with their rights.",
)
@click.option("--grant-to", metavar="NAME", help="Grant the daemon's rights to this existing role.")
@config_option
def install(print_only: bool, create_roles: bool, grant_to: str | None, config_file: Path | None) -> None:
    """Create or update the outbox and every rule's triggers in the database.

    Never blocks the application for longer than two seconds at a time. Gives up after thirty seconds.

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://dba@db/app pgherald install
    """
    loaded = load_settings(config_file)
    steps = install_steps(loaded.rules, roles=create_roles, daemon_role=grant_to)
    if print_only:
        _print(steps)
        return
    end = time.monotonic() + INSTALL_TIMEOUT_S
    with connect(loaded.database.url) as conn:
        with translate_errors():
            schema.check_tables(conn, loaded.rules)
            for warning in try_conditions(conn, loaded.rules):
                write_line(warning, err=True)
        for step in steps:
            run(conn, step, lambda text: write_line(text, err=True), end)
        for name, rule in loaded.rules.items():
            write_line(f"{name}: watching {rule.watching}")
        for name in schema.publications(conn):
            write_line(
                f"publication {name}: it includes the tables of schema pgherald, and a subscriber without them stops; "
                "run `pgherald install` there, see docs/migrations.md",
                err=True,
            )
        if blocked := backup.blocked(conn):
            write_line(f"backup: {blocked.seen}; {blocked.remedy}", err=True)
        for name in schema.unconfigured(conn, loaded.rules):
            write_line(
                f"{name}: still watched, but not in the configuration; "
                f"to stop watching: SELECT pgherald.unwatch('{name}')",
                err=True,
            )


@click.command()
@_print_option
@click.option("--force", is_flag=True, help="Remove it even if events are not settled. These events are lost.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it is required.")
@config_option
def uninstall(print_only: bool, force: bool, yes: bool, config_file: Path | None) -> None:
    """Remove everything that install has created in the database, with the history of all events.

    \b
    Example:  pgherald uninstall --print
    """
    loaded = load_settings(config_file)
    steps = uninstall_steps(loaded.rules)
    if print_only:
        _print(steps)
        return
    end = time.monotonic() + INSTALL_TIMEOUT_S
    with connect(loaded.database.url) as conn:
        found = schema.stored_events(conn)
        if found is None:
            write_line("nothing to remove: pgherald is not installed in this database")
            return
        total, unsettled = found
        if unsettled and not force:
            raise click.ClickException(
                f"{quantity(unsettled, 'event')} not settled; "
                "deliver with `pgherald run --once`, or lose them with --force"
            )
        lost = f"the history of {quantity(total, 'event')}, {unsettled} of them not sent"
        if not yes and not sys.stdin.isatty():
            raise click.ClickException(f"uninstall deletes {lost}; confirm with --yes")
        if not yes:
            place = f"{excerpt(conn.info.dbname)} at {excerpt(conn.info.host)}"
            click.confirm(f"Remove pgherald from database {place}, with {lost}?", abort=True)
        for step in steps:
            run(conn, step, lambda text: write_line(text, err=True), end)
        roles = ", ".join(schema.roles(conn))
    write_line("removed")
    if roles:
        write_line(
            f"roles {roles}: they stay, other databases may use them; "
            f"to drop them, in each database that granted them something: DROP OWNED BY {roles}; then: DROP ROLE {roles}",
            err=True,
        )


def _print(steps: Iterable[InstallStep]) -> None:
    """Print SQL that may be piped into psql: unchanged, or not at all.

    Raises:
        PgheraldError: a step has invisible characters. With them replaced, the SQL would watch for another value.
    """
    text = "\n".join(map(str, steps))
    if printable_lines(text) != text:
        raise PgheraldError(
            "the SQL has invisible characters, from a rule's table, column or value, or from --grant-to; "
            "remove them from the configuration, or run the command without --print"
        )
    write_lines(text)
