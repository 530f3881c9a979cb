"""The URL of a mail server: the name in its certificate, and passwords that a URL cannot hold as they are."""

import pytest

from listener.config.smtp_url import parse_smtp_url
from tests.support.settings import refused


@pytest.mark.parametrize(
    ("url", "security", "tls_name"),
    [
        ("smtps://10.0.0.5?tls_name=mail.example.org", "tls", "mail.example.org"),
        ("smtp://relay.example?tls_name=mail.example.org", "starttls", "mail.example.org"),
        ("smtp://127.0.0.1?starttls=required&tls_name=mail.example.org", "starttls", "mail.example.org"),
        ("smtps://u:p@relay.example:465/?tls_name=10.0.0.5", "tls", "10.0.0.5"),
        ("smtps://relay.example", "tls", None),
    ],
)
def test_the_certificate_may_be_for_another_name(url: str, security: str, tls_name: str | None) -> None:
    server = parse_smtp_url(url)
    assert (server.security, server.tls_name) == (security, tls_name)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("smtps://relay.example?tls_name=", "tls_name must be a name"),
        ("smtps://relay.example?tls_name=a/b", "tls_name must be a name"),
        ("smtp://127.0.0.1?tls_name=mail.example.org", "tls_name needs TLS"),
        ("smtp://relay.example?starttls=off&tls_name=a.example", "tls_name needs TLS"),
    ],
)
def test_a_name_of_no_use(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_smtp_url(url)


@pytest.mark.parametrize("sign", "/?#[]")
@pytest.mark.parametrize(
    "password", ["s3cr{}t", "{}s3crt", "s3crt{}", "12{}34", "12{}a=b", "{}25?starttls=off", "{}{}", "25{}@x", "a@b{}c"]
)
def test_a_password_that_must_be_escaped(password: str, sign: str) -> None:
    said = refused(f"[smtp]\nurl = 'smtp://ana.user:{password.replace('{}', sign)}@mail.example.org:587'")
    assert "[smtp] url: the user or the password has one of / ? # [ ] in it; write @ : / ? # [ ] %" in said
    assert "%40 %3A %2F %3F %23 %5B %5D %25" in said
    assert "s3cr" not in said
    assert "ana.user" not in said


@pytest.mark.parametrize("password", ["pa@ss", "pa:ss", "pa%zz", "pa ss", "pa\\ss", "pa%2Fss", "pa%25ss"])
def test_other_signs_are_understood(password: str) -> None:
    server = parse_smtp_url(f"smtp://herald:{password}@mail.example.org")
    assert (server.host, server.username) == ("mail.example.org", "herald")
    assert server.password == password.replace("%2F", "/").replace("%25", "%")


def test_a_password_without_a_user_is_refused() -> None:
    with pytest.raises(ValueError, match="a password and no user"):
        parse_smtp_url("smtp://:secret@mail.example.org")
