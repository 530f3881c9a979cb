"""Durations, rates, URLs: what they take, and what they refuse."""

import pytest

from listener.config.fields import parse_duration
from listener.config.settings import load
from listener.config.smtp_url import parse_smtp_url
from listener.errors import ConfigError
from tests.support.settings import loaded, refused


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("10s", 10), ("5m", 300), ("12h", 43200), ("30d", 2592000), ("250ms", 0.25), ("1.5 h", 5400), (" 0d ", 0)],
    )
    def test_are_seconds(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == pytest.approx(seconds)

    @pytest.mark.parametrize("value", ["", "10", "s", "-5s", "5 parsecs", "1h30m", "1e3s", "٥s x", 10, True, None, []])
    def test_need_a_unit_and_no_sign(self, value: object) -> None:
        with pytest.raises(ValueError, match="10s, 5m, 12h or 30d"):
            parse_duration(value)


class TestSmtpUrl:
    @pytest.mark.parametrize(
        ("url", "host", "port", "security"),
        [
            ("smtp://relay.example", "relay.example", 587, "starttls"),
            ("smtp://relay.example:2525", "relay.example", 2525, "starttls"),
            ("smtp://relay.example/", "relay.example", 587, "starttls"),
            ("smtp://relay.example?starttls=off", "relay.example", 25, "off"),
            ("smtps://relay.example", "relay.example", 465, "tls"),
            ("smtp://localhost", "localhost", 25, "off"),
            ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, "off"),
            ("smtp://[::1]", "::1", 25, "off"),
            ("smtp://localhost?starttls=required", "localhost", 587, "starttls"),
            ("smtps://localhost", "localhost", 465, "tls"),
            ("SMTP://Relay.Example", "relay.example", 587, "starttls"),
        ],
    )
    def test_says_where_and_how(self, url: str, host: str, port: int, security: str) -> None:
        server = parse_smtp_url(url)
        assert (server.host, server.port, server.security) == (host, port, security)
        assert (server.username, server.password) == (None, None)

    def test_name_and_password_are_unquoted(self) -> None:
        server = parse_smtp_url("smtp://ana%40example.org:p%2Fw%3A@relay.example")
        assert (server.username, server.password) == ("ana@example.org", "p/w:")

    @pytest.mark.parametrize(
        "url",
        [
            "", "relay.example", "relay.example:587", "http://relay.example", "smtp://", "smtp:///path",
            "smtp://relay.example/path", "smtp://relay.example?tls=off", "smtp://relay.example?starttls=maybe",
            "smtp://relay.example?starttls=off&x=1", "smtp://relay.example:port", "smtp://relay.example:65536", "smtp://[::1",
        ],
    )  # fmt: skip
    def test_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_smtp_url(url)
        assert "pgherald.toml: [smtp] url: " in refused(f"[smtp]\nurl = '{url}'")


class TestBaseUrls:
    @pytest.mark.parametrize(
        ("value", "read"),
        [
            ("https://app.example.org", "https://app.example.org"),
            ("https://app.example.org/", "https://app.example.org"),
            ("http://localhost:8000/app//", "http://localhost:8000/app"),
            ("", ""),
        ],
    )
    def test_is_kept_without_its_last_slash(self, value: str, read: str) -> None:
        assert loaded(f"[http]\npublic_url = '{value}'").http.public_url == read

    @pytest.mark.parametrize(
        "value",
        [
            "app.example.org",
            "ftp://app.example.org",
            "javascript:alert(1)",
            "https://",
            "https://user:secret@app.example.org",
            "https://app.example.org/?a=b",
            "https://app.example.org/#a",
            "https://app.example.org/a b",
            "https://bücher.example",
            'https://app.example.org/"x',
            "https://app.example.org/<x>",
        ],
    )
    def test_what_could_not_stand_before_a_path_is_refused(self, value: str) -> None:
        assert "[http] public_url: is not an http or https URL; write https://app.example.org" in refused(
            f"[http]\npublic_url = '{value}'"
        )


@pytest.mark.parametrize(("said", "rate"), [("off", None), ("2.5", 2.5), ("10", 10.0)])
def test_a_rate(monkeypatch: pytest.MonkeyPatch, said: str, rate: float | None) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_RATE", said)
    assert load().smtp.rate == rate


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "10/s", ""])
def test_no_rate(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_RATE", said)
    with pytest.raises(ConfigError, match="PGHERALD_SMTP_RATE"):
        load()


class TestMailboxes:
    @pytest.mark.parametrize(
        ("value", "read"),
        [
            ("'help@example.org'", [("", "help@example.org")]),
            ("['Help <help@example.org>', 'a@bücher.example']", [("Help", "help@example.org"), ("", "a@xn--bcher-kva.example")]),
            ("""'"Plans, Date" <a@example.org>, b@example.org,'""", [("Plans, Date", "a@example.org"), ("", "b@example.org")]),
            ("''", []),
            ("[]", []),
        ],
    )  # fmt: skip
    def test_are_one_or_several(self, value: str, read: list[tuple[str, str]]) -> None:
        found = loaded(f"[mail]\nreply_to = {value}").mail.reply_to
        assert [(mailbox.name, str(mailbox.address)) for mailbox in found] == read

    def test_are_separated_by_commas_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_MAIL_REPLY_TO", "Help <help@example.org>, b@example.org")
        assert [str(mailbox.address) for mailbox in load().mail.reply_to] == ["help@example.org", "b@example.org"]

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("'help'", "the address has no @"),
            ("['a@example.org', '']", "the address has no @"),
            ("'josé@example.org'", "may have only ASCII characters before the @; name another address"),
            (r'"a@example.org\r\nBcc: b@example.org"', "the address has an invalid character"),
            (r'"Anna\r\nBcc: b <a@example.org>"', "the display name has a control character"),
            ("3", 'must be a list, got a number; write ["a", "b"]'),
        ],
    )
    def test_are_refused(self, value: str, said: str) -> None:
        assert said in refused(f"[mail]\nreply_to = {value}")
