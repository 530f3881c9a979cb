"""The configuration becomes a transport: which one, and what it is told about the server."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from listener.config.settings import Settings
from listener.errors import ConfigError
from listener.smtp.breaker import Breaker
from listener.smtp.fallback import SmtpFallback
from listener.smtp.pool import SmtpPool
from listener.smtp.server import Timeouts
from listener.transport.build import transport
from listener.transport.local import Console, Maildir


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    ("mail", "expected"), [({}, SmtpPool), ({"transport": "file"}, Maildir), ({"transport": "console"}, Console)]
)
async def test_mail_transport_selects_the_transport(mail: dict[str, Any], expected: type, tmp_path: Path) -> None:
    directory = {"directory": str(tmp_path)} if mail.get("transport") == "file" else {}
    assert isinstance(transport(settings(mail={**mail, **directory}), Breaker()), expected)


async def test_the_pool_gets_the_servers_timeouts_and_as_many_connections() -> None:
    smtp = {"url": "smtp://127.0.0.1", "connections": 3, "dot_timeout": "20m", "connect_timeout": "7s"}
    made = transport(settings(smtp=smtp), Breaker())
    assert isinstance(made, SmtpPool)
    assert made._limit.size == 3
    assert made._server.timeouts == Timeouts(connect=7, dot=1200)


async def test_a_second_server_has_a_breaker_of_its_own() -> None:
    smtp = {"url": "smtp://127.0.0.1", "fallback_url": "smtps://u:p@second.example.org", "dot_timeout": "20m"}
    breaker = Breaker()
    made = transport(settings(smtp=smtp), breaker)
    assert isinstance(made, SmtpFallback)
    assert (made._first._breaker, made._second._breaker) == (breaker.bypassed, breaker)
    second = made._second._server
    assert (second.host, second.port, second.username, second.timeouts.dot) == ("second.example.org", 465, "u", 1200)
    transport(settings(smtp={"url": "smtp://127.0.0.1"}), breaker)
    assert breaker.bypassed is None


@pytest.mark.parametrize(
    ("smtp", "expected"),
    [
        ({"url": "smtp://127.0.0.1"}, ("127.0.0.1", 25, "off", None, None, False)),
        ({"url": "smtp://relay.example.org"}, ("relay.example.org", 587, "starttls", None, None, False)),
        ({"url": "smtps://u:p@relay.example.org"}, ("relay.example.org", 465, "tls", "u", "p", False)),
        ({"url": "smtps://u:t@x.example:1465", "auth": "xoauth2"}, ("x.example", 1465, "tls", "u", "t", True)),
    ],
)
def test_the_server_is_that_of_the_url(smtp: dict[str, Any], expected: tuple[object, ...]) -> None:
    made = settings(smtp=smtp).smtp.server
    assert (made.host, made.port, made.security, made.username, made.password, made.xoauth2) == expected


async def test_certificates_that_are_gone_since_the_configuration_was_read(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    read = settings(smtp={"ca_file": str(authority)})
    authority.unlink()
    with pytest.raises(ConfigError, match=r"smtp\.ca_file: cannot read certificates from "):
        transport(read, Breaker())
