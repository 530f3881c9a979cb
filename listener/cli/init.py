"""init: a first configuration for a database that is there already."""

import os
import sys
from pathlib import Path

import click

from listener.cli.options import configured, settings
from listener.cli.output import write_line, write_lines
from listener.config.settings import DEFAULT_FILE
from listener.db.connection import connect
from listener.errors import PgheraldError
from listener.files import put
from listener.scaffold.catalog import read_tables
from listener.scaffold.infer import choose_table, infer
from listener.scaffold.toml import CHANGE_ME, write_toml

_STDOUT = Path("-")


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="Where to write it; - for stdout.",
)
@click.option(
    "--table", metavar="NAME", help="The table to watch; else the one called dateplan, or the only one that fits."
)
@click.option("--becomes", metavar="VALUE", help="The value to wait for; else 'VE', if the column can hold it.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@configured
def init(out: Path, table: str | None, becomes: str | None, force: bool, config_file: Path | None) -> None:
    """Look at a database and write the configuration: which table, whose address, whose consent.

    Reads the catalog and no row, and changes nothing. What it cannot decide it says on stderr and marks in the file, and
    then the exit status is 1: nothing is mailed on a guess.

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://dba@db/app pgherald init --table public.booking --becomes confirmed
    """
    if out != _STDOUT and os.path.lexists(out) and not force:
        raise PgheraldError(f"{out} is there already; write elsewhere with --out, or over it with --force")
    with connect(settings(config_file).database.url) as conn:
        found = infer(choose_table(read_tables(conn), table), becomes)
    text = write_toml(found)
    if out == _STDOUT:
        write_lines(text.removesuffix("\n"))
    else:
        _write(out, text)
        write_line(f"{out}: rule {found.name}, on {found.table.qualified}")
    for what, why in found.warnings:
        write_line(f"{what}: {why}", err=True)
    for what, why in found.undecided:
        write_line(f"could not decide {what}: {why}", err=True)
    if found.undecided:
        write_line(f"look for {CHANGE_ME} in {'what was written' if out == _STDOUT else out}", err=True)
        sys.exit(1)


def _write(out: Path, text: str) -> None:
    # For the user alone: a URL with a password may come to stand in it.
    try:
        descriptor = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            put(descriptor, out.name, text.encode())
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise PgheraldError(f"{out}: {exc.strerror or exc}") from exc
