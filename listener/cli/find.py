"""The option `--email`: a row named by its address."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import click

from listener.admin.find import FoundRows, find_rows
from listener.cli.options import get_rule
from listener.config.keys import is_storable
from listener.config.settings import Settings
from listener.db.pools import lookup_pool, opened

F = TypeVar("F", bound=Callable[..., Any])


def email_option(function: F) -> F:
    """Let the command take `--email`."""
    return click.option(
        "--email",
        metavar="ADDRESS",
        help="The rows that have this address, instead of KEY. The rule's query `find` decides which these are.",
    )(function)


def rows_of(settings: Settings, rule: str, email: str) -> FoundRows:
    """Return the rows that have this address.

    Raises:
        click.UsageError: The rule has no query for that, or no database can have the address.
        RuleBroken, DatabaseUnavailable: The query cannot be run.
    """
    watched = get_rule(settings, rule)
    if not watched.find:
        raise click.UsageError(
            f"--email: [rules.{rule}] find is not set; write a query there that returns the key of an address's rows"
        )
    if not email.strip() or not is_storable(email):
        raise click.UsageError("--email: is empty, or has a NUL or a byte that is not UTF-8; name an address")

    async def found() -> FoundRows:
        pool = lookup_pool(settings.database.lookups)
        async with opened(pool):
            return await find_rows(pool, rule, watched, email)

    return asyncio.run(found())
