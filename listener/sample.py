"""One message of a rule, made as the daemon makes it, for eyes only: its Message-ID and its link to unsubscribe are none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes

import psycopg
from psycopg import sql

from listener.address import Address, parse_address
from listener.bounded import ROW
from listener.composer import Composer, Message
from listener.config import Settings
from listener.database import connect_async, lookup_pool, opened, quoted, translated, verbatim
from listener.errors import BadData, PgheraldError
from listener.event import Event
from listener.lookup import Lookup, Mailing
from listener.message import message_key
from listener.render import Templates
from listener.rules import show_key

_NOBODY = "nobody@example.org"


@dataclass(frozen=True, slots=True)
class Sample:
    """`note` says why this row's mail would not really go out, if it would not.

    `translations`: by language, where the lookup names one, the message as another reader would get it.
    """

    key: str
    message: Message
    translations: Mapping[str, Message]
    note: str | None


async def make(
    settings: Settings, templates: Templates, name: str, key: str | None, to: Address | None = None
) -> Sample:
    """The message for the row of this key, or for one that is in the value; to its owner, or to `to`.

    Raises:
        PgheraldError: there is no such row, or its message cannot be made.
    """
    rule = settings.rules[name]
    lookup = Lookup(name, rule)
    pool = lookup_pool(settings.database.url)
    with translated():
        async with await connect_async(settings.database.url) as conn:
            composer = Composer(settings, templates, token_bytes(32))
            composer.check(name, await lookup.check(conn))
        async with opened(pool):
            if key is None:
                parts = [sql.SQL("{}::text").format(quoted(column)) for column in rule.key]
                text = parts[0] if len(parts) == 1 else sql.SQL("ARRAY[{}]::text").format(sql.SQL(", ").join(parts))
                query = sql.SQL("SELECT {} FROM {} WHERE {} = %s ORDER BY {} LIMIT 1").format(
                    text,
                    verbatim(rule.table),
                    quoted(rule.column),
                    sql.SQL(", ").join(sql.SQL("{} DESC").format(quoted(column)) for column in rule.key),
                )
                try:
                    async with pool.connection() as conn:
                        row = await (await conn.execute(query, (rule.becomes,))).fetchone()
                except (psycopg.DataError, UnicodeDecodeError) as exc:
                    raise PgheraldError(
                        f"the greatest key of {rule.table} that is {rule.becomes!r} cannot be read as text; name another with --key"
                    ) from exc
                if row is None:
                    raise PgheraldError(f"no row of {rule.table} is {rule.becomes!r}; name one with --key")
                key = row[0]
            try:
                found = await lookup.rows(pool, [key])
            except BadData as exc:
                raise PgheraldError(f"the lookup of rule {name} fails on key {key}: {exc}") from exc
    if key in found.too_large:
        raise PgheraldError(f"the lookup's row for key {key} has {found.too_large[key]} octets; at most {ROW} are read")
    if not (rows := found.rows[key]):
        raise PgheraldError(f"the lookup of rule {name} finds no row for key {key}")
    now = datetime.now(UTC)
    event = Event(0, name, key, 0, 0, now, 0.0, 0, False, None)
    verdict = lookup.judge(event, rows)
    note = None
    recipient = parse_address(_NOBODY)
    if isinstance(verdict, Mailing):
        recipient = verdict.recipient
        if not composer.guard.admits(recipient):
            note = "this row's mail would not go out: not_allowed"
    else:
        note = f"this row's mail would not go out: {verdict.reason}" + (
            f" ({verdict.detail})" if verdict.detail else ""
        )
    address, no_key = to or recipient, message_key(token_bytes(32), name, 0, now)
    languages = templates.languages(rule.template) if "language" in rows[0] else []
    try:
        message = composer.compose(name, key, rows[0], address, no_key, now)
        translations = {
            language or "default": composer.compose(name, key, {**rows[0], "language": language}, address, no_key, now)
            for language in languages
        }
    except BadData as exc:
        raise PgheraldError(f"the message for key {key} cannot be made: {exc}") from exc
    return Sample(show_key(rule, key), message, translations, note)
