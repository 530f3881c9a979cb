"""One-click unsubscribe (RFC 8058): the token in List-Unsubscribe, and the statement that it runs.

A token is ``v1PAYLOAD0SIGNATURE``, both parts in base32 without padding (RFC 4648 6), in lower case. PAYLOAD is the rule's
name, the reader's language, the person and the row's key, with colons between them, in UTF-8. The person is empty in a
rule without `each`, and percent-encoded (RFC 3986 2.1), so that it contains no colon. SIGNATURE is the first 16 bytes of
HMAC-SHA256 (RFC 2104) over ``v1PAYLOAD``, with `signing_key` as its key. A token never expires, because the link of an old
message must work too.

Links are damaged on their way: mail programs wrap them, readers copy the dot behind them, gateways change their case.
Letters and digits of one case survive that, and the fixed length of the signature shows where the token ends.
"""

import base64
import hmac
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote, unquote

from listener.config.rules import Rule
from listener.db.pool import Pool
from listener.db.statement import unsubscribe_of
from listener.errors import RuleBroken
from listener.logs import log

_VERSION = "v1"
# More than any usual key needs. With the URL before it, the token stays below the 900 characters that a header may have.
_MAX_TOKEN_CHARS = 600
# 128 bits cannot be guessed, and a shorter token breaks less often in mail programs. They are 26 characters in base32.
_SIGNATURE_BYTES = 16
_TOKEN = re.compile("(v1[a-z2-7]+)0([a-z2-7]{26})")
# Damage makes a token longer, by the marks of a quotation in each of its lines. The parameters of a tracker may follow.
# The rest is not read, so that junk costs little.
_MAX_DAMAGED_CHARS = 2 * _MAX_TOKEN_CHARS
_NOT_OF_TOKEN = re.compile("[^a-z0-9]+")
_QUOTED_PRINTABLE = re.compile("=([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Subscription:
    """The subject of a token: the row whose message contained it, and through the row its owner, or the person."""

    rule: str
    key: str
    language: str = ""
    """the reader's language, as `language.tag_of` returns it"""
    person: str = ""
    """the person whom a rule with `each` has told"""


def signing_key(secret: bytes) -> bytes:
    """Return the key for signing tokens, derived from the database's secret.

    An application that checks tokens itself can get this key. It cannot forge anything else with it.
    """
    return sha256(b"pgherald unsubscribe " + secret).hexdigest().encode("ascii")


def make_token(signing_key: bytes, subscription: Subscription) -> str | None:
    """Return the token, always the same for the same subject. Return None if the key is too long for a URL."""
    parts = subscription.rule, subscription.language, quote(subscription.person, safe=""), subscription.key
    signed = _VERSION + _base32(":".join(parts).encode())
    token = f"{signed}0{_signature(signing_key, signed)}"
    return token if len(token) <= _MAX_TOKEN_CHARS else None


def read_token(signing_key: bytes, text: str) -> Subscription | None:
    """Return the subject of the token in a text, repairing damage to it. Return None if no signature is valid.

    The row may not exist any more.
    """
    text = html.unescape(unquote(text[:_MAX_DAMAGED_CHARS]))
    # An = before two hexadecimal digits is an escape of quoted-printable (RFC 2045 6.7), or a line end behind which the
    # token goes on. Only the signature tells.
    for spelling in dict.fromkeys((text, _QUOTED_PRINTABLE.sub(lambda octet: chr(int(octet[1], 16)), text))):
        found = _TOKEN.search(_NOT_OF_TOKEN.sub("", spelling.lower()))
        if found is not None and hmac.compare_digest(found[2], _signature(signing_key, found[1])):
            payload = found[1].removeprefix(_VERSION).upper()
            rule, language, person, key = base64.b32decode(payload + "=" * (-len(payload) % 8)).decode().split(":", 3)
            return Subscription(rule, key, language, unquote(person))
    return None


async def unsubscribe(pool: Pool, rules: Mapping[str, Rule], subscription: Subscription) -> None:
    """Run the rule's statement for the row. A row that is gone or already unsubscribed is no error.

    Raises:
        RuleBroken: The rule does not exist any more, has no statement, or the statement fails.
        DatabaseUnavailable: The request can be retried.
    """
    rule = rules.get(subscription.rule)
    statement = unsubscribe_of(subscription.rule, rule) if rule is not None else None
    if statement is None:
        raise RuleBroken(
            f"[rules.{subscription.rule}] unsubscribe: must be a statement, because messages with a link to it were sent; "
            "restore it"
        )
    if rule is not None and bool(rule.each) != bool(subscription.person):
        # The statement would take the row's owner for the person, or nobody.
        raise RuleBroken(
            f"[rules.{subscription.rule}] each: the link is from before it was set or removed; unsubscribe its reader by hand"
        )
    person = {"person": subscription.person} if subscription.person else {}
    rows = await statement.run(pool, subscription.key, person)
    log.info("unsubscribed", rule=subscription.rule, key=subscription.key, **person, rows=rows)


def _signature(key: bytes, signed: str) -> str:
    return _base32(hmac.digest(key, signed.encode("ascii"), "sha256")[:_SIGNATURE_BYTES])


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode("ascii").rstrip("=").lower()
