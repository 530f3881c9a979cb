"""Settings: command line over environment over file over default.

`pgherald.toml` has a section for each class here. Every key but the rules' can be set as
``PGHERALD_SECTION_KEY``, or read from the file that ``PGHERALD_SECTION_KEY_FILE`` names.
"""

import difflib
import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from listener.address import Address, Mailbox, parse_address, parse_mailbox
from listener.errors import BadData, ConfigError
from listener.guard import parse_allowed
from listener.rules import Rule, default_rules

DEFAULT_FILE = Path("pgherald.toml")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# What a value that does not fit its pattern ought to have been.
_PATTERNS = {
    "ehlo_name": "write a host's name, or an address in brackets: mail.example.org, [192.0.2.1]",
    "key_header": "write a header's name, such as X-Pgherald-Key",
    "feedback_id": "write visible ASCII without blanks, 200 characters at most",
    "table": 'write a name as SQL does, schema first: public.dateplan, public."Date Plan"',
    "template": "write the name of a folder, of letters, digits, - and _",
}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> object:
    """Seconds of ``10s``, ``5m``, ``12h``, ``30d``."""
    if isinstance(value, str):
        if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value):
            return float(match[1]) * _UNITS[match[2]]
        raise ValueError(f"{value!r} is no duration; write 10s, 5m, 12h or 30d")
    raise ValueError("write a duration with its unit: 10s, 5m, 12h or 30d")


def _off(value: object) -> object:
    return None if value == "off" else parse_duration(value)


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is a number")
    return value


