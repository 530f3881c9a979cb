"""Mailgun: the webhooks "Permanent failure" and "Spam complaints" (documentation.mailgun.com, Webhooks).

The body contains its proof: HMAC-SHA256 over `timestamp` and `token`, with the account's HTTP webhook signing key. It does
not cover the event. Somebody who has seen one signature could use it for an event of their own. So a signature is refused
12 hours after it was made. Mailgun repeats a webhook for 8 hours.

A temporary failure is no report, because Mailgun goes on trying. If it gives up, it reports a permanent one.
"""

import hmac
import re
import time
from collections.abc import Callable

from listener.bounces.providers.webhook import Forged, Webhook, member, parse_object, text_of
from listener.bounces.report import BounceClass, Report

_MAX_AGE_S = 12 * 3600
# The clocks of two hosts may differ.
_MAX_AHEAD_S = 300
# The reasons of a permanent failure. `old` and the other ones say nothing about the address.
_CLASSES = {
    "bounce": BounceClass.hard,
    "suppress-bounce": BounceClass.hard,
    "suppress-complaint": BounceClass.complaint,
}


def read(webhook: Webhook, key: str, clock: Callable[[], float] = time.time) -> list[Report]:
    """Return the report of a webhook, if it is a permanent failure or a complaint. `clock` returns Unix time.

    Raises:
        BadReport: The signature is not of this key, is too old, or the request cannot be read.
    """
    body = parse_object(webhook.body)
    _check(member(body, "signature"), key, clock())
    event = member(body, "event-data")
    reason = text_of(event.get("reason"))
    match event.get("event"), event.get("severity"):
        case "failed", "permanent":
            kind = _CLASSES.get(reason, BounceClass.soft)
        case "complained", _:
            kind = BounceClass.complaint
        case _:
            return []
    status = event.get("delivery-status")
    said = (status.get("message"), status.get("description")) if isinstance(status, dict) else ()
    name = member(member(event, "message"), "headers").get("message-id")
    return [Report(text_of(name), kind, text_of(event.get("event"), reason, *said))]


def _check(proof: dict[str, object], key: str, now: float) -> None:
    # The timestamp is text in some webhooks and a number in others.
    timestamp, token, signature = str(proof.get("timestamp")), str(proof.get("token")), str(proof.get("signature"))
    made = hmac.digest(key.encode(), f"{timestamp}{token}".encode("utf-8", "replace"), "sha256").hex()
    if not hmac.compare_digest(made.encode(), signature.encode("utf-8", "replace")):
        raise Forged("the signature is not of [bounces] mailgun_key; compare it with the HTTP webhook signing key")
    if not re.fullmatch("[0-9]{1,12}", timestamp) or not -_MAX_AHEAD_S <= now - int(timestamp) <= _MAX_AGE_S:
        raise Forged("the signature is too old; if no webhook is accepted, correct the clock of this host")
