"""What commands print: the one way to the terminal, past which nothing of a stranger's drives it."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from listener.printable import as_json, printable, printable_lines


def write_line(text: object, *, mark: str = "", err: bool = False) -> None:
    """Print one line. `mark`: what goes before it, in colours of our own."""
    click.echo(mark + printable(text), err=err)


def write_lines(text: str, *, err: bool = False) -> None:
    """Print text that has lines of its own, such as a message's body."""
    click.echo(printable_lines(text), err=err)


def write_json(value: Any) -> None:
    """Print the value as JSON, for scripts; what does not show is escaped."""
    click.echo(as_json(value, indent=2))


def write_error(text: str) -> None:
    """Print ``Error: …`` to stderr, on one line, whatever breaks the text has."""
    write_line(f"Error: {' '.join(text.split())}", err=True)


class Screen(Console):
    """rich's console for tables and sentences, to which each text is one line, and no markup and no ``:name:`` of an emoji.

    A `Text` of rich's own is taken as it is; what is put into one goes through `printable` first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make rich's text of ours. All that is printed, and each cell of a table, comes through here."""
        return super().render_str(printable(text), **options)


def console() -> Screen:
    """Return a screen as wide as the terminal."""
    # Not cut to 80 columns where nobody reads it on a screen.
    return Screen(width=None if sys.stdout.isatty() else 160)
