"""Amazon SNS over HTTPS: the signature of a message, its certificate, and the confirmation of a subscription.

No request leaves for a host that a message names. The host follows from the configured topic, and the certificate's URL must
be exactly there. TLS proves that Amazon answers. A message of another topic is refused before anything is fetched.
(docs.aws.amazon.com/sns, Verifying the signatures of Amazon SNS messages)
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate

from listener import https
from listener.bounces.providers.webhook import Forged, Unavailable, parse_object
from listener.bounces.report import BadReport
from listener.logs import log

Fetch = Callable[[str], bytes]
"""Return the body at an https URL, from a thread. Raises `OSError`."""

_TIMEOUT_S = 5.0
# A certificate has about 2 KiB, and the answer to a confirmation less.
_MAX_ANSWER_BYTES = 65_536
# Amazon has one certificate at a time, and a new one each year.
_MAX_CERTIFICATES = 4
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# The signed members of each type, in the order in which they are signed. A missing `Subject` is left out.
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}
_HASHES = {"1": SHA1, "2": SHA256}
_TOKEN = re.compile(r"[0-9A-Za-z]{1,1024}")


class Sns:
    """The messages of one topic. It keeps the certificates, and is to be used by one thread at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, RSAPublicKey] = {}

    def read(self, body: bytes, topic: str) -> str | None:
        """Return the text that was published. Confirm a subscription, and return None for it.

        Raises:
            BadReport: The message is of another topic, is not signed by SNS, or cannot be read.
            Unavailable: Amazon cannot be reached.
        """
        message = parse_object(body)
        # First of all: a stranger's topic is signed by Amazon as well, and must not make us fetch anything.
        if message.get("TopicArn") != topic:
            raise Forged("the message is not of [bounces] ses_topic; correct the subscription or the setting")
        self._check(message, _host(topic))
        match message["Type"]:
            case "Notification":
                return str(message["Message"])
            case "SubscriptionConfirmation":
                self._confirm(message, topic)
            case _:
                log.warning("sns_unsubscribed", remedy="if this was a mistake, subscribe the topic again")
        return None

    def _check(self, message: dict[str, Any], host: str) -> None:
        signed = _canonical(message)
        algorithm = _HASHES.get(str(message.get("SignatureVersion")))
        if algorithm is None:
            raise BadReport("the signature version of the message is unknown; look for a newer pgherald")
        key = self._key(str(message.get("SigningCertURL")), host)
        try:
            signature = base64.b64decode(str(message.get("Signature")), validate=True)
            key.verify(signature, signed, PKCS1v15(), algorithm())
        except (InvalidSignature, binascii.Error, ValueError):
            raise Forged("the message is not signed by Amazon SNS") from None

    def _key(self, url: str, host: str) -> RSAPublicKey:
        if url in self._keys:
            return self._keys[url]
        if not re.fullmatch(rf"https://{re.escape(host)}/SimpleNotificationService-[0-9A-Za-z]{{1,64}}\.pem", url):
            raise Forged("the certificate of the message is not at Amazon SNS")
        try:
            key = load_pem_x509_certificate(self._get(url)).public_key()
        except ValueError:
            raise Unavailable(f"{host}: the certificate cannot be read") from None
        if not isinstance(key, RSAPublicKey):
            raise Unavailable(f"{host}: the certificate has no RSA key")
        while len(self._keys) >= _MAX_CERTIFICATES:
            del self._keys[next(iter(self._keys))]
        self._keys[url] = key
        return key

    def _confirm(self, message: dict[str, Any], topic: str) -> None:
        token = str(message["Token"])
        if not _TOKEN.fullmatch(token):
            raise BadReport("the confirmation has no valid token")
        # The same as `SubscribeURL`, but no part of it comes from outside except the token.
        query = urlencode({"Action": "ConfirmSubscription", "TopicArn": topic, "Token": token})
        self._get(f"https://{_host(topic)}/?{query}")
        log.info("sns_subscribed", topic=topic)

    def _get(self, url: str) -> bytes:
        try:
            return self._fetch(url)
        except OSError as exc:
            raise Unavailable(f"{url.split('/')[2]}: cannot be reached: {type(exc).__name__}") from None


def _host(topic: str) -> str:
    """Return the host of SNS in the region of a topic; ``arn:PARTITION:sns:REGION:ACCOUNT:NAME``."""
    _, partition, _, region, *_ = topic.split(":")
    return f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")


def _canonical(message: dict[str, Any]) -> bytes:
    names = _SIGNED.get(str(message.get("Type")))
    if names is None:
        raise BadReport("the body is JSON, but not a message of Amazon SNS")
    lines = []
    for name in names:
        value = message.get(name)
        if name == "Subject" and value is None:
            continue
        if not isinstance(value, str):
            raise BadReport("the body is JSON, but not a message of Amazon SNS")
        lines += [name, value]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def fetch(url: str) -> bytes:
    """Return the body at a URL, within seconds and without redirects.

    Raises:
        OSError: There is no answer, or another one than 200.
    """
    status, body = https.fetch(url, timeout=_TIMEOUT_S, max_bytes=_MAX_ANSWER_BYTES + 1)
    if status != 200 or len(body) > _MAX_ANSWER_BYTES:
        raise OSError("an unexpected answer")
    return body
