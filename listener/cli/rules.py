"""pause, resume: whether a rule's mails go out at all."""

from pathlib import Path

import click

from listener.admin import events as remedy
from listener.cli.connection import outbox_connection
from listener.cli.options import configured, settings, the_rule
from listener.cli.output import write_line


@click.command()
@click.argument("rule")
@configured
def pause(rule: str, config_file: Path | None) -> None:
    """Let RULE's events wait, for all daemons at once, until `pgherald resume`.

    Changes go on being captured, and nothing is lost. What is in a daemon's hands already still goes out, within a second
    or two.

    \b
    Example:  pgherald pause dateplan_verified
    """
    loaded = settings(config_file)
    the_rule(loaded, rule)
    with outbox_connection(loaded) as conn:
        since = remedy.pause(conn, rule)
    write_line(f"{rule} is paused since {since:%Y-%m-%d %H:%M:%S}; its events wait for: pgherald resume {rule}")


@click.command()
@click.argument("rule")
@configured
def resume(rule: str, config_file: Path | None) -> None:
    """Let the events of a paused RULE go out, the oldest first.

    \b
    Example:  pgherald resume dateplan_verified
    """
    loaded = settings(config_file)
    the_rule(loaded, rule)
    with outbox_connection(loaded) as conn:
        remedy.resume(conn, rule)
    write_line(f"{rule} goes on")
