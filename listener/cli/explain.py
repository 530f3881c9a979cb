"""explain: the history of one row."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from listener.admin.history import RowHistory, read_history
from listener.cli.connection import outbox_connection
from listener.cli.options import NEGATIVE_KEYS, config_option, get_rule, json_option, load_settings, stored_key
from listener.cli.output import console, write_json, write_line
from listener.config.keys import show_key
from listener.db.connection import tables_of

# "2026-11-22 17:44:45.123", without the offset that every line would repeat.
_TIME_CHARS = 23


@click.command(context_settings=NEGATIVE_KEYS)
@click.argument("rule")
@click.argument("key")
@json_option
@config_option
def explain(rule: str, key: str, as_json: bool, config_file: Path | None) -> None:
    """Show the history of a row's events, or why the row has none.

    KEY is the row's key. For a key of several columns, separate the values with commas. Exit status 1: the row does not
    exist, and there is no event for it.

    \b
    Example:  pgherald explain dateplan_verified 4711
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    stored = stored_key(watched, key)
    with outbox_connection(loaded) as conn, tables_of(conn, loaded.database.lookup_url) as tables:
        history = read_history(conn, tables, rule, watched, stored)
    if as_json:
        answer: dict[str, Any] = {"rule": rule, "key": show_key(watched, stored), "events": history.events}
        if history.why is not None:
            answer["why"] = history.why
        if history.paused_at is not None:
            answer["paused_at"] = history.paused_at.isoformat()
        write_json(answer)
    else:
        _show(history, f"{rule} {key}")
        if history.paused_at is not None:
            write_line(
                f"waiting: the rule is paused since {history.paused_at:%Y-%m-%d %H:%M}; "
                f"resume with `pgherald resume {rule}`"
            )
    if not history.events and not history.exists:
        sys.exit(1)


def _show(history: RowHistory, subject: str) -> None:
    screen = console()
    if history.why is not None:
        screen.print(f"{subject}: no event; {history.why}", soft_wrap=True)
    for event in history.events:
        reason = f" ({event['reason']})" if event["reason"] else ""
        screen.print(f"event {event['id']}: {event['state']}{reason}, attempt {event['attempt']}")
        for entry in event["history"]:
            screen.print(f"  {_time(entry['at'])}  {entry['what']:<12}  {entry['detail'] or ''}", soft_wrap=True)


def _time(moment: str) -> str:
    return datetime.fromisoformat(moment).isoformat(" ", "milliseconds")[:_TIME_CHARS]
