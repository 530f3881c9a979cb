"""rewatch: change the column that a rule watches, or its table, and keep what is known of the rule."""

import re
import time
from pathlib import Path

import click
from psycopg.errors import UndefinedTable

from listener.cli.options import config_option, get_rule, load_settings
from listener.cli.output import write_line
from listener.db import schema
from listener.db.connection import connect
from listener.db.errors import OWNER_REMEDY, translate_errors
from listener.db.install import INSTALL_TIMEOUT_S, rewatch_step, run
from listener.errors import SchemaError

# These would end the transaction between the removal of the triggers and their return.
_ENDS_TRANSACTION = re.compile(r"(?:^|;)\s*(?:begin|start|commit|end|rollback|abort|prepare)\b", re.IGNORECASE)


@click.command()
@click.argument("rule")
@click.option(
    "--alter",
    metavar="SQL",
    help="Statement to run while the triggers are removed. Name the table with its schema.",
)
@config_option
def rewatch(rule: str, alter: str | None, config_file: Path | None) -> None:
    """Create the triggers of RULE again, and keep what is known of it.

    PostgreSQL refuses to change a column that a trigger names. This command removes the triggers, runs the statement of
    --alter, and creates the triggers as the configuration now says, in one transaction. With --alter it does so for
    all rules of the table.

    The rule stays paused if it was. The rows that `pgherald install` has recorded stay recorded. Use it also after a
    value of an enum or a column was renamed. `pgherald backfill` finds the rows missed meanwhile.

    \b
    Example:  pgherald rewatch dateplan_verified --alter "ALTER TABLE public.dateplan ALTER status TYPE text"
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    if alter is not None and (not alter.strip() or _ENDS_TRANSACTION.search(alter)):
        raise click.UsageError(
            "--alter: must be a statement that runs in the transaction of rewatch; remove BEGIN and COMMIT from it"
        )
    end = time.monotonic() + INSTALL_TIMEOUT_S
    with connect(loaded.database.url) as conn:
        with translate_errors(OWNER_REMEDY):
            installed = schema.installed(conn)
        if rule not in installed:
            raise click.ClickException(f"rule {rule} is not watched in this database; run `pgherald install`")
        # The column's other triggers, too, would keep the server from changing it.
        rules = {
            name: each
            for name, each in loaded.rules.items()
            if name == rule or (alter is not None and each.table == watched.table and name in installed)
        }
        try:
            run(conn, rewatch_step(rules, alter), lambda text: write_line(text, err=True), end)
        except SchemaError as exc:
            if isinstance(exc.__cause__, UndefinedTable):
                raise SchemaError(f"{exc}; write each table with its schema, such as {watched.table}") from exc
            raise
    for name, each in rules.items():
        write_line(f"{name}: watching {each.watching}; to look for missed rows: pgherald backfill {name} --dry-run")
