"""pause, resume: stop and restart the sending of a rule's events."""

from pathlib import Path

import click

from listener.admin import events
from listener.cli.connection import outbox_connection
from listener.cli.options import config_option, get_rule, load_settings, quantity
from listener.cli.output import write_line
from listener.printable import utc


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
    write_line(f"{rule}: paused at {utc(paused_at)}; resume with `pgherald resume {rule}`")


@click.command()
@click.argument("rule", required=False)
@config_option
def resume(rule: str | None, config_file: Path | None) -> None:
    """Resume a paused RULE: its events go out, oldest first.

    With or without RULE, daemons that wait for the mail server try it now. After a wrong password they would wait for up
    to 15 minutes.

    \b
    Example:  pgherald resume dateplan_verified
              pgherald resume
    """
    loaded = load_settings(config_file)
    if rule is not None:
        get_rule(loaded, rule)
    with outbox_connection(loaded) as conn:
        if rule is not None:
            events.resume(conn, rule)
            write_line(f"{rule}: resumed")
        elif waiting := events.retry_mail_server(conn):
            write_line(f"{quantity(waiting, 'daemon')} will try the mail server now")
        else:
            write_line("no daemon waits for the mail server; to end the pause of a rule, name it")
