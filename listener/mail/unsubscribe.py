"""One-click unsubscribe (RFC 8058): the token in List-Unsubscribe, and the statement that it runs.

A token is ``v1.PAYLOAD.SIGNATURE``, both parts in base64url without padding (RFC 4648 5). PAYLOAD is the rule's name, a
colon and the row's key, in UTF-8. SIGNATURE is the first 16 bytes of HMAC-SHA256 (RFC 2104) over ``v1.PAYLOAD``, with
`signing_key` as its key. A token never expires, because the link of an old message must work too.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import psycopg

from listener.config.rules import APPLICATION, Rule
from listener.db.connection import POLICIES_APPLY
from listener.db.errors import is_unavailable, summary
from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, RuleBroken
from listener.logs import log

_VERSION = "v1"
_CALL = re.compile(r"\s*CALL\b", re.IGNORECASE)
# More than any usual key needs. With the URL before it, the token stays below the 900 characters that a header may have.
_MAX_TOKEN_CHARS = 600
# 128 bits cannot be guessed, and a shorter token breaks less often in mail programs.
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Subscription:
    """The subject of a token: the row whose message contained it, and through the row its owner."""

    rule: str
    key: str


def signing_key(secret: bytes) -> bytes:
    """Return the key for signing tokens, derived from the database's secret.

    An application that checks tokens itself can get this key. It cannot forge anything else with it.
    """
    return sha256(b"pgherald unsubscribe " + secret).hexdigest().encode("ascii")


def make_token(signing_key: bytes, subscription: Subscription) -> str | None:
    """Return the token, always the same for the same row. Return None if the key is too long for a URL."""
    payload = _base64url(f"{subscription.rule}:{subscription.key}".encode())
    token = f"{_VERSION}.{payload}.{_signature(signing_key, payload)}"
    return token if len(token) <= _MAX_TOKEN_CHARS else None


def read_token(signing_key: bytes, token: str) -> Subscription | None:
    """Return the subject of a token, or None if its signature is invalid. The row may not exist any more."""
    version, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if version != _VERSION:
        return None
    # Compare the texts and not the decoded bytes: base64 has several spellings of the same bytes.
    expected = _signature(signing_key, payload)
    if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode("ascii")):
        return None
    try:
        rule, _, key = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode().partition(":")
    except (binascii.Error, UnicodeError):
        return None
    return Subscription(rule, key)


def is_statement(rule: Rule) -> bool:
    """Return whether the rule unsubscribes by a statement of its own, and not through the application or not at all."""
    return rule.unsubscribe not in ("", APPLICATION)


async def check(conn: psycopg.AsyncConnection[Any], name: str, rule: Rule) -> None:
    """Check that this role could run the rule's statement, without running it. A CALL cannot be checked.

    Raises:
        RuleBroken: The statement is invalid, or the role lacks a right.
        DatabaseUnavailable: The check can be retried.
    """
    if not is_statement(rule) or _CALL.match(rule.unsubscribe):
        return
    try:
        # EXPLAIN checks the syntax, the names and the rights, and stops before it changes a row.
        async with conn.transaction():
            await conn.execute(POLICIES_APPLY)
            await conn.execute(f"EXPLAIN {_sql(rule)}", {"keys": []})
    except (psycopg.Error, OSError) as exc:
        raise _failure(name, exc) from exc


async def unsubscribe(pool: Pool, rules: Mapping[str, Rule], subscription: Subscription) -> None:
    """Run the rule's statement for the row. A row that is gone or already unsubscribed is no error.

    Raises:
        RuleBroken: The rule does not exist any more, has no statement, or the statement fails.
        DatabaseUnavailable: The request can be retried.
    """
    rule = rules.get(subscription.rule)
    if rule is None or not is_statement(rule):
        raise RuleBroken(
            f"[rules.{subscription.rule}] unsubscribe: must be a statement, because messages with a link to it were sent; "
            "restore it"
        )
    statement = f"-- name: unsubscribe {subscription.rule}\n{_sql(rule)}"
    try:
        async with pool.connection() as conn:
            cursor = await conn.execute(statement, {"keys": [subscription.key]})
    except (psycopg.Error, OSError, TimeoutError) as exc:
        raise _failure(subscription.rule, exc) from exc
    log.info("unsubscribed", rule=subscription.rule, key=subscription.key, rows=cursor.rowcount)


def _sql(rule: Rule) -> str:
    return rule.unsubscribe.strip().rstrip(";")


def _failure(name: str, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
    if is_unavailable(exc):
        return DatabaseUnavailable(f"the unsubscribe statement of rule {name} cannot run now: {summary(exc)}")
    return RuleBroken(f"[rules.{name}] unsubscribe fails: {summary(exc)}")


def _signature(key: bytes, payload: str) -> str:
    return _base64url(hmac.digest(key, f"{_VERSION}.{payload}".encode("utf-8", "replace"), "sha256")[:_SIGNATURE_BYTES])


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")
