"""What the sections say of their settings together."""

import pytest

from listener.address import parse_address
from listener.smtp.server import SmtpServer, Timeouts
from tests.support.settings import loaded, refused
from tests.support.webhooks import rsa_public_key, sendgrid_key


def test_the_server_has_everything_that_a_session_needs() -> None:
    smtp = loaded(
        "[smtp]\nurl = 'smtps://ana:token@relay.example'\nauth = 'xoauth2'\nehlo_name = 'me.example'\n"
        "connect_timeout = '1s'\ncommand_timeout = '2s'\ndata_timeout = '3s'\ndot_timeout = '4s'"
    ).smtp
    assert smtp.server == SmtpServer(
        "relay.example",
        465,
        "tls",
        "ana",
        "token",
        xoauth2=True,
        ehlo_name="me.example",
        timeouts=Timeouts(connect=1, command=2, data=3, dot=4),
    )


def test_bounces_go_to_the_sender_unless_another_address_is_set() -> None:
    sender = "[mail]\nfrom = 'Plans <plans@example.org>'\n"
    assert loaded(sender).mail.return_path == parse_address("plans@example.org")
    assert loaded(f"{sender}envelope_from = 'bounces@example.org'").mail.return_path == parse_address(
        "bounces@example.org"
    )


def test_an_address_in_from_that_needs_smtputf8_is_also_that_of_the_envelope() -> None:
    sender = "[mail]\nfrom = 'jörg@example.org'\n"
    assert str(loaded(sender).mail.return_path) == "jörg@example.org"
    assert "remove envelope_from" in refused(f"{sender}envelope_from = 'bounces@example.org'")


def test_the_address_to_unsubscribe_needs_no_escapes_in_a_url() -> None:
    for address in ("stop+plans_1@example.org", "stop@bücher.example"):
        assert loaded(f"[mail]\nunsubscribe_mailto = '{address}'").mail.unsubscribe_mailto == parse_address(address)
    for address in ("stop?x@example.org", "stop&x@example.org", "stoß@example.org", "stop%41@example.org"):
        said = refused(f"[mail]\nunsubscribe_mailto = '{address}'")
        assert "[mail] unsubscribe_mailto: may have only letters, digits" in said


def test_lookups_use_their_own_login_if_there_is_one() -> None:
    assert loaded("[database]\nurl = 'postgresql://a'").database.lookups == "postgresql://a"
    database = loaded("[database]\nurl = 'postgresql://a'\nlookup_url = 'postgresql://b'").database
    assert database.lookups == "postgresql://b"


def test_a_port_is_chosen_only_by_the_user() -> None:
    assert (loaded("").http.address, loaded("").http.chosen) == (("127.0.0.1", 9599), False)
    http = loaded("[http]\nlisten = '127.0.0.1:9599'").http
    assert (http.address, http.chosen) == (("127.0.0.1", 9599), True)
    assert loaded("[http]\nlisten = 'off'").http.address is None


@pytest.mark.parametrize(
    "topic",
    ["arn:aws:sns:eu-west-1:123456789012:bounces", "arn:aws-cn:sns:cn-north-1:123456789012:a_b-C", "arn:aws-us-gov:sns:us-gov-west-1:123456789012:x.fifo"],
)  # fmt: skip
def test_the_topics_of_sns(topic: str) -> None:
    assert loaded(f"[bounces]\nses_topic = '{topic}'").bounces.ses_topic == topic
    # The host that is asked follows from the topic.
    for wrong in (
        topic.replace(":sns:", ":sns:evil.example/"),
        f"{topic}/x",
        f"{topic} ",
        topic.replace("aws", "aws.x", 1),
    ):
        assert "[bounces] ses_topic: is not the ARN" in refused(f"[bounces]\nses_topic = '{wrong}'")


def test_the_keys_of_sendgrid() -> None:
    assert loaded(f"[bounces]\nsendgrid_key = '{sendgrid_key()}'").bounces.sendgrid_key == sendgrid_key()
    # An RSA key, a private key, a PEM file, and a key with its end cut off.
    rsa = rsa_public_key()
    for wrong in (rsa, "", "not base64", f"-----BEGIN PUBLIC KEY-----\\n{sendgrid_key()}", sendgrid_key()[:-8]):
        assert "[bounces] sendgrid_key: is not a public key" in refused(f'[bounces]\nsendgrid_key = "{wrong}"')
