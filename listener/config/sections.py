"""The sections of the configuration file, one class for each. `smtp` and `rules` have the others.

The string below a key is its description in docs/configuration.md. `make docs` copies it there.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from listener.address import Address, parse_mailbox
from listener.config.fields import (
    AddressText,
    Allowed,
    BaseUrl,
    Conninfo,
    CountOrOff,
    DoubtPolicy,
    Duration,
    DurationOrOff,
    Mailboxes,
    MailboxText,
    Names,
    at_least,
    check_ec_public_key,
    parse_listen,
)
from listener.config.headers import HeaderName, Headers, duplicates

# 16 characters of `openssl rand -hex` are 64 bits: beyond guessing over HTTP, which admits a few attempts a second.
_MIN_TOKEN_CHARS = 16


class Section(BaseModel):
    """A section of the configuration file: frozen, with no unknown keys, and without values in its errors.

    The string below a key is its description in docs/configuration.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


def _long_enough(token: str | None) -> str | None:
    if token is not None and len(token) < _MIN_TOKEN_CHARS:
        raise ValueError(f"must have at least {_MIN_TOKEN_CHARS} characters; make one with `openssl rand -hex 16`")
    return token


class Database(Section):
    """The section `[database]`: the connections to PostgreSQL."""

    url: Conninfo = Field("", repr=False)
    """a libpq connection string. If empty, libpq's own variables apply: `PGHOST`, `PGSERVICE`, … Several hosts:
    `postgresql://a,b/app`; the daemon takes the primary, see [dba.md](dba.md#replication-failover-copies)"""
    listen_url: Conninfo = Field("", repr=False)
    """a direct connection for LISTEN and the gate. Needed if `url` goes through a connection pooler"""
    lookup_url: Conninfo = Field("", repr=False)
    """a login for lookups, without rights on the schema `pgherald`. Functions behind the tables that a lookup reads run
    with the rights of this login. It must lead to the primary. See [dba.md](dba.md#a-login-for-lookups)"""

    @property
    def lookups(self) -> str:
        """The connection string for lookups."""
        return self.lookup_url or self.url


class Mail(Section):
    """The section `[mail]`: the messages, and how they leave."""

    sender: MailboxText = Field(default_factory=lambda: parse_mailbox("pgherald <no-reply@localhost>"), alias="from")
    """name and address in the From header. Set it"""
    envelope_from: MailboxText | None = None
    """address that bounces go to. Default: the address in `from`, or in a rule's `from_address`"""
    reply_to: Mailboxes = ()
    """address that answers go to, or several: `["Help <help@example.org>", "…"]`. In the environment, separate them with
    commas. The column `reply_to` of a lookup [takes precedence](#sender-and-answers)"""
    headers: Headers = {}
    """headers to add to every email, as a section `[mail.headers]`; see [below](#headers-of-your-own). In the environment,
    write one `Name: value` a line"""
    idempotency_header: HeaderName = "X-Pgherald-Key"
    """header that carries the event's key, such as `Resend-Idempotency-Key`"""
    templates: Path | None = None
    """folder of templates. A file in it replaces the shipped file of the same name"""
    base_url: BaseUrl = ""
    """the application's URL, put before the `link` of a rule: `https://app.example.org`"""
    unsubscribe_mailto: AddressText | None = None
    """address for `List-Unsubscribe`, beside the one of `http.public_url`; see [below](#unsubscribe-by-one-click)"""
    transport: Literal["smtp", "file", "console"] = "smtp"
    """`smtp`; or `file` or `console` for staging and development, see below"""
    directory: Path | None = None
    """folder that `transport = "file"` writes to"""
    allowed_recipients: Allowed = Field(None, min_length=1)
    """addresses and domains that may receive emails, see below. In the environment, separate them with commas"""
    redirect_to: AddressText | None = None
    """address that receives every email instead of its recipient, see below"""

    @field_validator("templates")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"{value} is not a folder; create it, or correct the path")
        return value

    @field_validator("unsubscribe_mailto")
    @classmethod
    def _is_plain(cls, value: Address | None) -> Address | None:
        # RFC 6068 2: others are escaped in a URL, and not every mail program reads that.
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._+-]+", value.local):
            raise ValueError("may have only letters, digits, dots, _, + and - before the @; name another address")
        return value

    @model_validator(mode="after")
    def _key_has_own_header(self) -> Self:
        if same := duplicates([self.idempotency_header, *self.headers]):
            raise ValueError(f"idempotency_header {same[0]} is in [mail.headers] too; remove it there")
        return self

    @model_validator(mode="after")
    def _file_has_folder(self) -> Self:
        if self.transport == "file" and self.directory is None:
            raise ValueError('transport = "file" needs a folder; set [mail] directory')
        return self

    @model_validator(mode="after")
    def _asks_for_smtputf8(self) -> Self:
        if self.lacks_smtputf8:
            raise ValueError("from needs SMTPUTF8, and envelope_from does not; remove envelope_from")
        return self

    @property
    def lacks_smtputf8(self) -> bool:
        """True if From needs SMTPUTF8 and the envelope does not ask for it."""
        # RFC 6531 3.4: MAIL asks for SMTPUTF8 if its own address needs it. The address in From then goes with it.
        return self.sender.address.needs_smtputf8 and not self.return_path.needs_smtputf8

    @property
    def return_path(self) -> Address:
        """The address that bounces go to."""
        return (self.envelope_from or self.sender).address


