"""init: write a first configuration for an existing database."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psycopg

from listener.cli.options import config_option, load_settings
from listener.cli.output import write_line, write_lines
from listener.config.placeholder import CHANGE_ME
from listener.config.settings import DEFAULT_FILE
from listener.db.connection import connect
from listener.errors import PgheraldError
from listener.files import put
from listener.scaffold.catalog import Table, read_tables
from listener.scaffold.infer import choose_table, infer
from listener.scaffold.inference import Inference
from listener.scaffold.seen import read_values
from listener.scaffold.starter import write_templates
from listener.scaffold.state import find_statuses, known_values
from listener.scaffold.toml import write_toml
from listener.scaffold.watched import choose_watched, read_watched

_STDOUT = Path("-")


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="File to write; - for stdout.",
)
@click.option(
    "--table",
    metavar="NAME",
    help="Table to watch. Default: the one that is watched already, the one named dateplan, or the only one that fits.",
)
@click.option("--becomes", metavar="VALUE", help="Value to wait for. Default: that of the table dateplan, 'VE'.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@config_option
def init(out: Path, table: str | None, becomes: str | None, force: bool, config_file: Path | None) -> None:
    """Write a first configuration from a database's catalog: the table, the state, the address, the consent.

    Changes nothing in the database, and reads no rows but the values of the status column, to list them. Anything it cannot
    infer is marked CHANGE_ME, reported on stderr, refused by all other commands, and makes the exit status 1. A rule that
    a migration of Django watches keeps its name, column and value. First templates are written beside FILE, for you to
    edit; the table dateplan has the shipped ones.

    \b
    Example:  PGHERALD_DATABASE_URL=postgresql://dba@db/app pgherald init --table public.booking --becomes confirmed
    """
    if out != _STDOUT and os.path.lexists(out) and not force:
        raise PgheraldError(f"{out} exists; choose another file with --out, or overwrite it with --force")
    with connect(load_settings(config_file, rules=False).database.url) as conn:
        tables, rules = read_tables(conn), read_watched(conn)
        if table is None and len({rule.table for rule in rules}) == 1:
            table = rules[0].table
        chosen = choose_table(tables, table)
        watched = choose_watched(rules, chosen.qualified, becomes)
        seen = _seen(conn, chosen) if becomes is None and watched is None else ()
        found = infer(chosen, becomes, tables, watched, seen)
    folder = Path("templates") if out == _STDOUT else out.parent / "templates"
    text = write_toml(found, folder)
    if out == _STDOUT:
        write_lines(text.removesuffix("\n"))
    else:
        _write(out, text)
        write_line(f"{out}: rule {found.name}, on {found.table.qualified}")
        if found.place is None:
            _write_templates(folder / found.name, found)
    for what, why in found.warnings:
        write_line(f"{what}: {why}", err=True)
    for what, why in found.undecided:
        write_line(f"could not decide {what}: {why}", err=True)
    if found.undecided:
        write_line(f"replace each {CHANGE_ME} in {'the output' if out == _STDOUT else out}", err=True)
        sys.exit(1)


def _seen(conn: psycopg.Connection[Any], table: Table) -> tuple[str, ...]:
    """Return the values of the status column, if the table has one and neither an enum nor a CHECK lists them."""
    statuses = find_statuses(table)
    if len(statuses) != 1 or known_values(statuses[0]):
        return ()
    return read_values(conn, table, statuses[0])


def _write(out: Path, text: str) -> None:
    """Write the file with mode 0600. The user may add a URL with a password to it."""
    try:
        descriptor = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            put(descriptor, out.name, text.encode())
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise PgheraldError(f"{out}: {exc.strerror or exc}") from exc


def _write_templates(folder: Path, rule: Inference) -> None:
    """Write the files that are missing. They hold no secret, and the daemon may run as another user."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in write_templates(rule).items():
            with suppress(FileExistsError), (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as exc:
        raise PgheraldError(f"{folder}: {exc.strerror or exc}") from exc
    write_line(f"{folder}: write your email there; `pgherald preview {rule.name}` shows it")
