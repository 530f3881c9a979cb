"""The section `[smtp]` of the configuration file: the mail server, and the login there."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from listener.config.environment import present_secret
from listener.config.fields import Count, Duration, EhloName, RateOrOff, TokenUrl
from listener.config.sections import Section
from listener.config.smtp_url import parse_smtp_url
from listener.errors import ConfigError
from listener.smtp.server import OAuthGrant, SmtpServer, Timeouts

# Keys that hold secrets. Another program may replace the files that hold them.
_SECRETS = ("url", "fallback_url", "oauth_client_secret", "oauth_refresh_token")


class Smtp(Section):
    """The section `[smtp]`: the mail server."""

    url: str = Field("smtp://127.0.0.1:25", repr=False)
    """the mail server, see below"""
    fallback_url: str | None = Field(None, repr=False)
    """a second mail server, used while the first is unavailable. Its login is a password"""
    auth: Literal["password", "xoauth2"] = "password"
    """login method: `password` (PLAIN, LOGIN, SCRAM-SHA-256 or CRAM-MD5, as the server offers) or `xoauth2`, where the password in `url`
    is an access token unless `oauth_token_url` is set"""
    oauth_token_url: TokenUrl = ""
    """where to get access tokens for `xoauth2` and renew them, see below"""
    oauth_client_id: str = ""
    """the application's client id at the provider"""
    oauth_client_secret: str | None = Field(None, repr=False)
    """the application's client secret"""
    oauth_refresh_token: str | None = Field(None, repr=False)
    """refresh token. Without it, the application gets tokens in its own name (client credentials)"""
    oauth_scope: str = ""
    """scope to ask for, such as `https://outlook.office365.com/.default`"""
    rate: RateOrOff = None
    """maximum emails per second, shared by all daemons of this database; `0.5` is one every two seconds"""
    connections: Count = Field(8, ge=1, le=200)
    """maximum simultaneous connections of one daemon, 1 to 200"""
    ca_file: Path | None = None
    """PEM file of certificates to trust instead of the system's"""
    ehlo_name: EhloName | None = None
    """name to greet the server with. Default: the host's full name, or its address"""
    connect_timeout: Duration = 30.0
    """time to connect, over all addresses of the host"""
    command_timeout: Duration = 300.0
    """time for the reply to EHLO, AUTH, MAIL and RCPT"""
    data_timeout: Duration = 120.0
    """time for the reply to DATA"""
    dot_timeout: Duration = 600.0
    """time for the reply after the message. A shorter time leaves more events in doubt (RFC 5321 4.5.3.2.6)"""

    @field_validator("url", "fallback_url")
    @classmethod
    def _understood(cls, value: str | None) -> str | None:
        if value is not None:
            parse_smtp_url(value)
        return value

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as exc:
                raise ValueError(
                    f"cannot read certificates from {value}: {exc.strerror or exc}; name a readable PEM file"
                ) from exc
        return value

    @model_validator(mode="after")
    def _login_is_complete(self) -> Self:
        server = parse_smtp_url(self.url)
        if self.auth == "password":
            if any(getattr(self, key) for key in type(self).model_fields if key.startswith("oauth_")):
                raise ValueError('the keys oauth_… need auth = "xoauth2"; set it, or remove them')
        elif server.username is None:
            raise ValueError('auth = "xoauth2" needs a user; write smtp://user%40example.org@host:587 as url')
        elif self.oauth_token_url:
            self._check_grant(server)
        elif server.password is None:
            raise ValueError(
                'auth = "xoauth2" needs an access token; set oauth_token_url, or write it as password in url'
            )
        return self

    @model_validator(mode="after")
    def _passwords_are_given(self) -> Self:
        url = self.url if self.auth == "password" else None
        for key, value in (("url", url), ("fallback_url", self.fallback_url)):
            server = parse_smtp_url(value) if value is not None else None
            if server is not None and server.username is not None and server.password is None:
                raise ValueError(f"{key} has a user and no password; write smtp://user:secret@host:587")
        return self

    def _check_grant(self, server: SmtpServer) -> None:
        if not self.oauth_client_id:
            raise ValueError("oauth_token_url needs oauth_client_id; set it to the application's id at the provider")
        if not (self.oauth_client_secret or self.oauth_refresh_token):
            raise ValueError("oauth_token_url needs oauth_client_secret or oauth_refresh_token; set one, or both")
        if server.password is not None:
            raise ValueError("oauth_token_url gets the access token; remove the password from url")

    def read_again(self, key: Literal["url", "fallback_url"] = "url") -> SmtpServer:
        """Return the server with its secrets as the files hold them that ``PGHERALD_SMTP_…_FILE`` name.

        Raises:
            ConfigError: a file cannot be read, or has no valid URL.
        """
        secrets = {name: secret for name in _SECRETS if (secret := present_secret("smtp", name)) is not None}
        for name in (name for name, secret in secrets.items() if not secret):
            # Another program has emptied it, to write the next secret.
            raise ConfigError(f"PGHERALD_SMTP_{name.upper()}_FILE: the file is empty; write the secret into it")
        now = self.model_copy(update=secrets)
        try:
            server = now.server if key == "url" else now.fallback
        except ValueError as exc:
            raise ConfigError(f"PGHERALD_SMTP_{key.upper()}_FILE: {exc}") from None
        assert server is not None
        return server

    @property
    def server(self) -> SmtpServer:
        """The mail server: `url` together with the login method, the EHLO name and the timeouts."""
        return replace(self._as_server(self.url), xoauth2=self.auth == "xoauth2", grant=self._grant)

    @property
    def fallback(self) -> SmtpServer | None:
        """The second mail server, if there is one."""
        return self._as_server(self.fallback_url) if self.fallback_url is not None else None

    def _as_server(self, url: str) -> SmtpServer:
        return replace(
            parse_smtp_url(url),
            ehlo_name=self.ehlo_name,
            timeouts=Timeouts(
                connect=self.connect_timeout,
                command=self.command_timeout,
                data=self.data_timeout,
                dot=self.dot_timeout,
            ),
        )

    @property
    def _grant(self) -> OAuthGrant | None:
        if not self.oauth_token_url:
            return None
        return OAuthGrant(
            self.oauth_token_url,
            self.oauth_client_id,
            self.oauth_client_secret,
            self.oauth_refresh_token,
            self.oauth_scope or None,
        )
