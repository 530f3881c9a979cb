"""send-test: send one real message, and print the server's reply."""

import asyncio
from pathlib import Path
from typing import Any

import click

from listener import logs
from listener.address import Address, parse_address
from listener.cli.options import config_option, get_rule, load_settings, require_each, stored_key
from listener.cli.output import write_line
from listener.config.settings import Settings
from listener.errors import BadData, PgheraldError
from listener.mail.composer import templates
from listener.preview import sample
from listener.preview import send_test as preview
from listener.recipients import RecipientPolicy
from listener.smtp.breaker import Breaker
from listener.transport.build import transport

# Upper limits in seconds. A person waits for this reply; the daemon waits as long as RFC 5321 4.5.3.2 asks.
_MAX_TIMEOUTS_S = {"connect_timeout": 10.0, "command_timeout": 30.0, "data_timeout": 30.0, "dot_timeout": 60.0}
_SECURITY = {"off": "in clear", "starttls": "STARTTLS", "tls": "TLS"}


class _AddressType(click.ParamType[Address]):
    """An e-mail address."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return parse_address(value)
        except BadData as exc:
            self.fail(str(exc), param, ctx)


@click.command("send-test")
@click.option("--to", type=_AddressType(), required=True, help="The recipient's address.")
@click.option("--rule", help="Send this rule's message, rendered from a row as in preview.")
@click.option(
    "--key",
    help="Primary key of the row to render. Default: the matching row with the highest key. Requires --rule.",
)
@click.option("--person", help="Person of the row, of a rule with `each`. Default: the first one. Requires --key.")
@config_option
def send_test(to: Address, rule: str | None, key: str | None, person: str | None, config_file: Path | None) -> None:
    """Send one real message through the configured server, and print the server's reply.

    Without --rule it is a short test message, and no database is needed. Exit status 1: the message was not accepted. The
    error says at which step, and what to do.

    \b
    Example:  pgherald send-test --to me@example.org
              pgherald send-test --to me@example.org --rule dateplan_verified --key 4711
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule) if rule is not None else None
    if key is not None and watched is None:
        raise click.UsageError("--key requires --rule")
    require_each(watched, person, key)
    stored = stored_key(watched, key, hint="--key") if watched is not None and key is not None else None
    # The command prints the outcome itself, so the log would repeat it.
    logs.configure(loaded.log.format, "critical")
    if not RecipientPolicy(loaded.mail.allowed_recipients, loaded.mail.redirect_to).allows(to):
        raise PgheraldError(
            f"not sent: {to.masked} is not in [mail] allowed_recipients -> add it there, or remove allowed_recipients"
        )
    asyncio.run(_send_test(loaded, to, rule, stored, person))


async def _send_test(loaded: Settings, to: Address, rule: str | None, key: str | None, person: str | None) -> None:
    where = _where(loaded)
    if rule is None:
        message = preview.compose_test(loaded, to, where)
    else:
        message = (await sample.make(loaded, templates(loaded), rule, key, to, person)).message
    timeouts = {name: min(getattr(loaded.smtp, name), most) for name, most in _MAX_TIMEOUTS_S.items()}
    impatient = loaded.model_copy(update={"smtp": loaded.smtp.model_copy(update=timeouts)})
    mail = loaded.mail_of(rule) if rule is not None else loaded.mail
    write_line(f"from {mail.sender.address} to {message.recipient} through {where}")
    if message.recipient != to:
        write_line(f"not to {to}: [mail] redirect_to is set")
    reply = await preview.send(mail.return_path, transport(impatient, Breaker()), message)
    write_line(f"accepted: {reply}")


def _where(loaded: Settings) -> str:
    """Return where the message goes, in words."""
    mail, server = loaded.mail, loaded.smtp.server
    if mail.transport == "file":
        return f"the folder {mail.directory}"
    if mail.transport == "console":
        return "stdout"
    return f"{server.host}:{server.port}, {_SECURITY[server.security]}"
