"""A relay's DKIM signature holds over the message as sent, with the headers that RFC 8058 names."""

import base64
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from listener.config.rules import default_rules
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
SIGNED = (
    "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "List-Unsubscribe",
    "List-Unsubscribe-Post", "Feedback-ID", "Auto-Submitted", "Reply-To", "X-MSYS-API",
)  # fmt: skip
PLACES = (
    "Café Zürich",
    "x\r\nBcc: evil@example.org\r\n\r\n.\r\n",
    "=?utf-8?q?x=0d=0aBcc=3a_evil?=",
    ".\n..\n. ",
    "寿司 🎉 " * 200,
    "blanks at the end   ",
)


class Signer:
    """A relay's: RSA-SHA256, relaxed/relaxed, as OpenDKIM does by default."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)

    def sign(self, message: bytes) -> bytes:
        names = [name.encode() for name in SIGNED]
        signature: bytes = dkim.sign(
            message,
            b"herald",
            b"example.org",
            self._private,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=names,
        )
        return signature + message

    def verifies(self, message: bytes) -> bool:
        return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: self._record))


@pytest.mark.slow
@pytest.mark.parametrize("fraud", [False, True], ids=["untouched", "tampered with"])
def test_a_relays_signature_covers_what_was_sent(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, fraud: bool
) -> None:
    rule = default_rules()[RULE]
    (tmp_path / "pgherald.toml").write_text(
        f'''
[mail]
reply_to = ["Help <help@example.org>", "office@example.org"]
[mail.headers]
Feedback-ID = "verified:plans:pgherald:example"
X-MSYS-API = '{{"campaign_id": "plans",  "options": {{"open_tracking": false, "click_tracking": false}}}}'
[http]
public_url = "https://mail.example.org"
[rules.{RULE}]
table = "{rule.table}"
becomes = "{rule.becomes[0]}"
template = "{rule.template}"
unsubscribe = "application"
lookup = """{rule.lookup.replace(", p.place", ", p.place, p.place AS from_name")}"""
''',
        encoding="utf-8",
    )
    database.verify(*(database.add_plan(place, f"a{number}@example.org") for number, place in enumerate(PLACES)))
    pgherald("run", "--once", env={"PGHERALD_CONFIG": str(tmp_path / "pgherald.toml")}, check=True)
    signer = Signer()
    for received in mail.wait_for(len(PLACES)):
        parsed = received.email
        assert [part.defects for part in parsed.walk()] == [[], [], []]
        assert not [value for _, value in parsed.items() if value.defects]
        assert all(len(parsed.get_all(name, [])) == 1 for name in SIGNED)
        signed = signer.sign(received.data)
        if not fraud:
            assert signer.verifies(signed)
            continue
        for before, after in (
            (b"/unsubscribe/v1", b"/unsubscribe/v2"),
            (b"One-Click", b"One-click"),
            (b"Help <help@", b"Help <self@"),
            (b"Congratulations", b"Commiserations"),
        ):
            assert before in signed
            assert not signer.verifies(signed.replace(before, after, 1))
