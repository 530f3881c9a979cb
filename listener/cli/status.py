"""status: the state of the outbox at one moment."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from listener.admin.status import REPORTS, STATES, OutboxStatus, read_status
from listener.cli.connection import outbox_connection
from listener.cli.options import config_option, json_option, load_settings, quantity
from listener.cli.output import console, write_json
from listener.printable import duration, excerpt, utc
from listener.status.overview import in_flight


@click.command()
@json_option
@config_option
def status(as_json: bool, config_file: Path | None) -> None:
    """Show the number of events in each state, the workers, and the size of the outbox.

    \b
    Example:  pgherald status --json | jq '.rules.dateplan_verified.failed'
    """
    loaded = load_settings(config_file)
    with outbox_connection(loaded) as conn:
        now = read_status(conn, loaded.rules)
    if as_json:
        write_json(_as_json(now))
    else:
        _show(now)


def _as_json(now: OutboxStatus) -> dict[str, Any]:
    return {
        "rules": {rule: counts | now.reports[rule] for rule, counts in now.rules.items()},
        "oldest_due_seconds": now.oldest_due_age_s,
        "workers": [{**worker, "started_at": worker["started_at"].isoformat()} for worker in now.workers],
        "listening": any(worker["listening"] and worker["alive"] for worker in now.workers),
        "gate": "asleep" if now.asleep else "open",
        "foreign_locks": [{**asdict(holder), "remedy": holder.remedy} for holder in now.foreign_locks],
        "outbox": now.outbox,
        "paused": {rule: since.isoformat() for rule, since in now.paused.items()},
        "suspended": {
            rule: {"since": since.isoformat(), "reason": reason} for rule, (since, reason) in now.suspended.items()
        },
    }


def _show(now: OutboxStatus) -> None:
    screen = console()
    table = Table("rule", *STATES, *REPORTS, box=None)
    for rule, counts in now.rules.items():
        reports = now.reports[rule]
        table.add_row(rule, *(str(counts[state]) for state in STATES), *(str(reports[word]) for word in REPORTS))
    screen.print(table)
    screen.print(_waiting(now))
    for rule, (since, reason) in now.suspended.items():
        screen.print(f"{rule}: suspended since {utc(since)}: {excerpt(reason)}", soft_wrap=True)
    for rule, since in now.paused.items():
        screen.print(f"{rule}: paused since {utc(since)}; resume with `pgherald resume {rule}`")
    if now.in_doubt:
        screen.print(f"{quantity(now.in_doubt, 'event')} in doubt: pgherald events list --state in_doubt")
    for worker in now.workers:
        screen.print(f"worker {worker['name']}: {_worker(worker)}")
    outbox = now.outbox
    screen.print(f"outbox: {outbox['size']}, {quantity(outbox['rows'], 'row')}, about {outbox['dead_rows']} dead")
    for holder in now.foreign_locks:
        screen.print(
            f"the {holder.lock} lock is held by {holder.name}, which is not a daemon's session: {holder.remedy}",
            soft_wrap=True,
        )
    if not now.workers:
        screen.print("no daemon is running")


def _waiting(now: OutboxStatus) -> str:
    """Return how long events wait for a daemon, or why they don't."""
    if now.oldest_due_age_s is not None:
        return f"the first waiting event has been due for {duration(now.oldest_due_age_s)}"
    if now.available:
        return "no waiting event is due: they are to be retried later, or their rule is paused or suspended"
    return "no event is waiting"


def _worker(worker: dict[str, Any]) -> str:
    """Return a worker's state in words."""
    if not worker["alive"]:
        return f"no heartbeat for {worker['seen_seconds_ago']:.0f} s"
    parts = ["listening" if worker["listening"] else "polling"]
    if worker["leader"]:
        parts.append("leader")
    parts.append(in_flight(worker["in_flight"], worker["in_flight_for"]))
    if worker["breaker"]:
        parts.append(f"breaker open: {worker['breaker']}")
    return ", ".join(parts)
