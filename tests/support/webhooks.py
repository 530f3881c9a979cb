"""Webhooks of mail providers, as the providers' documentation shows them, signed with keys of the tests."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from multidict import CIMultiDict

from listener.bounces.providers.webhook import Webhook

# A key of the form of ours. No database has it.
KEY = "abcdefghijklmnopqrstuvwxyz"
MESSAGE_ID = f"<{KEY}@example.org>"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:bounces"
SNS = "https://sns.eu-west-1.amazonaws.com"
CERTIFICATE = f"{SNS}/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
TOKEN = "correct-horse-battery"
MAILGUN_KEY = "0123456789abcdef0123456789abcdef"


def webhook(body: object, **headers: str) -> Webhook:
    """Return a request; `body` is bytes, or made JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Webhook(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), raw)


def basic(password: str = TOKEN) -> str:
    return "Basic " + base64.b64encode(f"pgherald:{password}".encode()).decode()


@cache
def _rsa() -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    return key, made.sign(key, SHA256()).public_bytes(Encoding.PEM)


def rsa_public_key() -> str:
    public = _rsa()[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(public).decode()


@dataclass
class FakeAmazon:
    """Stands in for `sns.fetch`: has the certificate, and notes what is fetched."""

    fetched: list[str] = field(default_factory=list)
    error: OSError | None = None

    def __call__(self, url: str) -> bytes:
        self.fetched.append(url)
        if self.error is not None:
            raise self.error
        return _rsa()[1] if url.endswith(".pem") else b"<ConfirmSubscriptionResponse/>"


def sns(message: object = "", *, sign: bool = True, version: str = "1", **members: Any) -> dict[str, Any]:
    """Return a message of SNS, signed. `message` is the text, or made JSON."""
    text = message if isinstance(message, str) else json.dumps(message)
    sent: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": text,
        "Timestamp": "2026-05-02T00:54:06.655Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        "UnsubscribeURL": f"{SNS}/?Action=Unsubscribe",
        **members,
    }
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    signed = "".join(f"{name}\n{sent[name]}\n" for name in names if sent.get(name) is not None)
    algorithm = SHA1() if version == "1" else SHA256()
    signature = _rsa()[0].sign(signed.encode(), PKCS1v15(), algorithm) if sign else b"x" * 256
    return sent | {"Signature": base64.b64encode(signature).decode()}


def confirmation(**members: Any) -> dict[str, Any]:
    token = "2336412f37fb687f5d51e6e2425a8a587"
    url = f"{SNS}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token={token}"
    return sns(
        "You have chosen to subscribe", **{"Type": "SubscriptionConfirmation", "Token": token, "SubscribeURL": url, **members}
    )  # fmt: skip


def ses(kind: str = "Bounce", message_id: str = MESSAGE_ID, **about: Any) -> dict[str, Any]:
    """Return a notification of SES with the original headers; `about` are members of its `bounce` or `complaint`."""
    details = {
        "Bounce": {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [
                {"emailAddress": "jane@example.com", "status": "5.1.1", "action": "failed",
                 "diagnosticCode": "smtp; 550 5.1.1 <jane@example.com>... User unknown"}
            ],
        },
        "Complaint": {"complainedRecipients": [{"emailAddress": "jane@example.com"}], "complaintFeedbackType": "abuse"},
    }.get(kind, {})  # fmt: skip
    return {
        "notificationType": kind,
        kind.lower(): {**details, "timestamp": "2026-01-27T14:59:38.237Z", "feedbackId": "0138111222aa-33322211", **about},
        "mail": {
            "timestamp": "2026-01-27T14:59:38.237Z",
            "source": "john@example.com",
            "messageId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa0680-000000",
            "destination": ["jane@example.com"],
            "headersTruncated": False,
            "headers": [
                {"name": "From", "value": '"John Doe" <john@example.com>'},
                {"name": "Subject", "value": "Hello"},
                {"name": "Message-ID", "value": message_id},
            ],
            "commonHeaders": {"from": ["John Doe <john@example.com>"], "messageId": message_id, "subject": "Hello"},
        },
    }  # fmt: skip


