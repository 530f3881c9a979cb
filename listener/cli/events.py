"""events: list events, and decide about those that only a person can decide about."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from listener.admin import events as admin
from listener.admin.events import APPLIES, Filter, FoundEvent, Remedy
from listener.cli.connection import outbox_connection
from listener.cli.event_options import action_options, filter_options
from listener.cli.options import get_rule, json_option, load_settings, quantity, require_each, stored_key
from listener.cli.output import console, write_json, write_line
from listener.config.keys import show_key
from listener.config.settings import Settings
from listener.message_id import header_value

# More would scroll off the screen.
DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class _Action:
    """An action on events: the remedy, its verb, and the words for events that it was done to."""

    remedy: Remedy
    verb: str
    done: str


_RETRY = _Action("retry", "retry", "will be retried")
_DISCARD = _Action("discard", "discard", "discarded")
_RECORD_AS_SENT = _Action("resolve_as_sent", "record as sent", "recorded as sent")
_RESEND = _Action("resolve_as_resend", "send again", "will be sent again")


@click.group()
def events() -> None:
    """List events, and retry, discard or resolve them.

    \b
    Example:  pgherald events list --state failed
    """


@events.command("list")
@click.argument("rule", required=False)
@json_option
@filter_options
def list_(rule: str | None, as_json: bool, config_file: Path | None, **filters: Any) -> None:
    """List events, oldest first; 100 unless --limit says otherwise.

    \b
    Example:  pgherald events list dateplan_verified --state failed --older-than 1h
    """
    loaded = load_settings(config_file)
    filters["limit"] = filters["limit"] or DEFAULT_LIMIT
    with outbox_connection(loaded) as conn:
        found = admin.find(conn, _filter(loaded, (rule,) if rule else (), **filters))
    if as_json:
        write_json([_as_json(loaded, event) for event in found])
        return
    table = Table("id", "rule", "key", "state", "reason", "attempt", "captured (UTC)", "message id", box=None)
    for event in found:
        captured = f"{event.captured_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        key = _shown_row(loaded, event)
        cells = [event.rule, key, event.state, event.reason or "", str(event.attempt), captured, event.message_id]
        table.add_row(str(event.id), *cells)
    console().print(table)
    if len(found) == filters["limit"]:
        write_line(f"only the oldest {len(found)} are shown; --limit N shows more", err=True)


@events.command()
@action_options
def retry(**arguments: Any) -> None:
    """Retry failed, skipped and waiting events.

    Failed and skipped events get all their attempts again. Waiting events are sent at once.

    \b
    Example:  pgherald events retry dateplan_verified --reason rejected
    """
    _act(_RETRY, **arguments)


@events.command()
@action_options
def discard(**arguments: Any) -> None:
    """Discard events that wait or are in doubt.

    They become skipped, with the reason `discarded`.

    \b
    Example:  pgherald events discard 4711 4712
    """
    _act(_DISCARD, **arguments)


@events.command()
@click.option(
    "--as",
    "outcome",
    type=click.Choice(["sent", "resend"]),
    required=True,
    help="`sent`: record as delivered. `resend`: send again.",
)
@action_options
def resolve(outcome: str, **arguments: Any) -> None:
    """Decide how events in doubt have ended.

    Record them as sent, or send them again, byte for byte the same.

    \b
    Example:  pgherald events resolve 4711 --as sent
    """
    _act(_RECORD_AS_SENT if outcome == "sent" else _RESEND, **arguments)


def _act(
    action: _Action,
    which: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    config_file: Path | None,
    **filters: Any,
) -> None:
    """Do it to the chosen events. Exit with status 1 if one that was named by its id does not exist or does not fit."""
    loaded = load_settings(config_file)
    wanted = _filter(loaded, which, **filters)
    if not wanted.narrows:
        raise click.UsageError("no event is chosen; name a rule, ids, or a filter such as --state")
    states = APPLIES[action.remedy]
    if not wanted.ids and not wanted.states:
        # --limit must count only events that the action applies to.
        wanted = replace(wanted, states=list(states))
    with outbox_connection(loaded) as conn:
        found = admin.find(conn, wanted)
        fit = [event for event in found if event.state in states]
        if wanted.ids:
            _report_unfit(wanted.ids, found, states)
        if not fit:
            write_line(f"no event to {action.verb}")
        elif dry_run:
            for event in fit:
                row = _shown_row(loaded, event)
                write_line(f"would {action.verb}: event {event.id}, {event.rule} {row}, {event.state}")
            write_line(f"nothing was changed; without --dry-run: {action.verb} {quantity(len(fit), 'event')}", err=True)
        else:
            if not yes:
                _confirm(f"{action.verb} {quantity(len(fit), 'event')}", wanted)
            done = admin.apply(conn, action.remedy, [event.id for event in fit])
            write_line(f"{quantity(done, 'event')} {action.done}")
    if wanted.ids and len(fit) < len(set(wanted.ids)):
        sys.exit(1)


def _confirm(deed: str, wanted: Filter) -> None:
    """Ask on a terminal. Elsewhere, as over ssh with a command, a filter may choose more events than were meant."""
    if sys.stdin.isatty():
        click.confirm(f"{deed}?", abort=True)
    elif not wanted.ids:
        raise click.ClickException(f"this would {deed}; confirm with --yes, or look first with --dry-run")


def _report_unfit(ids: list[int], found: list[FoundEvent], states: tuple[str, ...]) -> None:
    """Print the named events that are in another state, or do not exist."""
    for event in found:
        if event.state not in states:
            write_line(f"event {event.id} is {event.state}, not {' or '.join(states)}; it was not changed", err=True)
    for missing in sorted(set(ids) - {event.id for event in found}):
        write_line(f"event {missing} does not exist", err=True)


def _filter(
    loaded: Settings,
    which: tuple[str, ...],
    state: str | None,
    reason: str | None,
    key: str | None,
    person: str | None,
    older_than: float | None,
    limit: int | None,
) -> Filter:
    ids = [int(word) for word in which if word.isascii() and word.isdigit()]
    names = [word for word in which if not (word.isascii() and word.isdigit())]
    if len(names) > 1 or (names and ids):
        raise click.UsageError("name either one rule or ids, not both")
    rule = names[0] if names else None
    if rule is not None:
        watched = get_rule(loaded, rule)
        require_each(watched, person, key)
        key = stored_key(watched, key, hint="--key") if key is not None else None
    elif key is not None:
        raise click.UsageError("--key requires RULE")
    else:
        require_each(None, person, key)
    return Filter(ids or None, rule, [state] if state else None, reason, key, person, older_than, limit)


def _shown_key(loaded: Settings, event: FoundEvent) -> str:
    return show_key(loaded.rules[event.rule], event.key) if event.rule in loaded.rules else event.key


def _shown_row(loaded: Settings, event: FoundEvent) -> str:
    key = _shown_key(loaded, event)
    return key if event.person is None else f"{key} for {event.person}"


def _as_json(loaded: Settings, event: FoundEvent) -> dict[str, Any]:
    moments = {
        name: moment.isoformat() if moment is not None else None
        for name, moment in (
            ("captured_at", event.captured_at),
            ("scheduled_at", event.scheduled_at),
            ("settled_at", event.settled_at),
        )
    }
    return {
        "id": event.id,
        "rule": event.rule,
        "key": _shown_key(loaded, event),
        "person": event.person,
        "state": event.state,
        "reason": event.reason,
        "attempt": event.attempt,
        "message_id": header_value(event.message_id, loaded.mail_of(event.rule).sender.address.domain),
        **moments,
    }
