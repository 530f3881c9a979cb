"""pause, resume: stop and restart the sending of a rule's events."""

from pathlib import Path

import click

from listener.admin import events
from listener.cli.connection import outbox_connection
from listener.cli.options import config_option, get_rule, load_settings
from listener.cli.output import write_line


@click.command()
@click.argument("rule")
@config_option
def pause(rule: str, config_file: Path | None) -> None:
    """Pause RULE: no daemon sends its events until `pgherald resume RULE`.

    Changes are still captured, and no event is lost. Events that a daemon has already claimed still go out, within a
    second or two.

    \b
    Example:  pgherald pause dateplan_verified
    """
    loaded = load_settings(config_file)
    get_rule(loaded, rule)
    with outbox_connection(loaded) as conn:
        paused_at = events.pause(conn, rule)
    write_line(f"{rule}: paused at {paused_at:%Y-%m-%d %H:%M:%S}; resume with `pgherald resume {rule}`")


@click.command()
@click.argument("rule")
@config_option
def resume(rule: str, config_file: Path | None) -> None:
    """Resume a paused RULE: its events go out, oldest first.

    \b
    Example:  pgherald resume dateplan_verified
    """
    loaded = load_settings(config_file)
    get_rule(loaded, rule)
    with outbox_connection(loaded) as conn:
        events.resume(conn, rule)
    write_line(f"{rule}: resumed")
