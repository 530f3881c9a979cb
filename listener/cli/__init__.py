"""The command line: parse, call, print."""

import io
import os
import sys
from pathlib import Path

import click
import psycopg

from listener import __version__
from listener.cli.database import install, uninstall
from listener.cli.demo import demo
from listener.cli.doctor import doctor
from listener.cli.events import events
from listener.cli.init import init
from listener.cli.mail import preview, send_test
from listener.cli.rules import pause, resume
from listener.cli.run import run
from listener.cli.support import explain, status
from listener.cli.upkeep import backfill, forget, purge
from listener.cli.watch import watch
from listener.database import one_line
from listener.errors import PgheraldError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pgherald")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration; else PGHERALD_CONFIG, else ./pgherald.toml.",
)
@click.pass_context
def pgherald(context: click.Context, config: Path | None) -> None:
    """Tell people by e-mail, exactly once, when a row in PostgreSQL reaches a state.

    \b
    See it work:            pgherald demo
    In your own database:   pgherald install && pgherald run
    """
    context.obj = config


for command in (
    demo, init, install, uninstall, doctor, run, status, watch, explain, events, pause, resume, backfill, forget, purge, preview,
    send_test,
):  # fmt: skip
    pgherald.add_command(command)


def main() -> None:
    """Exit status 0 fine, 1 a fault was found or met, 2 usage."""
    _open_streams()
    try:
        pgherald(prog_name="pgherald", auto_envvar_prefix="PGHERALD")
    except (PgheraldError, psycopg.Error, OSError) as exc:
        click.echo(f"Error: {one_line(exc)}", err=True)
        sys.exit(1)


def _open_streams() -> None:
    # Who starts us may have closed one; its number would go to the next connection, and what is printed to the server.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no 🎉 is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
