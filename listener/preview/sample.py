"""One message of a rule, made as the daemon makes it, for eyes only: its Message-ID and its link to unsubscribe are none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from listener.address import Address, parse_address
from listener.config.keys import show_key
from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.db import keys
from listener.db.connection import connect_async
from listener.db.errors import translate_errors
from listener.db.owner import execute_as_owner
from listener.db.pools import lookup_pool, opened
from listener.errors import BadData, PgheraldError
from listener.mail.composer import Composer, Message
from listener.mail.message import message_id
from listener.mail.templates import Templates
from listener.outbox.event import Event
from listener.worker.lookup import Lookup, ToSend
from listener.worker.row_budget import MAX_ROW_BYTES

_NOBODY = "nobody@example.org"


@dataclass(frozen=True, slots=True)
class RenderedSample:
    """`note` says why this row's mail would not really go out, if it would not.

    `translations`: by language, where the lookup names one, the message as another reader would get it.
    """

    key: str
    message: Message
    translations: Mapping[str, Message]
    note: str | None


async def make(
    settings: Settings, templates: Templates, name: str, key: str | None, to: Address | None = None
) -> RenderedSample:
    """The message for the row of this key, or for one that is in the value; to its owner, or to `to`.

    Raises:
        PgheraldError: there is no such row, or its message cannot be made.
    """
    rule = settings.rules[name]
    lookup = Lookup(name, rule, as_owner=True)
    pool = lookup_pool(settings.database.lookups)
    with translate_errors():
        async with await connect_async(settings.database.lookups) as conn, opened(pool):
            composer = Composer(settings, templates, token_bytes(32))
            composer.check(name, await lookup.check(conn, pool))
            if key is None:
                try:
                    key = await _newest(conn, rule)
                except (psycopg.DataError, UnicodeDecodeError) as exc:
                    raise PgheraldError(
                        f"the greatest key of {rule.table} that is {rule.becomes!r} cannot be read as text; name another with --key"
                    ) from exc
            try:
                found = await lookup.rows(pool, [key])
            except BadData as exc:
                raise PgheraldError(f"the lookup of rule {name} fails on key {key}: {exc}") from exc
    if key in found.too_large:
        raise PgheraldError(
            f"the lookup's row for key {key} has {found.too_large[key]} octets; at most {MAX_ROW_BYTES} are read"
        )
    if not (rows := found.rows[key]):
        raise PgheraldError(f"the lookup of rule {name} finds no row for key {key}")
    now = datetime.now(UTC)
    event = Event(0, name, key, 0, 0, now, 0.0, 0, False, None)
    verdict = lookup.decide(event, rows)
    note = None
    recipient = parse_address(_NOBODY)
    if isinstance(verdict, ToSend):
        recipient = verdict.recipient
        if not composer.recipients.allows(recipient):
            note = "this row's mail would not go out: not_allowed"
    else:
        note = f"this row's mail would not go out: {verdict.reason}" + (
            f" ({verdict.detail})" if verdict.detail else ""
        )
    address, no_key = to or recipient, message_id(token_bytes(32), name, 0, now)
    languages = templates.languages(rule.template) if "language" in rows[0] else []
    try:
        message = composer.compose(name, key, rows[0], address, no_key, now)
        translations = {
            language or "default": composer.compose(name, key, {**rows[0], "language": language}, address, no_key, now)
            for language in languages
        }
    except BadData as exc:
        raise PgheraldError(f"the message for key {key} cannot be made: {exc}") from exc
    return RenderedSample(show_key(rule, key), message, translations, note)


async def _newest(conn: AsyncConnection[Any], rule: Rule) -> str:
    types = dict(await (await conn.execute(keys.COLUMN_TYPES, keys.of(rule))).fetchall())
    query = sql.SQL("SELECT {} FROM {} AS t WHERE {} = {} ORDER BY {} LIMIT 1").format(
        keys.key_text(rule, types),
        sql.SQL(rule.table),
        keys.typed(rule.column, types),
        keys.literal(rule.becomes, rule.column, types),
        sql.SQL(", ").join(sql.SQL("t.{} DESC").format(sql.Identifier(column)) for column in rule.key),
    )
    async with conn.cursor() as cursor:
        await execute_as_owner(cursor, rule.table, query.as_string(conn).replace("%", "%%"))
        row = await cursor.fetchone()
    if row is None:
        raise PgheraldError(f"no row of {rule.table} is {rule.becomes!r}; name one with --key")
    return str(row[0])
