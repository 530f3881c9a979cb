"""events: list them, and make good by hand what only a person can."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from listener.admin import events as remedy
from listener.admin.events import APPLIES, Filter, FoundEvent, Remedy
from listener.cli.connection import outbox_connection
from listener.cli.options import DURATION, configured, counted, settings, the_rule
from listener.cli.output import console, write_json, write_line
from listener.config.keys import parse_key, show_key

F = TypeVar("F", bound=Callable[..., Any])

_STATES = ("available", "claimed", "transmitting", "in_doubt", "sent", "skipped", "failed")


def _filters(function: F) -> F:
    for option in reversed(
        (
            click.option("--state", type=click.Choice(_STATES), help="Only those in this state."),
            click.option("--reason", help="Only those with this reason, such as no_consent."),
            click.option("--key", help="Only those of this row; needs RULE."),
            click.option(
                "--older-than", type=DURATION, metavar="DURATION", help="Captured so long ago: 10s, 5m, 12h, 30d."
            ),
            click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first."),
        )
    ):
        function = option(function)
    return configured(function)


def _acts(function: F) -> F:
    function = click.option("--yes", is_flag=True, help="Do not ask.")(function)
    function = click.option("--dry-run", is_flag=True, help="Only say which events it would be.")(function)
    function = click.argument("which", nargs=-1, metavar="[RULE | ID...]")(function)
    return _filters(function)


@click.group()
def events() -> None:
    """List events, and retry, discard or resolve them.

    \b
    Example:  pgherald events list --state failed
    """


@events.command("list")
@click.argument("rule", required=False)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_filters
def list_(rule: str | None, as_json: bool, config_file: Path | None, **filters: Any) -> None:
    """Show events, the oldest first; 100 unless --limit says otherwise.

    \b
    Example:  pgherald events list dateplan_verified --state failed --older-than 1h
    """
    loaded = settings(config_file)
    filters["limit"] = filters["limit"] or 100
    with outbox_connection(loaded) as conn:
        found = remedy.find(conn, _wanted(loaded, (rule,) if rule else (), **filters))
    if as_json:
        write_json([_as_json(loaded, event) for event in found])
        return
    table = Table("id", "rule", "key", "state", "reason", "attempt", "captured", box=None)
    for event in found:
        captured = f"{event.captured_at:%Y-%m-%d %H:%M:%S}"
        key = _shown_key(loaded, event)
        table.add_row(str(event.id), event.rule, key, event.state, event.reason or "", str(event.attempt), captured)
    console().print(table)


@events.command()
@_acts
def retry(**arguments: Any) -> None:
    """Try failed or skipped events again, with all their attempts, and waiting ones at once.

    \b
    Example:  pgherald events retry dateplan_verified --reason rejected
    """
    _act("retry", "try again", "will be tried again", **arguments)


@events.command()
@_acts
def discard(**arguments: Any) -> None:
    """Give up events that wait or are in doubt: skipped, with the reason `discarded`.

    \b
    Example:  pgherald events discard 4711 4712
    """
    _act("discard", "discard", "discarded", **arguments)


@events.command()
@click.option(
    "--as",
    "outcome",
    type=click.Choice(["sent", "resend"]),
    required=True,
    help="What became, or is to become, of them.",
)
@_acts
def resolve(outcome: str, **arguments: Any) -> None:
    """Say how events in doubt ended: they were `sent`, or are to be sent once more, byte for byte the same.

    \b
    Example:  pgherald events resolve 4711 --as sent
    """
    if outcome == "sent":
        _act("resolve_as_sent", "take as sent", "taken as sent", **arguments)
    else:
        _act("resolve_as_resend", "send once more", "will be sent once more", **arguments)


def _act(
    chosen: Remedy,
    verb: str,
    done: str,
    which: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    config_file: Path | None,
    **filters: Any,
) -> None:
    loaded = settings(config_file)
    wanted = _wanted(loaded, which, **filters)
    if not wanted.narrows:
        raise click.UsageError("name a rule, ids, or a filter such as --state: not everything at once")
    if not wanted.ids and not wanted.states:
        # Before the limit counts them.
        wanted = replace(wanted, states=list(APPLIES[chosen]))
    with outbox_connection(loaded) as conn:
        found = remedy.find(conn, wanted)
        fit = [event for event in found if event.state in APPLIES[chosen]]
        for event in found:
            if event not in fit and wanted.ids:
                write_line(f"event {event.id} is {event.state}: nothing to {verb}", err=True)
        missing = sorted(set(wanted.ids or ()) - {event.id for event in found})
        for number in missing:
            write_line(f"there is no event {number}", err=True)
        if not fit:
            write_line(f"no event to {verb}")
        elif dry_run:
            for event in fit:
                write_line(f"would {verb}: event {event.id}, {event.rule} {_shown_key(loaded, event)}, {event.state}")
        else:
            if sys.stdin.isatty() and not yes:
                click.confirm(f"{verb} {counted(len(fit), 'event')}?", abort=True)
            write_line(f"{counted(remedy.apply(conn, chosen, [event.id for event in fit]), 'event')} {done}")
    if wanted.ids and len(fit) < len(set(wanted.ids)):
        sys.exit(1)


def _wanted(
    loaded: Any,
    which: tuple[str, ...],
    state: str | None,
    reason: str | None,
    key: str | None,
    older_than: float | None,
    limit: int | None,
) -> Filter:
    ids = [int(word) for word in which if word.isascii() and word.isdigit()]
    names = [word for word in which if not (word.isascii() and word.isdigit())]
    if len(names) > 1 or (names and ids):
        raise click.UsageError("name one rule, or ids")
    rule = names[0] if names else None
    if rule is not None:
        watched = the_rule(loaded, rule)
        try:
            key = parse_key(watched, key) if key is not None else None
        except ValueError as exc:
            raise click.BadParameter(str(exc), param_hint="--key") from exc
    elif key is not None:
        raise click.UsageError("--key needs the rule it is of")
    return Filter(ids or None, rule, [state] if state else None, reason, key, older_than, limit)


def _shown_key(loaded: Any, event: FoundEvent) -> str:
    return show_key(loaded.rules[event.rule], event.key) if event.rule in loaded.rules else event.key


def _as_json(loaded: Any, event: FoundEvent) -> dict[str, Any]:
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
        "state": event.state,
        "reason": event.reason,
        "attempt": event.attempt,
        **moments,
    }
