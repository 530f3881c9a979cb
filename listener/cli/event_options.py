"""The options by which commands choose events, and those of the commands that change events."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from listener.admin.status import STATES
from listener.cli.options import DURATION, config_option

F = TypeVar("F", bound=Callable[..., Any])


def filter_options(function: F) -> F:
    """Let the command take the options that choose events."""
    for option in reversed(
        (
            click.option("--state", type=click.Choice(STATES), help="Only events in this state."),
            click.option("--reason", help="Only events with this reason, such as no_consent."),
            click.option("--key", help="Only events of the row with this key. Requires RULE."),
            click.option(
                "--person", help="Only events of this person of the row, of a rule with `each`. Requires --key."
            ),
            click.option(
                "--older-than",
                type=DURATION,
                metavar="DURATION",
                help="Only events captured longer ago than this: 10s, 5m, 12h, 30d.",
            ),
            click.option("--limit", type=click.IntRange(1), help="At most this many events, oldest first."),
        )
    ):
        function = option(function)
    return config_option(function)


def action_options(function: F) -> F:
    """Let the command take the options of a command that changes events."""
    function = click.option(
        "--yes",
        is_flag=True,
        help="Do not ask for confirmation. Without a terminal it is required, unless IDs are named.",
    )(function)
    function = click.option("--dry-run", is_flag=True, help="Show which events would change, and change nothing.")(
        function
    )
    function = click.argument("which", nargs=-1, metavar="[RULE | ID...]")(function)
    return filter_options(function)
