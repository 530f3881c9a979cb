"""Settings: command line over environment over file over default.

`pgherald.toml` has a section for each class here. Every key but the rules' can be set as
``PGHERALD_SECTION_KEY``, or read from the file that ``PGHERALD_SECTION_KEY_FILE`` names.
"""

import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from listener.address import Address, parse_mailbox
from listener.config.environment import Environment
from listener.config.fields import (
    AddressText,
    Allowed,
    BaseUrl,
    Conninfo,
    Count,
    Duration,
    DurationOrOff,
    MailboxText,
    Names,
    RateOrOff,
    SmtpUrl,
    parse_listen,
    parse_smtp_url,
)
from listener.config.problems import explained
from listener.config.rules import Rule, default_rules
from listener.errors import ConfigError

DEFAULT_FILE = Path("pgherald.toml")


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Database(Section):
    url: Conninfo = Field("", repr=False)
    """a libpq connection string. Left out, libpq's own variables hold: `PGHOST`, `PGSERVICE`, … Several hosts:
    `postgresql://a,b/app?target_session_attrs=read-write`"""
    listen_url: Conninfo = Field("", repr=False)
    """where `url` goes through a pooler: a direct connection for LISTEN and the gate"""
    lookup_url: Conninfo = ""
    """a login of its own for lookups, without any right on the schema `pgherald`: the functions behind the tables that a
    lookup reads run with its rights. See [dba.md](dba.md#a-login-for-lookups)"""

    @property
    def lookups(self) -> str:
        """Where lookups go."""
        return self.lookup_url or self.url


class Smtp(Section):
    url: str = Field("smtp://127.0.0.1:25", repr=False)
    """the mail server, see below"""
    auth: Literal["password", "xoauth2"] = "password"
    """how to log in: `password` (PLAIN or LOGIN, as the server offers) or `xoauth2`, where the secret in `url` is an
    access token"""
    rate: RateOrOff = None
    """how many mails a second at most, of all daemons of this database together; `0.5` is one in two seconds"""
    connections: Count = Field(8, ge=1, le=200)
    """how many at a time, 1 to 200"""
    ca_file: Path | None = None
    """certificates to trust instead of the system's, PEM"""
    ehlo_name: str | None = Field(None, pattern=r"^[A-Za-z0-9.\-\[\]:]{1,255}$")
    """what to greet as; else the host's full name, or its address"""
    connect_timeout: Duration = 30.0
    """to connect, over all of the host's addresses"""
    command_timeout: Duration = 300.0
    """for EHLO, AUTH, MAIL and RCPT"""
    data_timeout: Duration = 120.0
    """for DATA"""
    dot_timeout: Duration = 600.0
    """after the message. Shorter means more events in doubt (RFC 5321 4.5.3.2.6)"""

    @field_validator("url")
    @classmethod
    def _understood(cls, value: str) -> str:
        parse_smtp_url(value)
        return value

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as exc:
                raise ValueError(f"{value}: {exc.strerror or exc}") from exc
        return value

    @property
    def server(self) -> SmtpUrl:
        return parse_smtp_url(self.url)


class Mail(Section):
    sender: MailboxText = Field(default_factory=lambda: parse_mailbox("pgherald <no-reply@localhost>"), alias="from")
    """name and address in the From line. Set it"""
    envelope_from: MailboxText | None = None
    """where bounces go; else the address in `from`"""
    idempotency_header: str = Field("X-Pgherald-Key", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")
    """the header that carries the event's key, such as `Resend-Idempotency-Key`"""
    templates: Path | None = None
    """a folder of templates; goes before the shipped ones, file by file"""
    base_url: BaseUrl = ""
    """the application's address, before the `link` of a rule: `https://app.example.org`"""
    feedback_id: str = Field("", pattern=r"^[!-~]{0,200}$")
    """a fixed `Feedback-ID` for Gmail's Postmaster Tools, such as `verified:plans:pgherald:example`"""
    transport: Literal["smtp", "file", "console"] = "smtp"
    """`smtp`; for staging and development `file` or `console`, see below"""
    directory: Path | None = None
    """the folder of `file`"""
    allowed_recipients: Allowed = Field(None, min_length=1)
    """who may get mail at all, see below; in the environment with commas between"""
    redirect_to: AddressText | None = None
    """who gets all mail instead, see below"""

    @field_validator("templates")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"{value} is no folder")
        return value

    @model_validator(mode="after")
    def _file_has_folder(self) -> Self:
        if self.transport == "file" and self.directory is None:
            raise ValueError('transport = "file" needs a directory to write to')
        return self

    @property
    def return_path(self) -> Address:
        """Where bounces go."""
        return (self.envelope_from or self.sender).address


