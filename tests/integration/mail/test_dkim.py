"""A relay's DKIM signature over our message holds: the headers stand once each, and no byte changes on the way."""

from datetime import UTC, datetime

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from listener.address import parse_address, parse_mailbox
from listener.mail.message import Content, MessageDefaults, build
from listener.smtp.outcome import Accepted
from tests.support.client import KEY, SECURED, Security, connected, on_every_loop, send
from tests.support.smtpd import Smtpd

DATE = datetime(2026, 11, 22, 9, 5, 7, tzinfo=UTC)
SIGNED = (
    "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "List-Unsubscribe", "List-Unsubscribe-Post",
)  # fmt: skip
HEADERS = [name.lower().encode() for name in SIGNED]
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE = _KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
PUBLIC = b"".join(
    _KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .splitlines()[1:-1]
)


def signed(message: bytes) -> bytes:
    """As a relay does it: relaxed/simple, each header named once more than it is there, so that none can be added."""
    signature = dkim.sign(message, b"s1", b"plans.example", PRIVATE, include_headers=HEADERS + HEADERS)
    assert isinstance(signature, bytes)
    return signature + message


def verifies(message: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: b"v=DKIM1; k=rsa; p=" + PUBLIC))


def message(text: str) -> bytes:
    return build(
        MessageDefaults(parse_mailbox('"Plans, Date 🎉" <no-reply@plans.example>')),
        Content("Your DatePlan is now verified 🎉", text, f"<p>{text}</p>\n"),
        parse_address("jane@example.org"),
        KEY,
        DATE,
        unsubscribe=["https://plans.example/unsubscribe/abc", "mailto:stop@plans.example?subject=unsubscribe-abc"],
    )


TEXTS = ["Congratulations!\n", ".\n..\n.a\n \n\n", "x" * 200 + "\n.\n" + "é" * 100 + "\t\n", "a\n\n\n\n"]


@pytest.mark.parametrize("text", TEXTS)
@SECURED
@on_every_loop
async def test_a_signature_outlives_the_hand_over(security: Security, text: str) -> None:
    sent = signed(message(text))
    assert verifies(sent)
    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        assert isinstance(await send(connection, message=sent), Accepted)
        (received,) = smtpd.messages
        assert verifies(received.data)


@pytest.mark.parametrize("header", SIGNED)
def test_it_is_these_headers_that_are_signed(header: str) -> None:
    sent = signed(message("Congratulations!\n"))
    name = f"\r\n{header}: ".encode()
    assert sent.partition(b"\r\n\r\n")[0].count(name) == 1
    assert not verifies(sent.replace(name, name + b"x", 1))
    assert not verifies(sent.replace(name, name + b"x" + name, 1))
    assert not verifies(sent.replace(b"Congratulations", b"Congratulation"))
