"""The command line: parse, call, print."""

import importlib
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from listener import __version__
from listener.errors import DatabaseUnavailable, PgheraldError

# In the order of --help, and by module: a command waits for the imports of no other.
_COMMANDS = {
    "demo": "demo", "init": "init", "install": "database", "uninstall": "database", "doctor": "doctor", "run": "run",
    "status": "support", "watch": "watch", "explain": "support", "events": "events", "pause": "rules", "resume": "rules",
    "backfill": "upkeep", "forget": "upkeep", "purge": "upkeep", "preview": "mail", "send-test": "mail",
}  # fmt: skip


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"listener.cli.{_COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        # The list shows its first sentence, whole; click would cut it to a line.
        command.short_help = f"{(command.help or '').partition('.')[0].strip()}."
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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

    \b
    Exit status:  0 fine; 1 a fault was found or met; 2 usage.
    Environment:  every key of the configuration is PGHERALD_SECTION_KEY.
    Completion:   eval "$(_PGHERALD_COMPLETE=bash_source pgherald)"; zsh_source and fish_source, too.
    """
    context.obj = config


def main() -> None:
    """Exit status 0 fine, 1 a fault was found or met, 2 usage."""
    _open_streams()
    try:
        pgherald(prog_name="pgherald", auto_envvar_prefix="PGHERALD")
    except PgheraldError as exc:
        _fail(exc)
    except Exception as exc:
        # Not at the top: --help and completion need no database.
        import psycopg

        if not isinstance(exc, (psycopg.Error, OSError)):
            raise
        _fail(exc)


def _fail(exc: Exception) -> NoReturn:
    from listener.database import one_line

    remedy = "; start it, or correct [database] url (PGHERALD_DATABASE_URL)"
    click.echo(f"Error: {one_line(exc)}{remedy if isinstance(exc, DatabaseUnavailable) else ''}", err=True)
    sys.exit(1)


def _open_streams() -> None:
    # Who starts us may have closed one; its number would go to the next connection, and what is printed to the server.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no 🎉 is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
