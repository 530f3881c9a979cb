"""status, explain: for whoever asks what happened."""

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from psycopg.rows import dict_row
from rich.table import Table

from listener.admin import history as story
from listener.cli.connection import outbox_connection
from listener.cli.options import KEYED, configured, settings, the_rule
from listener.cli.output import console, write_json, write_line
from listener.config.keys import parse_key, show_key
from listener.db import foreign_locks as locks
from listener.db.connection import tables_of
from listener.db.errors import translate_errors
from listener.db.queries import load

_STATES = ("available", "claimed", "transmitting", "in_doubt", "sent", "skipped", "failed")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@configured
def status(as_json: bool, config_file: Path | None) -> None:
    """Show what waits, what went out, and who is at work.

    \b
    Example:  pgherald status --json | jq '.rules.dateplan_verified.failed'
    """
    loaded = settings(config_file)
    queries = load("admin")
    rules = {name: dict.fromkeys(_STATES, 0) for name in loaded.rules}
    with outbox_connection(loaded) as conn, translate_errors():
        for rule, state, count in conn.execute(queries["counts"]):
            rules.setdefault(rule, dict.fromkeys(_STATES, 0))[state] = count
        (oldest,) = conn.execute(queries["oldest"]).fetchone() or (None,)
        workers = conn.cursor(row_factory=dict_row).execute(queries["workers"]).fetchall()
        [outbox] = conn.cursor(row_factory=dict_row).execute(queries["outbox_size"]).fetchall()
        paused = dict(conn.execute(queries["paused"]).fetchall())
        (asleep,) = conn.execute(queries["gate"]).fetchone() or (False,)
        strangers = locks.strangers_now(conn)
    # Counted, not estimated: every event is in one of the counts.
    outbox["rows"] = sum(sum(counts.values()) for counts in rules.values())
    answer: dict[str, Any] = {
        "rules": rules,
        "oldest_available_seconds": oldest,
        "workers": [{**worker, "started_at": worker["started_at"].isoformat()} for worker in workers],
        "listening": any(worker["listening"] and worker["alive"] for worker in workers),
        "gate": "asleep" if asleep else "open",
        "foreign_locks": [{**asdict(holder), "remedy": holder.remedy} for holder in strangers],
        "outbox": outbox,
        "paused": {rule: since.isoformat() for rule, since in paused.items()},
    }
    if as_json:
        write_json(answer)
        return
    screen = console()
    table = Table("rule", *_STATES, box=None)
    for rule, counts in rules.items():
        table.add_row(rule, *(str(counts[state]) for state in _STATES))
    screen.print(table)
    doubtful = sum(counts["in_doubt"] for counts in rules.values())
    screen.print("nothing waits to be sent" if oldest is None else f"the oldest waits for {oldest:.0f} s")
    for rule, since in paused.items():
        screen.print(f"{rule} is paused since {since:%Y-%m-%d %H:%M}: pgherald resume {rule}")
    if doubtful:
        screen.print(f"{doubtful} in doubt: pgherald events list --state in_doubt")
    for worker in workers:
        parts = [
            "listening" if worker["listening"] else "polling",
            "leads" if worker["leads"] else "",
            f"{worker['in_hand']} in hand",
        ]
        if worker["breaker"]:
            parts.append(f"breaker open: {worker['breaker']}")
        if not worker["alive"]:
            parts = [f"not seen for {worker['seen_seconds_ago']:.0f} s"]
        screen.print(f"worker {worker['name']}: {', '.join(filter(None, parts))}")
    screen.print(f"outbox: {outbox['size']}, {outbox['rows']} rows and about {outbox['dead_rows']} dead ones")
    for holder in strangers:
        screen.print(
            f"the {holder.lock} lock is held by {holder.name}, which is no daemon's session: {holder.remedy}",
            soft_wrap=True,
        )
    if not workers:
        screen.print("no daemon is at work")


@click.command(context_settings=KEYED)
@click.argument("rule")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@configured
def explain(rule: str, key: str, as_json: bool, config_file: Path | None) -> None:
    """Say what happened to a row, in order and in words, or why nothing did.

    KEY is the row's key; of several columns, their values with commas between. Exit status 1: there is no such row.

    \b
    Example:  pgherald explain dateplan_verified 4711
    """
    loaded = settings(config_file)
    watched = the_rule(loaded, rule)
    try:
        stored = parse_key(watched, key)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="KEY") from exc
    with outbox_connection(loaded) as conn, tables_of(conn, loaded.database.lookup_url) as tables:
        told = story.read_history(conn, tables, rule, watched, stored)
    if as_json:
        answer: dict[str, Any] = {"rule": rule, "key": show_key(watched, stored), "events": told.events}
        if told.why is not None:
            answer["why"] = told.why
        if told.paused_at is not None:
            answer["paused_at"] = told.paused_at.isoformat()
        write_json(answer)
    else:
        _tell(told, f"{rule} {key}")
        if told.paused_at is not None:
            write_line(f"it waits: the rule is paused since {told.paused_at:%Y-%m-%d %H:%M}; pgherald resume {rule}")
    if not told.events and not told.exists:
        sys.exit(1)


def _tell(told: story.RowHistory, subject: str) -> None:
    screen = console()
    if told.why is not None:
        screen.print(f"{subject}: no event; {told.why}", soft_wrap=True)
    for event in told.events:
        reason = f" ({event['reason']})" if event["reason"] else ""
        screen.print(f"event {event['id']}: {event['state']}{reason}, attempt {event['attempt']}")
        for entry in event["history"]:
            screen.print(
                f"  {_shown(entry['at'])}  {entry['what']:<12}  {entry['detail'] or ''}",
                soft_wrap=True,
            )


def _shown(moment: str) -> str:
    return datetime.fromisoformat(moment).isoformat(" ", "milliseconds")[:23]
