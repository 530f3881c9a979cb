"""The program `pgherald`: find the command, run it, and turn an exception into one line and an exit status."""

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

# In the order of --help, each with its module. A command waits for the imports of no other.
_COMMANDS = {
    "demo": "demo",
    "init": "init",
    "install": "install",
    "rewatch": "rewatch",
    "uninstall": "install",
    "doctor": "doctor",
    "run": "run",
    "status": "status",
    "top": "top",
    "explain": "explain",
    "events": "events",
    "pause": "pause",
    "resume": "pause",
    "backfill": "backfill",
    "forget": "retention",
    "purge": "retention",
    "preview": "preview",
    "send-test": "send_test",
    "bounce": "bounce",
}


class _Commands(click.Group):
    """The commands of `_COMMANDS`, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"listener.cli.{_COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        # The list of commands shows the whole first sentence. click would cut it at the width of a line.
        command.short_help = f"{(command.help or '').partition('.')[0].strip()}."
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pgherald")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file. Default: PGHERALD_CONFIG, else ./pgherald.toml.",
)
@click.pass_context
def pgherald(context: click.Context, config: Path | None) -> None:
    """Send e-mail, exactly once, when a row in PostgreSQL reaches a state.

    \b
    See it run:             pgherald demo
    In your own database:   pgherald init && pgherald install && pgherald run

    \b
    Exit status:  0 success; 1 an error, or a problem was found; 2 wrong usage. `run` and `bounce` have more.
    Environment:  every key of the configuration can be set as PGHERALD_SECTION_KEY.
    Completion:   eval "$(_PGHERALD_COMPLETE=bash_source pgherald)"; zsh_source and fish_source, too.
    """
    context.obj = config


def main() -> None:
    """Run the program, and exit with status 0 for success, 1 for an error, or 2 for wrong usage.

    `run` and `bounce` exit with other statuses themselves.
    """
    _open_streams()
    try:
        # In standalone mode click prints errors itself, and with them the arguments, which may drive the terminal.
        sys.exit(pgherald.main(prog_name="pgherald", auto_envvar_prefix="PGHERALD", standalone_mode=False))
    except click.ClickException as exc:
        _refuse(exc)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except PgheraldError as exc:
        _fail(exc)
    except Exception as exc:
        if isinstance(exc, UnicodeEncodeError) and any(not _is_utf8(argument) for argument in sys.argv):
            _refuse(click.UsageError("an argument has a byte that is not UTF-8; write it in UTF-8"))
        # Imported here, because --help and completion need no database driver.
        import psycopg

        if not isinstance(exc, (psycopg.Error, OSError)):
            _crash()
        _fail(exc)


def _is_utf8(argument: str) -> bool:
    # Python reads a byte that is not UTF-8 as a lone surrogate.
    return argument.isascii() or not any("\ud800" <= character <= "\udfff" for character in argument)


def _refuse(exc: click.ClickException) -> NoReturn:
    """Print what click's own `show` prints: the error, and after a usage error also the usage and where the help is."""
    from listener.cli.output import write_error, write_lines

    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        # This is the help text. It has none of the arguments.
        exc.show()
        sys.exit(exc.exit_code)
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        write_lines(f"{exc.ctx.get_usage()}\nTry '{exc.ctx.command_path} --help' for help.\n", err=True)
    write_error(exc.format_message())
    sys.exit(exc.exit_code)


def _fail(exc: Exception) -> NoReturn:
    """Print the error with its remedy, and exit with status 1."""
    from listener.cli.output import write_error
    from listener.db.errors import summary

    remedy = "; check that the server is running and that [database] url (PGHERALD_DATABASE_URL) is right"
    write_error(f"{summary(exc)}{remedy if isinstance(exc, DatabaseUnavailable) else ''}")
    sys.exit(1)


def _crash() -> NoReturn:
    """Print the traceback for a bug report, and exit with status 1.

    The interpreter would print the exception's message unchanged, and control characters in it would reach the terminal.
    """
    from listener.cli.output import write_lines
    from listener.stderr import with_priority

    write_lines(with_priority("critical", traceback.format_exc().rstrip()), err=True)
    sys.exit(1)


def _open_streams() -> None:
    """Open the standard streams that the caller has closed.

    The next connection would take the number of a closed stream, and our output would go to the server.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal whose encoding lacks a character shows it escaped. The command must not fail because of it.
        sys.stdout.reconfigure(errors="backslashreplace")
