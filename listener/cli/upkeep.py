"""backfill, purge, forget: what was missed, and what is to be known no longer."""

import sys
from datetime import datetime
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from listener.admin import backfill as missed
from listener.admin import history as story
from listener.cli.connection import outbox_connection
from listener.cli.options import DURATION, KEYED, MOMENT, RATE, configured, counted, settings, the_rule
from listener.cli.output import write_line
from listener.config.keys import parse_key, show_key
from listener.db.connection import tables_of
from listener.db.errors import OWNER_REMEDY, translate_errors
from listener.db.queries import load

_SAMPLE = 5
_BATCH = 5000


@click.command()
@click.argument("rule")
@click.option(
    "--since", type=MOMENT, metavar="TIME", help="Changed at or after it, by the rule's changed_at: 2026-11-22T17:44."
)
@click.option("--until", type=MOMENT, metavar="TIME", help="Changed before it, by the rule's changed_at.")
@click.option("--dry-run", is_flag=True, help="Only say how many, since when, and show a few.")
@click.option("--limit", type=click.IntRange(1), help="Capture at most so many.")
@click.option("--rate", type=RATE, metavar="R/s", help="Capture at most R rows a second.")
@click.option("--mark-only", is_flag=True, help="Remember them as handled; nobody gets a mail.")
@click.option("--include-existing", is_flag=True, help="Also rows that were in the value before the rule was watched.")
@configured
def backfill(
    rule: str,
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
    limit: int | None,
    rate: float | None,
    mark_only: bool,
    include_existing: bool,
    config_file: Path | None,
) -> None:
    """Capture the rows that are in RULE's value and have no event: what a restored dump, COPY with triggers off or
    replication brought past them.

    Never a row twice, so it may be broken off and run again. A row that left the value and came back unseen, after an
    earlier event, is found only where the rule names a changed_at column: without one that cannot be known.

    \b
    Example:  pgherald backfill dateplan_verified --dry-run
    """
    loaded = settings(config_file)
    watched = the_rule(loaded, rule)
    if (since or until) and not watched.changed_at:
        raise click.UsageError(f"--since and --until need the rule's time column: set changed_at in [rules.{rule}]")
    options = missed.Options(since, until, limit, rate, dry_run, mark_only, include_existing)
    count, shown, oldest = 0, list[str](), None
    with outbox_connection(loaded) as conn, _progress() as progress:
        task = progress.add_task(f"backfill {rule}", total=None)
        for page in missed.walk(conn, rule, watched, options):
            count += len(page.missed)
            shown += page.missed[: _SAMPLE - len(shown)]
            oldest = min((at for at in (oldest, page.oldest) if at is not None), default=None)
            progress.update(task, advance=page.looked_at)
    verb = "would be captured" if dry_run else "marked as handled" if mark_only else "captured"
    write_line(f"{counted(count, 'row')} {verb}" + (f", the oldest changed {oldest:%Y-%m-%d %H:%M}" if oldest else ""))
    if dry_run and shown:
        write_line(f"such as {', '.join(show_key(watched, key) for key in shown)}")


@click.command()
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Settled so long ago: 12h, 30d.")
@configured
def purge(older_than: float, config_file: Path | None) -> None:
    """Forget settled events, in small batches. A later backfill still knows that they were handled.

    \b
    Example:  pgherald purge --older-than 30d
    """
    loaded = settings(config_file)
    query = load("admin")["purge"]
    total = 0
    after: int | None = 0
    with outbox_connection(loaded) as conn, _progress() as progress, translate_errors(OWNER_REMEDY):
        task = progress.add_task("purge", total=None)
        while after is not None:
            row = conn.execute(query, {"after": after, "older": older_than, "batch": _BATCH}).fetchone()
            count, after = row or (0, None)
            total += count
            progress.update(task, advance=count)
    write_line(f"{counted(total, 'event')} purged")


@click.command(context_settings=KEYED)
@click.argument("rule")
@click.argument("key")
@configured
def forget(rule: str, key: str, config_file: Path | None) -> None:
    """Erase a row's events and what servers said of them; only that it was handled stays known.

    \b
    Example:  pgherald forget dateplan_verified 4711
    """
    loaded = settings(config_file)
    watched = the_rule(loaded, rule)
    try:
        stored = parse_key(watched, key)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="KEY") from exc
    with (
        outbox_connection(loaded) as conn,
        tables_of(conn, loaded.database.lookup_url) as tables,
        translate_errors(OWNER_REMEDY),
    ):
        key = story.as_written(tables, rule, watched, stored)
        gone, busy = conn.execute(load("admin")["forget"], {"rule": rule, "key": key}).fetchone() or (0, 0)
    write_line(f"{counted(gone, 'event')} forgotten")
    if busy:
        write_line(f"{counted(busy, 'event')} on the way at this moment; run it again in a moment", err=True)
        sys.exit(1)


def _progress() -> Progress:
    # Only where somebody looks, and gone when done.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
