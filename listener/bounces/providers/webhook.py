"""A request of a mail provider, and what the modules of the providers share."""

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from listener.bounces.report import BadReport
from listener.errors import PgheraldError

# A server's reply is at most 512 octets a line (RFC 5321 4.5.3.1.5). The whole of a long one helps nobody.
_MAX_TEXT_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Webhook:
    """One request. `headers` find their names in any case. Nothing in it can be trusted before the provider's check."""

    headers: Mapping[str, str]
    body: bytes


class Forged(BadReport):
    """A request without a proof that it comes from the provider and from our account there."""


class Unavailable(PgheraldError):
    """The request cannot be checked now. The provider should send it again."""


def parse(text: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        BadReport: The text is not JSON in UTF-8, is nested too deeply, or has an object with two keys of one name.
    """
    try:
        # Without `decode`, json would guess the encoding.
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise BadReport("the body is not valid JSON") from None


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Return the JSON object of a text. Raises `BadReport` as `parse` does."""
    return member({"": parse(text)}, "")


def member(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object that is a member of another one.

    Raises:
        BadReport: The member is missing or no object.
    """
    [value] = objects([parent.get(name)])
    return value


def objects(value: Any) -> list[dict[str, Any]]:
    """Return a JSON array of objects.

    Raises:
        BadReport: The value is no array, or has another element.
    """
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadReport("the body is JSON, but not an event of this provider")
    return value


def text_of(*values: object) -> str:
    """Return those of the values that are text, with spaces between them, cut at 1,000 characters."""
    return " ".join(value for value in values if isinstance(value, str) and value)[:_MAX_TEXT_CHARS]


def check_token(webhook: Webhook, token: str) -> None:
    """Check that `Authorization` has the token, as the password of Basic (RFC 7617) or as Bearer (RFC 6750).

    Raises:
        Forged: The header is missing or has another token.
    """
    scheme, _, credentials = webhook.headers.get("Authorization", "").partition(" ")
    given = credentials.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            given = b""
    elif scheme.lower() != "bearer":
        given = b""
    if not hmac.compare_digest(given, token.encode()):
        raise Forged("the header Authorization does not have the token; correct the URL of the webhook")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 8259 4: programs disagree about which of two equal names counts. A provider sends none.
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has two members of one name")
    return result
