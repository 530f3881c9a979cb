"""One-click unsubscribe (RFC 8058): the token in a mail's List-Unsubscribe, and what following it does.

A token is ``v1.PAYLOAD.SIGNATURE``, both in base64url without padding. PAYLOAD is the rule's name, a colon and the
row's key, in UTF-8; SIGNATURE the first 16 octets of HMAC-SHA256 over ``v1.PAYLOAD``, keyed with `signing_key`.
It never expires: an old mail's link must work too.
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
# More than any key needs, and less than what a header or a request may hold.
_MOST = 600


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a token is about: the row by whose mail it came, and so its owner."""

    rule: str
    key: str


def signing_key(secret: bytes) -> bytes:
    """For tokens only, so that an application which checks them itself can be given it, and forge nothing else."""
    return sha256(b"pgherald unsubscribe " + secret).hexdigest().encode("ascii")


def make_token(signing_key: bytes, subscription: Subscription) -> str | None:
    """The same for the same row, always. None where the key is too long for an address that is followed everywhere."""
    payload = _base64url(f"{subscription.rule}:{subscription.key}".encode())
    token = f"{_VERSION}.{payload}.{_signature(signing_key, payload)}"
    return token if len(token) <= _MOST else None


def read_token(signing_key: bytes, token: str) -> Subscription | None:
    """What it is about; None if it was not made here. Says nothing about whether there is such a row."""
    version, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if version != _VERSION:
        return None
    # As they are written, not as they decode: base64 has several spellings of the same octets.
    expected = _signature(signing_key, payload)
    if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode("ascii")):
        return None
    try:
        rule, _, key = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode().partition(":")
    except (binascii.Error, UnicodeError):
        return None
    return Subscription(rule, key)


def is_statement(rule: Rule) -> bool:
    return rule.unsubscribe not in ("", APPLICATION)


async def check(conn: psycopg.AsyncConnection[Any], name: str, rule: Rule) -> None:
    """Whether the rule's statement could be run, as this role; it is not. A CALL cannot be asked that.

    Raises:
        RuleBroken: it could not.
        DatabaseUnavailable: worth trying again.
    """
    if not is_statement(rule) or _CALL.match(rule.unsubscribe):
        return
    try:
        # Rights are looked at when a plan is about to be run, which EXPLAIN stops short of.
        async with conn.transaction():
            await conn.execute(POLICIES_APPLY)
            await conn.execute(f"EXPLAIN {_sql(rule)}", {"keys": []})
    except (psycopg.Error, OSError) as exc:
        raise _failure(name, exc) from exc


async def unsubscribe(pool: Pool, rules: Mapping[str, Rule], subscription: Subscription) -> None:
    """Run the rule's statement for the row. Done for a row that is gone, or unsubscribed already, as for any other.

    Raises:
        RuleBroken: the rule is not there any more, has no statement, or the statement fails.
        DatabaseUnavailable: worth trying again.
    """
    rule = rules.get(subscription.rule)
    if rule is None or not is_statement(rule):
        raise RuleBroken(f"[rules.{subscription.rule}] unsubscribe is no statement, and a mail's link asks for one")
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
        return DatabaseUnavailable(f"unsubscribing by rule {name} cannot run: {summary(exc)}")
    return RuleBroken(f"[rules.{name}] unsubscribe fails: {summary(exc)}")


def _signature(key: bytes, payload: str) -> str:
    return _base64url(hmac.digest(key, f"{_VERSION}.{payload}".encode("utf-8", "replace"), "sha256")[:16])


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")