Count = Annotated[int, BeforeValidator(_no_truth)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
DurationOrOff = Annotated[float | None, BeforeValidator(_off)]
RateOrOff = Annotated[
    Annotated[float, Field(ge=0.001, le=100_000)] | None,
    BeforeValidator(lambda value: None if value == "off" else value),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True)


def _base_url(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not re.fullmatch(r"[!-~]{1,200}", value)
        or re.search(r"[?#<>\"'\\]", value)
    ):
        raise ValueError("write https://app.example.org, or with a path: https://example.org/app")
    return value.rstrip("/")


# With a path or without, never with a / at its end.
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


def _conninfo(value: object) -> object:
    """libpq's own words of a string that it cannot read repeat it, with the password."""
    if isinstance(value, str):
        try:
            ports = str(conninfo_to_dict(value).get("port") or "")
        except psycopg.Error:
            raise ValueError("is no connection string; write postgresql://user:secret@host:5432/database") from None
        if not re.fullmatch(r"[\d,\s]*", ports):
            raise ValueError("the port is no number; write @ : / ? # in a password as %40 %3A %2F %3F %23")
    return value


Conninfo = Annotated[str, BeforeValidator(_conninfo)]


class Database(Section):
    url: Conninfo = ""
    """a libpq connection string. Left out, libpq's own variables hold: `PGHOST`, `PGSERVICE`, … Several hosts:
    `postgresql://a,b/app?target_session_attrs=read-write`"""
    listen_url: Conninfo = ""
    """where `url` goes through a pooler: a direct connection for LISTEN and the gate"""


class SmtpServer(Section):
    """Where `smtp.url` leads."""

    host: str
    port: int
    security: Literal["starttls", "tls", "off"]
    username: str | None
    password: str | None = Field(repr=False)


class Smtp(Section):
    url: str = "smtp://127.0.0.1:25"
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
    def server(self) -> SmtpServer:
        return parse_smtp_url(self.url)


def _mailbox(value: object) -> object:
    return parse_mailbox(value) if isinstance(value, str) else value


def _address(value: object) -> object:
    try:
        return parse_address(value) if isinstance(value, str) else value
    except BadData as exc:
        raise ValueError(f"{value!r}: {exc}") from None


def _allowed(value: object) -> object:
    """A list; in the environment, with commas between."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return items
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError('write addresses and domains: ["@example.org", "jane@example.com"]')
    try:
        return tuple(parse_allowed(item) for item in items)
    except BadData as exc:
        raise ValueError(f"{', '.join(items)!r}: {exc}; write @example.org or jane@example.com") from None


class Mail(Section):
    sender: Annotated[Mailbox, BeforeValidator(_mailbox)] = Field(
        default_factory=lambda: parse_mailbox("pgherald <no-reply@localhost>"), alias="from"
    )
    """name and address in the From line. Set it"""
    envelope_from: Annotated[Mailbox | None, BeforeValidator(_mailbox)] = None
    """where bounces go; else the address in `from`"""
    key_header: str = Field("X-Pgherald-Key", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")
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
    allow: Annotated[tuple[str, ...] | None, BeforeValidator(_allowed)] = Field(None, min_length=1)
    """who may get mail at all, see below; in the environment with commas between"""
    redirect_to: Annotated[Address | None, BeforeValidator(_address)] = None
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


def _names(value: object) -> object:
    return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value


class Http(Section):
    listen: str = "127.0.0.1:9599"
    """where health, metrics and the page are: address and port, or `off`. Set by hand, it must be free; the default
    gives way to any free port, which the log event `http_listening` tells"""
    public_url: BaseUrl = ""
    """where `/unsubscribe/` is reached from outside, for the links in mails: `https://mail.example.org`. Its name
    needs no place in `hosts`, and leads to nothing else"""
    hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """names by which it may be asked, `["pgherald.internal"]`; by environment with commas between. Addresses and
    `localhost` always may: only a name can be pointed here by a stranger's web page"""
    token: str | None = Field(None, repr=False)
    """whoever has it may retry, resolve, pause and resume on the page; 16 characters or more. Without one, the page
    only shows"""

    @field_validator("listen")
    @classmethod
    def _understood(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("token")
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
        return (_Environment(settings_cls), init_settings)


class _Environment(EnvSettingsSource):
    """The environment, with ``…_FILE`` variables replaced by what their files hold."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        for name in variables:
            self._check_section(name)
        for name, path in list(variables.items()):
            bare = name.removesuffix("_file")
            if bare != name and name.startswith("pgherald_") and path is not None and not self._is_key(name):
                variables[bare] = _read_secret(name.upper(), path)
                del variables[name]
        return variables

    def _check_section(self, name: str) -> None:
        """Other programs may use the prefix, so only what is nearly a section is taken for one misspelt."""
        prefix, _, rest = name.partition("_")
        section = rest.partition("_")[0]
        sections = list(self.settings_cls.model_fields)
        if (
            prefix == "pgherald"
            and section not in sections
            and (close := difflib.get_close_matches(section, sections, n=1, cutoff=0.75))
        ):
            raise ConfigError(f"environment, {name.upper()}: unknown section; did you mean {close[0].upper()!r}?")

    def _is_key(self, name: str) -> bool:
        section, _, key = name.removeprefix("pgherald_").partition("_")
        field = self.settings_cls.model_fields.get(section)
        return field is not None and key in getattr(field.annotation, "model_fields", {})


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{variable}: cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc


def parse_listen(value: str) -> tuple[str, int] | None:
    """``127.0.0.1:9599``, ``[::1]:9599``, or ``off``, which is None. Port 0 is any that is free."""
    if value == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{value!r} is no address; write 127.0.0.1:9599, 0.0.0.0:9599, [::]:9599, or off")
    return match[1] or match[2], int(match[3])


def parse_smtp_url(url: str) -> SmtpServer:
    """``smtp://`` demands STARTTLS, but on loopback or with ``?starttls=off``; ``smtps://`` is TLS from the start."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    starttls = query.pop("starttls", ["required"])[-1]
    if (
        parts.scheme not in ("smtp", "smtps")
        or not parts.hostname
        or parts.path not in ("", "/")
        or query
        or parts.fragment
    ):
        raise ValueError("write smtp://user:secret@host:587 or smtps://user:secret@host:465")
    if starttls not in ("required", "off"):
        raise ValueError("starttls is required or off")
    try:
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"the port is wrong: {exc}") from exc
    if port == 0:
        raise ValueError("the port is wrong: 0")
    if parts.scheme == "smtps" and "starttls" in parts.query:
        raise ValueError("smtps:// is TLS from the start; starttls goes with smtp://")
    security: Literal["starttls", "tls", "off"]
    if parts.scheme == "smtps":
        security = "tls"
    elif starttls == "off" or (parts.hostname in LOOPBACK and "starttls" not in parts.query):
        security = "off"
    else:
        security = "starttls"
    return SmtpServer(
        host=parts.hostname,
        port=port or {"tls": 465, "starttls": 587, "off": 25}[security],
        security=security,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


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
        raise ConfigError("; ".join(_explain(error, values, file) for error in exc.errors())) from exc
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


def _explain(error: Any, values: Mapping[str, Any], file: Path | None) -> str:
    """One fault in words: where it stands, what is wrong, and the key that was probably meant."""
    path = [str(part) for part in error["loc"]]
    *section, key = path[:3] if path[0] == "rules" else path[:2]
    place = f"[{'.'.join(section)}] {key}" if section else f"[{key}]"
    in_file = _stands(values, error["loc"]) or (error["type"] == "missing" and path[0] in values)
    source = str(file) if in_file else f"environment, PGHERALD_{'_'.join(path[:2]).upper()}"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, _known(path), n=1)
        return f"{source}: {place}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if error["type"] == "missing":
        return f"{source}: {place}: is missing"
    if path[2:] == ["[key]"]:
        return f"{source}: [rules.{path[1]}]: a rule's name is small letters, digits and underscores, 40 at most"
    if error["type"] == "string_pattern_mismatch":
        return f"{source}: {place}: {_PATTERNS[key]}"
    return f"{source}: {place}: {error['msg'].removeprefix('Value error, ')}"


def _stands(node: Any, place: tuple[int | str, ...]) -> bool:
    """Whether the file has this place, down to the element of a list. A name that is itself wrong is called ``[key]``."""
    for part in place:
        if part == "[key]":
            return True
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True


def _known(path: list[str]) -> list[str]:
    if len(path) == 1:
        return list(Settings.model_fields)
    model: Any = Rule if path[0] == "rules" else Settings.model_fields[path[0]].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
