"""The description of an SMTP server."""

import pytest

from listener.errors import ConfigError
from listener.smtp.server import SmtpServer, is_ehlo_name


@pytest.mark.parametrize("name", ["mail.example.org", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "x", "a" * 255])
def test_a_host_name_or_an_address_literal_can_greet(name: str) -> None:
    assert is_ehlo_name(name)
    assert SmtpServer("localhost", 25, "off", ehlo_name=name).ehlo_name == name


@pytest.mark.parametrize(
    "name", ["", "a b", "a\r\nQUIT", "-a", "a\0", "[1.2.3.4", "é.example", "a" * 256, "a.example\n", "a:b", "::1"]
)
def test_nothing_else_can(name: str) -> None:
    assert not is_ehlo_name(name)
    with pytest.raises(ConfigError, match="ehlo_name"):
        SmtpServer("localhost", 25, "off", ehlo_name=name)


def test_the_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(SmtpServer("localhost", 25, "tls", "user", "secret"))
