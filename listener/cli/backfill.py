"""backfill: create events for rows that the triggers have not seen."""

from datetime import datetime
from pathlib import Path

import click

from listener.admin import backfill as admin
from listener.cli.connection import outbox_connection
from listener.cli.options import MOMENT, RATE, config_option, get_rule, load_settings, quantity
from listener.cli.output import write_line
from listener.cli.progress import progress_bar
from listener.config.keys import show_key
from listener.printable import utc

# Enough keys to recognize the rows by, on one line.
_MAX_SHOWN_KEYS = 5


@click.command()
@click.argument("rule")
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help="Only rows changed at or after this time, by the rule's changed_at: 2026-11-22T17:44.",
)
@click.option(
    "--until", type=MOMENT, metavar="TIME", help="Only rows changed before this time, by the rule's changed_at."
)
@click.option("--dry-run", is_flag=True, help="Count the rows and show some of their keys, but create no event.")
@click.option("--limit", type=click.IntRange(1), help="Create at most this many events.")
@click.option("--rate", type=RATE, metavar="R/s", help="Create at most R events per second.")
@click.option("--mark-only", is_flag=True, help="Record the rows as handled, and send no email for them.")
@click.option("--include-existing", is_flag=True, help="Include rows that had the value before the rule was watched.")
@config_option
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
    """Create events for rows that match RULE but have none.

    Rows have none after a restore, a COPY with triggers disabled, or replication, for example.

    Safe to interrupt and to run again. A row that left the value and returned while nothing was captured is found only
    if the rule sets changed_at.

    \b
    Example:  pgherald backfill dateplan_verified --dry-run
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    if (since or until) and not watched.changed_at:
        raise click.UsageError(f"--since and --until need the time of a change; set changed_at in [rules.{rule}]")
    options = admin.Options(since, until, limit, rate, dry_run, mark_only, include_existing)
    count, shown, oldest = 0, list[str](), None
    with outbox_connection(loaded) as conn, progress_bar() as progress:
        task = progress.add_task(f"backfill {rule}", total=None)
        for page in admin.walk(conn, rule, watched, options):
            count += len(page.missed)
            shown += page.missed[: _MAX_SHOWN_KEYS - len(shown)]
            oldest = min((at for at in (oldest, page.oldest) if at is not None), default=None)
            progress.update(task, advance=page.looked_at)
    verb = "would be captured" if dry_run else "marked as handled" if mark_only else "captured"
    write_line(f"{quantity(count, 'row')} {verb}" + (f", the oldest changed {utc(oldest)}" if oldest else ""))
    if dry_run and shown:
        write_line(f"such as {', '.join(show_key(watched, key) for key in shown)}")
