"""purge, forget: delete events by age, or all of one row."""

import sys
from pathlib import Path

import click

from listener.admin import retention
from listener.admin.history import as_written
from listener.cli.connection import outbox_connection
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
from listener.db.connection import tables_of
from listener.db.errors import OWNER_REMEDY, translate_errors


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

    A marker remains for each row, so that `backfill` does not capture it again.

    \b
    Example:  pgherald purge --older-than 30d
    """
    loaded = load_settings(config_file)
    total = 0
    with outbox_connection(loaded) as conn, progress_bar() as progress:
        task = progress.add_task("purge", total=None)
        for count in retention.purge(conn, older_than):
            total += count
            progress.update(task, advance=count)
    write_line(f"{quantity(total, 'event')} purged")


@click.command(context_settings=NEGATIVE_KEYS)
@click.argument("rule")
@click.argument("key")
@click.option("--person", help="Only the events of this person of the row, of a rule with `each`.")
@config_option
def forget(rule: str, key: str, person: str | None, config_file: Path | None) -> None:
    """Delete a row's events and history.

    A marker remains, so that `backfill` does not capture the row again. Exit status 1: some events are in flight and were
    not deleted.

    \b
    Example:  pgherald forget dateplan_verified 4711
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    require_each(watched, person, key)
    stored = stored_key(watched, key)
    with (
        outbox_connection(loaded) as conn,
        tables_of(conn, loaded.database.lookup_url) as tables,
        translate_errors(OWNER_REMEDY),
    ):
        deleted, in_flight = retention.forget(conn, rule, as_written(tables, rule, watched, stored), person)
    write_line(f"{quantity(deleted, 'event')} forgotten")
    if in_flight:
        write_line(f"{quantity(in_flight, 'event')} in flight and not deleted; run it again in a few seconds", err=True)
        sys.exit(1)