class Delivery(Section):
    in_doubt: Literal["resend", "hold"] = "resend"
    """an event whose message left without a reply: `resend` it once, or `hold` it for a person"""
    max_attempts: Count = Field(10, ge=1)
    """of a message's own failures"""
    max_age: DurationOrOff = None
    """an older event is skipped, `expired`"""
    poll: Annotated[Duration, Field(ge=0.05)] = 5.0
    """how often to look without having been rung; 1 s at most where the bell is not heard"""
    lease: Annotated[Duration, Field(ge=1)] = 10.0
    """how long a daemon that is not heard of keeps its events; 1 s or more"""
    grace: Duration = 30.0
    """for SIGTERM: how long to wait for what is on the wire"""


class Http(Section):
    listen: str = "127.0.0.1:9599"
    """where health, metrics and the page are: address and port, or `off`. Set by hand, it must be free; the default
    gives way to any free port, which the log event `http_listening` tells"""
    public_url: BaseUrl = ""
    """where `/unsubscribe/` is reached from outside, for the links in mails: `https://mail.example.org`. Its name
    needs no place in `hosts`, and leads to nothing else"""
    allowed_hosts: Names = ()
    """names by which it may be asked, `["pgherald.internal"]`; by environment with commas between. Addresses and
    `localhost` always may: only a name can be pointed here by a stranger's web page"""
    admin_token: str | None = Field(None, repr=False)
    """whoever has it may retry, resolve, pause and resume on the page; 16 characters or more. Without one, the page
    only shows"""

    @field_validator("listen")
    @classmethod
    def _understood(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("admin_token")
    @classmethod
    def _hard_to_guess(cls, value: str | None) -> str | None:
        if value is not None and len(value) < 16:
            raise ValueError("a token has 16 characters or more; make one with `openssl rand -hex 16`")
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None where it is off."""
        return parse_listen(self.listen)

    @property
    def chosen(self) -> bool:
        """Set by hand, so that another port will not do."""
        return "listen" in self.model_fields_set


class Log(Section):
    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console`, or `auto`: console on a terminal"""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning`, `error`"""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PGHERALD_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database: Database = Database()
    smtp: Smtp = Smtp()
    mail: Mail = Field(default_factory=lambda: Mail.model_validate({}))
    delivery: Delivery = Delivery()
    http: Http = Http()
    log: Log = Log()
    rules: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Rule] = Field(
        default_factory=default_rules, min_length=1
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # init_settings carries the file's contents, so the environment goes before it.
        return (Environment(settings_cls), init_settings)


def load(file: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Read the file (given, or ``PGHERALD_CONFIG``, or ``./pgherald.toml`` if there is one) and the environment.

    Raises:
        ConfigError: with every fault, each named with its place.
    """
    if file is None and (named := os.environ.get("PGHERALD_CONFIG")):
        file = Path(named)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    values: dict[str, Any] = _read_toml(file) if file is not None else {}
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        # Not `from` it: in a traceback, pydantic's own words may have what was given, and with it a password.
        raise ConfigError("; ".join(explained(error, values, file, Settings) for error in exc.errors())) from None
    return settings.model_copy(
        update={
            section: getattr(settings, section).model_copy(update=keys) for section, keys in (overrides or {}).items()
        }
    )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        raise ConfigError(f"{file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: {exc}") from exc
