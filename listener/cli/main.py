"""The command line: parse, call, print."""

import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from listener import __version__
from listener.errors import DatabaseUnavailable, PgheraldError

# In the order of --help, and by module: a command waits for the imports of no other.
_COMMANDS = {
    "demo": "demo", "init": "init", "install": "database", "uninstall": "database", "doctor": "doctor", "run": "run",
    "status": "support", "top": "top", "explain": "support", "events": "events", "pause": "rules", "resume": "rules",
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
        # In its own mode click would print what it was given as it is.
        sys.exit(pgherald.main(prog_name="pgherald", auto_envvar_prefix="PGHERALD", standalone_mode=False))
    except click.ClickException as exc:
        _refuse(exc)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except PgheraldError as exc:
        _fail(exc)
    except Exception as exc:
        # Not at the top: --help and completion need no database.
        import psycopg

        if not isinstance(exc, (psycopg.Error, OSError)):
            _crash()
        _fail(exc)


def _refuse(exc: click.ClickException) -> NoReturn:
    """Say what click's own `show` does: after a usage error how the command is called, and where its help is."""
    from listener.cli.output import write_error, write_lines

    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        # The help itself, and nothing of what was given.
        exc.show()
        sys.exit(exc.exit_code)
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        write_lines(f"{exc.ctx.get_usage()}\nTry '{exc.ctx.command_path} --help' for help.\n", err=True)
    write_error(exc.format_message())
    sys.exit(exc.exit_code)


def _fail(exc: Exception) -> NoReturn:
    from listener.cli.output import write_error
    from listener.db.errors import summary

    remedy = "; start it, or correct [database] url (PGHERALD_DATABASE_URL)"
    write_error(f"{summary(exc)}{remedy if isinstance(exc, DatabaseUnavailable) else ''}")
    sys.exit(1)


def _crash() -> NoReturn:
    """Print the traceback, for a report: the interpreter would print an exception's words as they are."""
    from listener.cli.output import write_lines

    write_lines(traceback.format_exc(), err=True)
    sys.exit(1)


def _open_streams() -> None:
    # Who starts us may have closed one; its number would go to the next connection, and what is printed to the server.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no 🎉 is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