def postmark(kind: str = "HardBounce", key: str = KEY, **members: Any) -> dict[str, Any]:
    return {
        "RecordType": "SpamComplaint" if kind == "SpamComplaint" else "Bounce",
        "MessageStream": "outbound",
        "ID": 42,
        "Type": kind,
        "TypeCode": 1,
        "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483",
        "Metadata": {"pgherald-key": key},
        "Description": "The server was unable to deliver your message.",
        "Details": "smtp;550 5.1.1 The email account that you tried to reach does not exist",
        "Email": "jane@example.com",
        "From": "john@example.com",
        "BouncedAt": "2026-11-05T16:33:54.9070259Z",
        "Inactive": True,
        **members,
    }


def sendgrid(event: str = "bounce", message_id: str = MESSAGE_ID, **members: Any) -> dict[str, Any]:
    return {
        "email": "jane@example.com",
        "timestamp": 1513299569,
        "smtp-id": message_id,
        "event": event,
        "category": "cat facts",
        "sg_event_id": "6g4ZI7SA-xmRDv57GoPIPw==",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        **({"type": "bounce", "reason": "500 unknown recipient", "status": "5.0.0"} if event == "bounce" else {}),
        **members,
    }


@cache
def _ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sendgrid_key() -> str:
    """Return the public key as SendGrid shows it."""
    public = _ec().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(public).decode()


def sendgrid_headers(body: bytes, timestamp: str = "1600112502") -> dict[str, str]:
    signature = base64.b64encode(_ec().sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    return {
        "X-Twilio-Email-Event-Webhook-Signature": signature,
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


def mailgun(
    event: str = "failed", message_id: str = MESSAGE_ID, *, key: str = MAILGUN_KEY, at: float | None = None, **members: Any
) -> dict[str, Any]:  # fmt: skip
    """Return a webhook of Mailgun, signed at a Unix time; `members` are of its `event-data`."""
    timestamp, token = str(int(time.time() if at is None else at)), "e0b5477167110d68991efc6b9f89f0a11066af27834600e123"
    return {
        "signature": {
            "timestamp": timestamp,
            "token": token,
            "signature": hmac.digest(key.encode(), f"{timestamp}{token}".encode(), "sha256").hex(),
        },
        "event-data": {
            "id": "G9Bn5sl1TC6nu79C8C0bwg",
            "timestamp": 1521233195.375624,
            "event": event,
            "recipient": "jane@example.com",
            "message": {
                "headers": {"to": "jane@example.com", "message-id": message_id.strip("<>"), "subject": "Hello"},
                "size": 111,
            },
            **({"severity": "permanent", "reason": "bounce"} if event == "failed" else {}),
            "delivery-status": {"attempt-no": 1, "code": 550, "message": "5.1.1 no such user", "description": ""},
            **members,
        },
    }


def brevo(event: str = "hard_bounce", key: str = KEY, **members: Any) -> dict[str, Any]:
    return {
        "event": event,
        "email": "jane@example.com",
        "id": 26224,
        "date": "2026-10-09 00:00:00",
        "ts": 1604933619,
        "message-id": "<201798300811.5787683@smtp-relay.sendinblue.com>",
        "ts_event": 1604933654,
        "subject": "Hello",
        "X-Mailin-custom": key,
        "sending_ip": "192.0.2.1",
        "reason": "550 5.1.1 no such user",
        **members,
    }


@dataclass(frozen=True)
class Sent:
    """A request to one provider's URL. `make` returns body and headers of a hard bounce of the message with a key."""

    setting: tuple[str, str]
    make: Callable[[str], tuple[bytes, Mapping[str, str]]]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _sendgrid(key: str) -> tuple[bytes, Mapping[str, str]]:
    body = _json([sendgrid("delivered"), sendgrid(message_id=f"<{key}@example.org>")])
    return body, sendgrid_headers(body)


def hard_bounces() -> Mapping[str, Sent]:
    """Return a hard bounce of each provider, by its name."""
    return {
        "ses": Sent(("ses_topic", TOPIC), lambda key: (_json(sns(ses(message_id=f"<{key}@example.org>"))), {})),
        "postmark": Sent(("postmark_token", TOKEN), lambda key: (_json(postmark(key=key)), {"Authorization": basic()})),
        "sendgrid": Sent(("sendgrid_key", sendgrid_key()), _sendgrid),
        "mailgun": Sent(
            ("mailgun_key", MAILGUN_KEY), lambda key: (_json(mailgun(message_id=f"<{key}@example.org>")), {})
        ),
        "brevo": Sent(
            ("brevo_token", TOKEN), lambda key: (_json(brevo(key=key)), {"Authorization": f"Bearer {TOKEN}"})
        ),
    }