class DeliverySettings(Section):
    """The section `[delivery]`: retries, and how daemons share the work."""

    in_doubt: DoubtPolicy = "resend"
    """for an event whose message left without a reply: `resend` it once, or `hold` it for a person to decide"""
    give_up_after: Annotated[Duration, at_least("1m")] = 345_600.0
    """an event fails this long after its first attempt, if each attempt was refused for the time being (RFC 5321
    4.5.4.1)"""
    max_attempts: CountOrOff = None
    """bound on the attempts besides, or `off`; failures that concern all messages are not counted"""
    max_age: DurationOrOff = None
    """an older event is skipped with the reason `expired`"""
    again_after: DurationOrOff = None
    """time after an email during which another event of the same rule and row is skipped as `repeated`; see
    [below](#no-second-email-within-a-week)"""
    poll: Annotated[Duration, at_least("50ms")] = 5.0
    """how often to look for events without a notification; at most `1s` while LISTEN does not work. With a longer one, an
    idle daemon makes [fewer transactions](dba.md#a-quiet-daemon)"""
    lease: Annotated[Duration, at_least("1s")] = 10.0
    """time after its last heartbeat during which a daemon keeps the events it has claimed; at least `1s`"""
    grace: Duration = 30.0
    """after SIGTERM, how long to wait for the messages in flight"""


class Http(Section):
    """The section `[http]`: health, metrics, the page, and the links to unsubscribe."""

    listen: str = "127.0.0.1:9599"
    """address and port of health, metrics and the page, or `off`. If set, startup fails when the port is in use. The
    default falls back to a free port, logged as `http_listening`"""
    public_url: BaseUrl = ""
    """URL at which `/unsubscribe/` and `/bounces/` can be reached from outside: `https://mail.example.org`. The links in
    emails begin with it. Its host name need not be in `allowed_hosts`, and serves nothing else"""
    allowed_hosts: Names = ()
    """Host headers accepted besides IP addresses and `localhost`, such as `["pgherald.internal"]` (protects against DNS
    rebinding). In the environment, separate them with commas"""
    admin_token: str | None = Field(None, repr=False)
    """token for retry, resolve, pause and resume on the page; at least 16 characters. Without it, the page is read-only"""

    @field_validator("listen")
    @classmethod
    def _understood(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("admin_token")
    @classmethod
    def _hard_to_guess(cls, value: str | None) -> str | None:
        return _long_enough(value)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, or None if `listen` is off."""
        return parse_listen(self.listen)

    @property
    def chosen(self) -> bool:
        """True if the user has set `listen`. The daemon then takes no other port."""
        return "listen" in self.model_fields_set


class Bounces(Section):
    """The section `[bounces]`: the providers whose webhooks report bounces and complaints. An unset key is no webhook."""

    ses_topic: str | None = Field(
        None, pattern=r"^arn:aws(-cn|-us-gov)?:sns:[a-z]{2}[a-z0-9-]{1,30}:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?$"
    )
    """ARN of the SNS topic to which Amazon SES publishes. Messages of other topics are refused"""
    postmark_token: str | None = Field(None, repr=False)
    """token in the URL of Postmark's webhook; at least 16 characters"""
    sendgrid_key: str | None = None
    """verification key of SendGrid's signed event webhook, in base64. It is a public key"""
    mailgun_key: str | None = Field(None, repr=False)
    """HTTP webhook signing key of the Mailgun account"""
    brevo_token: str | None = Field(None, repr=False)
    """token that Brevo's webhook sends; at least 16 characters"""

    @field_validator("postmark_token", "mailgun_key", "brevo_token")
    @classmethod
    def _hard_to_guess(cls, value: str | None) -> str | None:
        return _long_enough(value)

    @field_validator("sendgrid_key")
    @classmethod
    def _is_public_key(cls, value: str | None) -> str | None:
        if value is not None:
            check_ec_public_key(value)
        return value


class Log(Section):
    """The section `[log]`."""

    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console`, or `auto`: console on a terminal, else JSON"""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """the lowest level that is logged: `debug`, `info`, `warning`, `error`"""
