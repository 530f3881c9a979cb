"""preview, send-test: the mail itself, for eyes and for the server."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from listener import logs
from listener.address import Address, parse_address
from listener.cli.options import configured, settings, the_rule
from listener.cli.output import write_line, write_lines
from listener.config.keys import parse_key
from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.errors import BadData, PgheraldError
from listener.files import folder, put
from listener.mail.composer import templates
from listener.preview import page as gallery
from listener.preview import sample
from listener.preview import send_test as trial
from listener.recipients import RecipientPolicy
from listener.smtp.breaker import Breaker
from listener.transport.build import transport

# Seconds. Somebody waits for the answer; a daemon has more time.
_PATIENCE = {"connect_timeout": 10.0, "command_timeout": 30.0, "data_timeout": 30.0, "dot_timeout": 60.0}


@click.command()
@click.argument("rule")
@click.option("--key", help="Of the row to show; else the one with the greatest key that is in the value.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write RULE.eml, .html and .txt into this folder, and index.html, which shows them side by side.",
)
@configured
def preview(rule: str, key: str | None, out: Path | None, config_file: Path | None) -> None:
    """Show the message as it would be sent. No mail goes out, and nothing is written to the database.

    Where the lookup names a language, --out writes every translation too. The files are for you alone, and no link in
    FOLDER is followed.

    \b
    Example:  pgherald preview dateplan_verified --key 4711 --out /tmp/mail
    """
    loaded = settings(config_file)
    watched = the_rule(loaded, rule)
    shown = asyncio.run(sample.make(loaded, templates(loaded), rule, _stored(watched, key)))
    if shown.note:
        write_line(f"note: {shown.note}", err=True)
    if out is None:
        read = gallery.read(shown.message)
        write_line(f"To: {shown.message.recipient}")
        write_line(f"Subject: {read.subject}")
        write_lines(f"\n{read.text}")
        return
    for file in _written(out, dict(_files(rule, shown))):
        write_line(file)


def _written(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    try:
        with folder(out) as descriptor:
            for name, data in files.items():
                put(descriptor, name, data)
    except OSError as exc:
        raise PgheraldError(f"{out / (exc.filename or '')}: {exc.strerror or exc}") from exc
    return [out / name for name in files]


def _files(rule: str, shown: sample.RenderedSample) -> Iterator[tuple[str, bytes]]:
    translations = {name: message for name, message in shown.translations.items() if name != "default"}
    for name, message in {"": shown.message, **translations}.items():
        stem = f"{rule}.{name}" if name else rule
        read = gallery.read(message)
        yield f"{stem}.eml", message.octets
        yield f"{stem}.txt", read.text.encode()
        if read.html is not None:
            yield f"{stem}.html", read.html.encode()
    yield "index.html", gallery.page(rule, shown.key, {"as sent": shown.message, **shown.translations}).encode()


class _AddressType(click.ParamType[Address]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return parse_address(value)
        except BadData as exc:
            self.fail(str(exc), param, ctx)


@click.command("send-test")
@click.option("--to", type=_AddressType(), required=True, help="Who gets it.")
@click.option("--rule", help="Send this rule's own message, made of a row as preview does.")
@click.option("--key", help="Of the row to make it of; with --rule.")
@configured
def send_test(to: Address, rule: str | None, key: str | None, config_file: Path | None) -> None:
    """Send one real message through the configured server, and print what the server says.

    Without --rule it is a short message that says what it is, and no database is needed. Exit status 1: it was not
    accepted; says where that failed, and what to do.

    \b
    Example:  pgherald send-test --to me@example.org
              pgherald send-test --to me@example.org --rule dateplan_verified --key 4711
    """
    loaded = settings(config_file)
    watched = the_rule(loaded, rule) if rule is not None else None
    if key is not None and watched is None:
        raise click.UsageError("--key goes with --rule")
    stored = _stored(watched, key) if watched is not None else None
    # What the log would say, the answer does.
    logs.configure(loaded.log.format, "critical")
    if not RecipientPolicy(loaded.mail.allowed_recipients, loaded.mail.redirect_to).allows(to):
        raise PgheraldError(f"not sent: {to.masked} is not in [mail] allow -> add it there, or take allow out")
    asyncio.run(_send_test(loaded, to, rule, stored))


async def _send_test(loaded: Settings, to: Address, rule: str | None, key: str | None) -> None:
    where = _where(loaded)
    if rule is None:
        message = trial.compose_test(loaded, to, where)
    else:
        message = (await sample.make(loaded, templates(loaded), rule, key, to)).message
    patient = {name: min(getattr(loaded.smtp, name), most) for name, most in _PATIENCE.items()}
    hasty = loaded.model_copy(update={"smtp": loaded.smtp.model_copy(update=patient)})
    write_line(f"from {loaded.mail.sender.address} to {message.recipient} through {where}")
    if message.recipient != to:
        write_line(f"not to {to}: [mail] redirect_to is set")
    reply = await trial.send(loaded, transport(hasty, Breaker()), message)
    write_line(f"accepted: {reply}")


def _where(loaded: Settings) -> str:
    mail, server = loaded.mail, loaded.smtp.server
    if mail.transport == "file":
        return f"the folder {mail.directory}"
    if mail.transport == "console":
        return "stdout"
    secured = {"off": "in clear", "starttls": "STARTTLS", "tls": "TLS"}[server.security]
    return f"{server.host}:{server.port}, {secured}"


def _stored(rule: Rule, key: str | None) -> str | None:
    """The key as the outbox holds it."""
    try:
        return parse_key(rule, key) if key is not None else None
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--key") from exc
