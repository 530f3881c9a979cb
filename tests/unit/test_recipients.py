"""Who gets mail on a staging system."""

from pathlib import Path

import pytest

from listener.address import parse_address
from listener.config.sections import Mail
from listener.config.settings import load
from listener.errors import ConfigError
from listener.recipients import RecipientPolicy


@pytest.mark.parametrize(
    ("allow", "address", "admitted"),
    [
        ("@example.org", "jane@example.org", True),
        ("@Example.ORG", "jane@EXAMPLE.org", True),
        ("@example.org", "jane@mail.example.org", False),
        ("@example.org", "jane@notexample.org", False),
        ("@example.org", "jane@example.org.evil.example", False),
        ("jane@example.com", "jane@example.com", True),
        ("Jane@example.com", "jANE@example.com", True),
        ("jane@example.com", "john@example.com", False),
        ("jane@example.com", "jane@example.org", False),
        ("@bücher.example", "jane@xn--bcher-kva.example", True),
        (" @example.org , jane@example.com", "jane@example.com", True),
    ],
)
def test_who_is_admitted(allow: str, address: str, admitted: bool) -> None:
    mail = Mail.model_validate({"allowed_recipients": allow})
    assert RecipientPolicy(mail.allowed_recipients, mail.redirect_to).allows(parse_address(address)) is admitted


def test_without_a_guard_everybody_is() -> None:
    guard = RecipientPolicy()
    jane = parse_address("jane@example.org")
    assert guard.allows(jane)
    assert guard.route(jane) == jane


def test_whom_all_mail_is_redirected_to_needs_not_be_allowed() -> None:
    mail = Mail.model_validate({"allowed_recipients": ["@example.org"], "redirect_to": "qa@example.net"})
    guard = RecipientPolicy(mail.allowed_recipients, mail.redirect_to)
    assert guard.allows(parse_address("qa@example.net"))
    assert str(guard.route(parse_address("jane@example.org"))) == "qa@example.net"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("allowed_recipients = []", "allowed_recipients: must be a list of addresses and domains; write"),
        ('allowed_recipients = ""', "has no @; write @example.org"),
        ('allowed_recipients = ["example.org"]', "has no @"),
        ('allowed_recipients = ["@"]', "allowed_recipients"),
        ('allowed_recipients = ["*@example.org", "a b@example.org"]', "allowed_recipients"),
        ("allowed_recipients = 5", "allowed_recipients"),
        ('redirect_to = "qa"', "redirect_to: 'qa': the address has no @"),
        ('transport = "file"', "set [mail] directory"),
        ('transport = "pigeon"', "transport"),
    ],
)
def test_what_is_none_is_refused_and_never_taken_for_everybody(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "pgherald.toml").write_text(f"[mail]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "pgherald.toml")
    assert told in str(caught.value)


def test_an_empty_variable_allows_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGHERALD_MAIL_ALLOWED_RECIPIENTS", "")
    with pytest.raises(ConfigError, match="PGHERALD_MAIL_ALLOWED_RECIPIENTS"):
        load()
