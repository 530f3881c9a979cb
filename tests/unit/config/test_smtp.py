"""The login at the mail server: keys that need each other, and secrets in files that another program replaces."""

from pathlib import Path

import pytest

from listener.errors import ConfigError
from listener.smtp.server import OAuthGrant
from tests.support.settings import loaded, refused

TOKENS = """
[smtp]
url = 'smtp://a%40example.org@smtp.example.org'
auth = 'xoauth2'
oauth_token_url = 'https://oauth.example.org/token'
oauth_client_id = 'id'
oauth_client_secret = 's3cret'
"""


def test_a_grant() -> None:
    server = loaded(TOKENS + "oauth_refresh_token = 'r3fresh'\noauth_scope = 'mail'").smtp.server
    assert (server.username, server.password, server.xoauth2) == ("a@example.org", None, True)
    assert server.grant == OAuthGrant("https://oauth.example.org/token", "id", "s3cret", "r3fresh", "mail")
    assert "s3cret" not in repr(server)
    assert "r3fresh" not in repr(server)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("auth = 'xoauth2'", "", 'the keys oauth_… need auth = "xoauth2"'),
        ("a%40example.org@", "", "needs a user"),
        ("a%40example.org@", "a:t0ken@", "remove the password from url"),
        ("oauth_client_id = 'id'", "", "oauth_token_url needs oauth_client_id"),
        ("oauth_client_secret = 's3cret'", "", "needs oauth_client_secret or oauth_refresh_token"),
        ("oauth_token_url = 'https://oauth.example.org/token'", "", "needs an access token; set oauth_token_url"),
        ("https://oauth.example.org", "http://oauth.example.org", "is not the https URL of a token endpoint"),
        ("https://oauth.example.org", "https://u:s3cret@oauth.example.org", "is not the https URL"),
        ("https://oauth.example.org", "ftp://oauth.example.org", "is not the https URL"),
        ("https://oauth.example.org", "oauth.example.org", "is not the https URL"),
        ("oauth.example.org/", "oauth.example.org:port/", "is not the https URL"),
    ],
)
def test_keys_that_do_not_go_together(old: str, new: str, says: str) -> None:
    said = refused(TOKENS.replace(old, new))
    assert says in said
    assert "s3cret" not in said


def test_a_user_without_a_password_is_an_error() -> None:
    """The login would be tried with an empty one."""
    assert "url has a user and no password" in refused("[smtp]\nurl = 'smtps://jane@mail.example.org'\n")
    said = refused("[smtp]\nurl = 'smtp://127.0.0.1'\nfallback_url = 'smtps://jane:@mail.example.org'\n")
    assert "fallback_url has a user and no password" in said


def test_a_token_endpoint_on_this_host_needs_no_tls() -> None:
    assert loaded(TOKENS.replace("https://oauth.example.org", "http://127.0.0.1:8080")).smtp.server.grant is not None


def test_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, secret = tmp_path / "url", tmp_path / "secret"
    url.write_text("smtp://herald:one@mail.example.org\n")
    secret.write_text("first\n")
    monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(url))
    smtp = loaded("").smtp
    assert smtp.server.password == smtp.read_again().password == "one"
    url.write_text("smtp://herald:two@other.example.org\n")
    assert (smtp.server.password, smtp.read_again().password) == ("one", "two")
    url.write_text("smtp://herald:s3/cret@other.example.org\n")
    with pytest.raises(ConfigError, match=r"^PGHERALD_SMTP_URL_FILE: the user or the password has one of") as caught:
        smtp.read_again()
    assert "s3" not in str(caught.value)
    url.unlink()
    with pytest.raises(ConfigError, match=r"PGHERALD_SMTP_URL_FILE: cannot read"):
        smtp.read_again()
    monkeypatch.delenv("PGHERALD_SMTP_URL_FILE")
    monkeypatch.setenv("PGHERALD_smtp_oauth_client_secret_FILE", str(secret))
    smtp = loaded(TOKENS).smtp
    secret.write_text("second")
    grant = smtp.read_again().grant
    assert grant is not None
    assert grant.client_secret == "second"
    secret.write_text("\n")
    with pytest.raises(ConfigError, match=r"^PGHERALD_SMTP_OAUTH_CLIENT_SECRET_FILE: the file is empty"):
        smtp.read_again()
