"""explain: the history of one row."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from listener.admin.find import FoundRow, FoundRows
from listener.admin.history import RowHistory, read_email, read_history
from listener.cli.connection import outbox_connection
from listener.cli.find import email_option, rows_of
from listener.cli.options import NEGATIVE_KEYS, config_option, get_rule, json_option, load_settings, stored_key
from listener.cli.output import console, write_json, write_line
from listener.config.keys import show_key
from listener.config.settings import Settings
from listener.db.connection import tables_of
from listener.errors import PgheraldError
from listener.message_id import header_value
from listener.printable import excerpt, utc

# A Message-ID and a domain. A longer text is not repeated in an error.
_MAX_QUOTED_CHARS = 100
# An address with more rows fills the screen. Each row is a line.
_MAX_ROWS = 20


@click.command(context_settings=NEGATIVE_KEYS)
@click.argument("rule", required=False)
@click.argument("key", required=False)
@click.option(
    "--message",
    metavar="ID",
    help="Show the event of the email with this Message-ID: <KEY@DOMAIN>, KEY@DOMAIN or KEY. A line of a mail "
    "server's log that contains it will do.",
)
@email_option
@json_option
@config_option
def explain(
    rule: str | None,
    key: str | None,
    message: str | None,
    email: str | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Show the history of a row's events, or why the row has none.

    KEY is the row's key. For a key of several columns, separate the values with commas. Exit status 1: the row does not
    exist, and there is no event for it; or no row has the address.

    \b
    Example:  pgherald explain dateplan_verified 4711
              pgherald explain dateplan_verified --email jane@example.org
              pgherald explain --message '<3ebqgcaxgzk6rhfw3qteqncekm@example.org>'
    """
    loaded = load_settings(config_file)
    if email is not None and (key is not None or message is not None):
        raise click.UsageError("name a row either by KEY, by --email or by --message")
    found = rows_of(loaded, rule, email) if email is not None and rule is not None else None
    if found is not None and len(found.rows) != 1:
        assert rule is not None
        _show_rows(loaded, rule, found, as_json=as_json)
        return
    if message is not None:
        if rule is not None:
            raise click.UsageError("name either RULE and KEY or --message, not both")
        rule, key, history = _read_email(loaded, message)
    elif rule is None or (key is None and found is None):
        raise click.UsageError("no event is named; name RULE and KEY or --email, or an email with --message")
    else:
        row = found.rows[0] if found is not None else FoundRow(stored_key(get_rule(loaded, rule), key or ""))
        rule, key, history = _read_row(loaded, rule, row)
    for event in history.events:
        if event["message_id"] is not None:
            event["message_id"] = header_value(event["message_id"], loaded.mail_of(rule).sender.address.domain)
    if as_json:
        answer: dict[str, Any] = {"rule": rule, "key": key, "events": history.events}
        if history.why is not None:
            answer["why"] = history.why
        if history.paused_at is not None:
            answer["paused_at"] = history.paused_at.isoformat()
        if history.suspended is not None:
            since, reason = history.suspended
            answer["suspended"] = {"since": since.isoformat(), "reason": reason}
        write_json(answer)
    else:
        if message is not None:
            write_line(f"{rule} {key}")
        _show(history, f"{rule} {key}")
        if history.suspended is not None:
            since, reason = history.suspended
            write_line(f"waiting: the rule is suspended since {utc(since)}: {excerpt(reason)}")
        if history.paused_at is not None:
            write_line(
                f"waiting: the rule is paused since {utc(history.paused_at)}; resume with `pgherald resume {rule}`"
            )
    if not history.events and not history.exists:
        sys.exit(1)


def _show_rows(loaded: Settings, rule: str, found: FoundRows, *, as_json: bool) -> None:
    """Print the last event of each row of an address."""
    watched, shown = loaded.rules[rule], found.rows[:_MAX_ROWS]
    with outbox_connection(loaded) as conn, tables_of(conn, loaded.database.lookup_url) as tables:
        rows = [
            (show_key(watched, row.key), read_history(conn, tables, rule, watched, row.key, row.person))
            for row in shown
        ]
    if as_json:
        write_json(
            {"rule": rule, "rows": [_last(key, each) for key, each in rows], "more": len(found.rows) - len(shown)}
        )
    for key, history in [] if as_json else rows:
        last = _last(key, history)
        if last["why"] is not None:
            write_line(f"{rule} {key}: no event; {last['why']}")
        else:
            reason = f" ({last['reason']})" if last["reason"] else ""
            write_line(f"{rule} {key}: {_event(last)}: {last['state']}{reason}, {_time(last['at'])}")
    if not found.rows:
        write_line(f"{rule}: no row has this address", err=True)
        sys.exit(1)
    if len(found.rows) > len(shown):
        more = f"{len(found.rows) - len(shown):,} more rows" + (", or even more" if found.has_more else "")
        write_line(f"and {more} have this address; name one with its KEY", err=True)


def _last(key: str, history: RowHistory) -> dict[str, Any]:
    """Return the row's last event in short, or why it has none."""
    if not history.events:
        return {"key": key, "why": history.why}
    event = history.events[-1]
    last = {name: event[name] for name in ("id", "state", "reason")}
    return {"key": key, "why": None, **last, "at": event["history"][-1]["at"], "events": len(history.events)}


def _read_row(loaded: Settings, rule: str, row: FoundRow) -> tuple[str, str, RowHistory]:
    watched = loaded.rules[rule]
    with outbox_connection(loaded) as conn, tables_of(conn, loaded.database.lookup_url) as tables:
        return rule, show_key(watched, row.key), read_history(conn, tables, rule, watched, row.key, row.person)


def _read_email(loaded: Settings, message: str) -> tuple[str, str, RowHistory]:
    """Return the rule, the key and the event of the email with this Message-ID."""
    with outbox_connection(loaded) as conn:
        found = read_email(conn, message)
    if found is None:
        raise click.UsageError(
            f"--message: {_shorten(message)!r} is not a Message-ID of this database; copy the part before the @, 26 letters and digits"
        )
    if isinstance(found, int):
        raise PgheraldError(
            f"--message: the event of this email, {found}, is not in the outbox any more; "
            "it was purged or erased, or the database was restored since"
        )
    key = show_key(loaded.rules[found.rule], found.key) if found.rule in loaded.rules else found.key
    return found.rule, key, found.history


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[:_MAX_QUOTED_CHARS]}…"


def _show(history: RowHistory, subject: str) -> None:
    screen = console()
    if history.why is not None:
        screen.print(f"{subject}: no event; {history.why}", soft_wrap=True)
    for event in history.events:
        reason = f" ({event['reason']})" if event["reason"] else ""
        person = f", for {event['person']}" if event["person"] is not None else ""
        screen.print(f"{_event(event)}{person}: {event['state']}{reason}, attempt {event['attempt']}")
        if event["message_id"] is not None:
            screen.print(f"  Message-ID {event['message_id']}", soft_wrap=True)
        for entry in event["history"]:
            screen.print(f"  {_time(entry['at'])}  {entry['what']:<12}  {entry['detail'] or ''}", soft_wrap=True)


def _event(event: dict[str, Any]) -> str:
    """Return how an event is named. A daemon numbers it when it takes it over from the inbox."""
    return f"event {event['id']}" if event["id"] is not None else "event without a number, in the inbox"


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).replace(tzinfo=None).isoformat(' ', 'milliseconds')} UTC"
