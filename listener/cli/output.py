"""All output of the commands. Text from rows, servers and other roles passes through here and cannot drive the terminal."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from listener.printable import as_json, printable, printable_lines
from listener.stderr import with_priority

# A pipe or a file has no width. Each sentence and each row of a table is one line there, for grep.
_PIPE_COLUMNS = 10_000


def write_line(text: object, *, mark: str = "", err: bool = False) -> None:
    """Print one line. `mark` is put before it unchanged, and may have colours of ours."""
    click.echo(mark + printable(text), err=err)


def write_lines(text: str, *, err: bool = False) -> None:
    """Print text of several lines, such as a message's body."""
    click.echo(printable_lines(text), err=err)


def write_json(value: Any) -> None:
    """Print the value as JSON. Invisible characters are escaped."""
    click.echo(as_json(value, indent=2))


def write_error(text: str) -> None:
    """Print ``Error: …`` to stderr, on one line even if the text has several."""
    click.echo(with_priority("error", printable(f"Error: {' '.join(text.split())}")), err=True)


class Screen(Console):
    """A rich console for tables and sentences. Markup and ``:emoji:`` names in text have no effect.

    A `Text` object is printed as it is. Text from outside must go through `printable` before it is put into one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a `Text` of a string. rich calls this for each string that is printed, and for each cell of a table."""
        return super().render_str(printable(text), **options)


def console() -> Screen:
    """Return a screen as wide as the terminal."""
    return Screen(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
