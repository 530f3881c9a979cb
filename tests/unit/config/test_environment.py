"""Variables, their files, and their place among the sources."""

from pathlib import Path
from typing import Any

import pytest

from listener.config.settings import load
from tests.support.settings import loaded, refused


def test_the_environment_goes_before_the_file_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_CONNECTIONS", "3")
    smtp = loaded('[smtp]\nconnections = 5\nurl = "smtp://relay.example"').smtp
    assert (smtp.connections, smtp.url) == (3, "smtp://relay.example")


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("PGHERALD_DELIVERY_IN_DOUBT", "hold", lambda s: s.delivery.in_doubt == "hold"),
        ("PGHERALD_DELIVERY_MAX_AGE", "1h", lambda s: s.delivery.max_age == 3600),
        ("PGHERALD_DELIVERY_MAX_AGE", "off", lambda s: s.delivery.max_age is None),
        ("PGHERALD_DATABASE_LISTEN_URL", "postgresql://db", lambda s: s.database.listen_url == "postgresql://db"),
        ("PGHERALD_MAIL_FROM", "Ana <a@b.example>", lambda s: str(s.mail.sender.address) == "a@b.example"),
    ],
)
def test_a_key_with_an_underscore_or_an_alias_has_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, read: Any
) -> None:
    monkeypatch.setenv(variable, value)
    assert read(load())


def test_a_secret_is_read_from_a_file_without_its_last_line_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("smtp://ana:s%40cret@relay.example\n")
    monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(tmp_path / "secret"))
    settings = load()
    assert settings.smtp.url == "smtp://ana:s%40cret@relay.example"
    assert settings.smtp.server.password == "s@cret"
    assert "s@cret" not in repr(settings.smtp.server)


def test_a_secret_is_read_from_a_file_without_its_byte_order_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfsmtp://ana:s%40cret@relay.example\r\n")
    monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(tmp_path / "secret"))
    assert load().smtp.url == "smtp://ana:s%40cret@relay.example"


def test_a_key_that_ends_in_file_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_CA_FILE", str(tmp_path / "none.pem"))
    assert "PGHERALD_SMTP_CA_FILE: [smtp] ca_file: " in refused()


def test_a_secret_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", "/does/not/exist")
    assert refused() == (
        "PGHERALD_SMTP_URL_FILE: cannot read /does/not/exist: No such file or directory; "
        "name a readable file of UTF-8 text"
    )


def test_a_secret_file_that_is_no_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff")
    monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(tmp_path / "secret"))
    assert refused().startswith("PGHERALD_SMTP_URL_FILE: cannot read ")
