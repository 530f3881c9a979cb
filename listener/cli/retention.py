"""purge, forget: delete events by age, or all of one row."""

import sys
from pathlib import Path

import click

from listener.admin import retention
from listener.admin.find import MAX_ROWS, FoundRow
from listener.admin.history import as_written
from listener.cli.connection import outbox_connection
from listener.cli.find import email_option, rows_of
from listener.cli.options import (
    DURATION,
    NEGATIVE_KEYS,
    config_option,
    get_rule,
    load_settings,
    quantity,
    require_each,
    stored_key,
)
from listener.cli.output import write_line
from listener.cli.progress import progress_bar
from listener.config.settings import Settings
from listener.db.connection import tables_of
from listener.db.errors import OWNER_REMEDY, translate_errors
from listener.errors import RuleBroken


@click.command()
@click.option(
    "--older-than",
    type=DURATION,
    required=True,
    metavar="DURATION",
    help="Only events settled longer ago than this: 12h, 30d.",
)
@config_option
def purge(older_than: float, config_file: Path | None) -> None:
    """Delete old settled events, in small batches.

    A marker remains for each row, so that `backfill` does not capture it again. Sent events of a rule with `again_after`
    are kept as long as that.

    \b
    Example:  pgherald purge --older-than 30d
    """
    loaded = load_settings(config_file)
    ages = {rule: loaded.delivery_of(rule).again_after for rule in loaded.rules}
    again_after = {rule: age for rule, age in ages.items() if age is not None}
    total = 0
    with outbox_connection(loaded) as conn, progress_bar() as progress:
        task = progress.add_task("purge", total=None)
        for count in retention.purge(conn, older_than, again_after):
            total += count
            progress.update(task, advance=count)
    write_line(f"{quantity(total, 'event')} purged")


@click.command(context_settings=NEGATIVE_KEYS)
@click.argument("rule")
@click.argument("key", required=False)
@email_option
@click.option("--person", help="Only the events of this person of the row, of a rule with `each`. Requires KEY.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation, if an address has several rows.")
@config_option
def forget(
    rule: str, key: str | None, email: str | None, person: str | None, yes: bool, config_file: Path | None
) -> None:
    """Delete the events and history of a row, or of all rows that have an address.

    A marker remains, so that `backfill` does not capture the row again. Exit status 1: some events are in flight and were
    not deleted, or no row has the address.

    \b
    Example:  pgherald forget dateplan_verified 4711
              pgherald forget dateplan_verified --email jane@example.org
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    if (key is None) == (email is None):
        raise click.UsageError("name a row either by KEY or by --email")
    require_each(watched, person, key)
    rows = _rows_of(loaded, rule, email, yes=yes) if key is None else [FoundRow(stored_key(watched, key), person)]
    deleted = in_flight = 0
    with (
        outbox_connection(loaded) as conn,
        tables_of(conn, loaded.database.lookup_url) as tables,
        translate_errors(OWNER_REMEDY),
    ):
        for row in rows:
            stored = as_written(tables, rule, watched, row.key)
            done, waits = retention.forget(conn, rule, stored, row.person)
            deleted, in_flight = deleted + done, in_flight + waits
    of_rows = f" of {quantity(len({row.key for row in rows}), 'row')}" if email is not None else ""
    write_line(f"{quantity(deleted, 'event')}{of_rows} forgotten")
    if in_flight:
        write_line(f"{quantity(in_flight, 'event')} in flight and not deleted; run it again in a few seconds", err=True)
        sys.exit(1)


def _rows_of(loaded: Settings, rule: str, email: str | None, *, yes: bool) -> list[FoundRow]:
    """Return the rows that have this address, once the user has agreed to more than one."""
    found = rows_of(loaded, rule, email or "")
    if not found.rows:
        write_line(f"{rule}: no row has this address", err=True)
        sys.exit(1)
    if found.has_more:
        raise RuleBroken(f"[rules.{rule}] find: returns more than {MAX_ROWS:,} rows; correct its condition")
    number = len({row.key for row in found.rows})
    if number > 1 and not yes:
        deed = f"forget the events of {quantity(number, 'row')}"
        if not sys.stdin.isatty():
            raise click.ClickException(f"this would {deed}; confirm with --yes, or name a KEY")
        click.confirm(f"{deed}?", abort=True)
    return found.rows
