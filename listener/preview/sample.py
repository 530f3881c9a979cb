"""One message of a rule, made from a row as the daemon would make it."""

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
from listener.db.state import BOUND_STATE, in_state
from listener.errors import BadData, PgheraldError
from listener.mail.composer import Composer, Message
from listener.mail.templates import Templates
from listener.message_id import make_message_id
from listener.outbox.event import Event
from listener.printable import printable
from listener.worker.decision import ToSend
from listener.worker.lookup import Lookup
from listener.worker.row_budget import MAX_ROW_BYTES

# Stands in for the recipient of a row that has none, or that would not be mailed.
_PLACEHOLDER_RECIPIENT = "nobody@example.org"
_MAX_SHOWN_PEOPLE = 10
_NOT_SENT = "this row's message would not be sent"


@dataclass(frozen=True, slots=True)
class RenderedSample:
    """The message of one row, and its translations."""

    key: str
    """the row's key as people write it"""
    message: Message
    translations: Mapping[str, Message]
    """by language, the message as other readers would get it; empty if the lookup returns no `language`"""
    note: str | None
    """why this row's message would not really be sent, or None"""


async def make(
    settings: Settings,
    templates: Templates,
    name: str,
    key: str | None,
    to: Address | None = None,
    person: str | None = None,
) -> RenderedSample:
    """Make the message of rule `name` for the row with this key.

    Without a key, take the row with the greatest key among those that match the rule. The recipient is the row's own,
    or `to`. Of a rule with `each`, take the row of `person`, or else of the first one.

    Raises:
        PgheraldError: There is no such row, or its message cannot be made.
    """
    rule = settings.rules[name]
    lookup = Lookup(name, rule, as_owner=True)
    pool = lookup_pool(settings.database.lookups)
    with translate_errors():
        async with await connect_async(settings.database.lookups) as conn, opened(pool):
            # A secret of its own, so that the link to unsubscribe works nowhere.
            composer = Composer(settings, templates, token_bytes(32))
            composer.check(name, await lookup.check(pool))
            if key is None:
                try:
                    key = await _greatest_key(conn, name, rule)
                except (psycopg.DataError, UnicodeDecodeError) as exc:
                    raise PgheraldError(
                        f"the greatest key of {rule.table} with {rule.state} cannot be read as text; "
                        "name another row with --key"
                    ) from exc
            try:
                found = await lookup.rows(pool, [key])
            except BadData as exc:
                raise PgheraldError(
                    f"the lookup of rule {name} fails for key {key}: {exc}; "
                    f"the key of {rule.table} is {await _key_types(conn, rule)}"
                ) from exc
    if rule.each:
        people = found.people.get(key, [])
        if person is not None and person not in people:
            shown = ", ".join(map(printable, people[:_MAX_SHOWN_PEOPLE])) or "nobody"
            raise PgheraldError(
                f"the lookup of rule {name} returns no person {person} for key {key}; it returns {shown}"
            )
        person = person if person is not None else next(iter(people), None)
    now = datetime.now(UTC)
    event = Event(0, name, key, 0, 0, now, 0.0, 0, False, None, person=person)
    if event.row_name in found.too_large:
        raise PgheraldError(
            f"the lookup's row for key {key} has {found.too_large[event.row_name]} octets; "
            f"at most {MAX_ROW_BYTES} are read; return less text from the lookup"
        )
    if not (rows := found.rows.get(event.row_name, [])):
        raise PgheraldError(f"the lookup of rule {name} finds no row for key {key}; name another row with --key")
    decision = lookup.decide(event, found)
    recipient, note = parse_address(_PLACEHOLDER_RECIPIENT), None
    if not isinstance(decision, ToSend):
        note = f"{_NOT_SENT}: {decision.reason}" + (f" ({decision.detail})" if decision.detail else "")
    else:
        recipient = decision.recipient
        if not composer.recipients.allows(recipient):
            note = f"{_NOT_SENT}: not_allowed"
    address = to or recipient
    # A secret that nobody knows: no provider takes the preview for the real message.
    message_id = make_message_id(token_bytes(32), name, 0, now)
    languages = templates.languages(rule.template) if "language" in rows[0] else []
    try:
        message = composer.compose(name, key, rows[0], address, message_id, now, person=person)
        translations = {
            language or "default": composer.compose(
                name, key, {**rows[0], "language": language}, address, message_id, now, person=person
            )
            for language in languages
        }
    except BadData as exc:
        raise PgheraldError(f"the message for key {key} cannot be made: {exc}") from exc
    return RenderedSample(show_key(rule, key), message, translations, note)


async def _key_types(conn: AsyncConnection[Any], rule: Rule) -> str:
    """Return the columns of the rule's key with their types, such as ``id bigint``."""
    types = keys.read_types(await (await conn.execute(keys.COLUMN_TYPES, keys.of(rule))).fetchall())
    return ", ".join(f"{column} {types[column].name if column in types else '(missing)'}" for column in rule.key)


async def _greatest_key(conn: AsyncConnection[Any], name: str, rule: Rule) -> str:
    """Return the greatest key among the rows that match the rule, in the form of the outbox."""
    types = keys.read_types(await (await conn.execute(keys.COLUMN_TYPES, keys.of(rule))).fetchall())
    bound = None
    if rule.when:
        bound = await (await conn.execute(BOUND_STATE, {"rule": name, "table": rule.table})).fetchone()
    query = sql.SQL("SELECT {} FROM {} AS t WHERE {} ORDER BY {} LIMIT 1").format(
        keys.key_text(rule, types),
        sql.SQL(rule.table),
        in_state(rule, types, *(bound or (None, None))),
        sql.SQL(", ").join(sql.SQL("t.{} DESC").format(sql.Identifier(column)) for column in rule.key),
    )
    async with conn.cursor() as cursor:
        await execute_as_owner(cursor, rule.table, query.as_string(conn).replace("%", "%%"))
        row = await cursor.fetchone()
    if row is None:
        raise PgheraldError(f"no row of {rule.table} has {rule.state}; name a row with --key")
    return str(row[0])
