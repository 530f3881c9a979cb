"""SendGrid: the signed event webhook, a batch of events in each request (twilio.com/docs/sendgrid, Event Webhook).

The proof is an ECDSA signature over the timestamp and the raw body. The same batch may come again, and that changes
nothing, so its age is not checked.
"""

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from listener.bounces.providers.webhook import Forged, Webhook, objects, parse, text_of
from listener.bounces.report import BounceClass, Report

_SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
_TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"
# The reasons of the event "dropped": SendGrid did not send the message. Others concern the content, a quota or a setting.
_DROPPED = {
    "bounced address": BounceClass.hard,
    "invalid": BounceClass.hard,
    "spam reporting address": BounceClass.complaint,
}


def read(webhook: Webhook, key: str) -> list[Report]:
    """Return the reports of a webhook: of its bounces, drops and complaints. `key` is the public key in base64.

    Raises:
        BadReport: The signature is not of this key, or the request cannot be read.
    """
    _check(webhook, key)
    return [
        Report(
            text_of(event.get("smtp-id")),
            kind,
            text_of(event.get("event"), event.get("type"), event.get("status"), event.get("reason")),
        )
        for event in objects(parse(webhook.body))
        if (kind := _class(event))
    ]


def _class(event: dict[str, object]) -> BounceClass | None:
    match event.get("event"):
        case "bounce":
            # The other types are "blocked", by a filter or a full mailbox, and "expired".
            return BounceClass.hard if event.get("type") == "bounce" else BounceClass.soft
        case "dropped":
            return _DROPPED.get(text_of(event.get("reason")).lower(), BounceClass.soft)
        case "spamreport":
            return BounceClass.complaint
        case _:
            return None


def _check(webhook: Webhook, key: str) -> None:
    public = load_der_public_key(base64.b64decode(key))
    assert isinstance(public, EllipticCurvePublicKey)
    timestamp = webhook.headers.get(_TIMESTAMP, "").encode("utf-8", "surrogateescape")
    try:
        signature = base64.b64decode(webhook.headers.get(_SIGNATURE, ""), validate=True)
        public.verify(signature, timestamp + webhook.body, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        raise Forged("the signature is not of [bounces] sendgrid_key; compare it with the verification key") from None
