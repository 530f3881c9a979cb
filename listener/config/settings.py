"""The settings: command line over environment over file over default.

Every key of `pgherald.toml` except those of rules can be set as ``PGHERALD_SECTION_KEY``, or read from the file that
``PGHERALD_SECTION_KEY_FILE`` names.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from listener.config.environment import Environment
from listener.config.inherited import delivery_of, mail_of, problems
from listener.config.placeholder import refuse_placeholders
from listener.config.problems import explained
from listener.config.rules import Rule, default_rules
from listener.config.sections import Bounces, Database, DeliverySettings, Http, Log, Mail
from listener.config.smtp import Smtp
from listener.errors import ConfigError

DEFAULT_FILE = Path("pgherald.toml")
# Tasks, pools and sockets are made by these at the start. All other keys are applied by SIGHUP.
NEEDS_RESTART: Mapping[str, tuple[str, ...]] = {
    "database": ("url", "listen_url", "lookup_url"),
    "smtp": ("connections",),
    "delivery": ("poll", "lease"),
    "http": ("listen",),
    "log": ("format", "level"),
}


class Settings(BaseSettings):
    """The whole configuration, valid and frozen. `load` makes one."""

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
    delivery: DeliverySettings = DeliverySettings()
    http: Http = Http()
    bounces: Bounces = Bounces()
    log: Log = Log()
    rules: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Rule] = Field(
        default_factory=default_rules, min_length=1
    )

    def mail_of(self, rule: str) -> Mail:
        """Return the section `[mail]` as it applies to this rule; of an unknown rule, the section itself."""
        return mail_of(self.mail, self.rules[rule]) if rule in self.rules else self.mail

    def delivery_of(self, rule: str) -> DeliverySettings:
        """Return the section `[delivery]` as it applies to this rule; of an unknown rule, the section itself."""
        return delivery_of(self.delivery, self.rules[rule]) if rule in self.rules else self.delivery

    def holds_doubts(self, rule: str) -> bool:
        """Return whether an event of this rule that comes into doubt waits for a person.

        An event of an unknown rule does: a reload has removed the rule, and its policy with it.
        """
        return rule not in self.rules or (self.rules[rule].in_doubt or self.delivery.in_doubt) == "hold"

    @property
    def held_rules(self) -> list[str]:
        """The rules whose events in doubt wait for a person."""
        return [rule for rule in self.rules if self.holds_doubts(rule)]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings; the first one wins. `load` passes the file's contents as `init_settings`."""
        return (Environment(settings_cls), init_settings)


def load(
    file: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None, *, rules: bool = True
) -> Settings:
    """Read the file and the environment.

    The file is `file`, else the one that ``PGHERALD_CONFIG`` names, else ``./pgherald.toml`` if it exists. `overrides`
    are sections with keys from the command line. They are taken as they are. Without `rules`, those of the file are not
    read: `init` is about to write them.

    Raises:
        ConfigError: the file cannot be read, a rule is to be completed, or values are invalid. The message has every
            error, each with its place.
    """
    if file is None and (named := os.environ.get("PGHERALD_CONFIG")):
        file = Path(named)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    values: dict[str, Any] = _read_toml(file) if file is not None else {}
    if not rules:
        values.pop("rules", None)
    elif file is not None:
        refuse_placeholders(values, file)
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        # `from None`: pydantic's own message may quote the input, and a traceback would show a password.
        raise ConfigError("; ".join(explained(error, values, file, Settings) for error in exc.errors())) from None
    if found := list(problems(settings.mail, settings.rules)):
        raise ConfigError("; ".join(f"{file}: {problem}" for problem in found))
    return settings.model_copy(
        update={
            section: getattr(settings, section).model_copy(update=keys) for section, keys in (overrides or {}).items()
        }
    )


def reloaded(used: Settings, read: Settings) -> tuple[Settings, list[str]]:
    """Return what a running daemon can apply of `read`, and the changed keys that need a restart.

    These keys keep the values that are `used`. Otherwise a part of the daemon would follow one value and a part the other.
    """
    kept: dict[str, Any] = {}
    changed: list[str] = []
    for section, keys in NEEDS_RESTART.items():
        before, after = getattr(used, section), getattr(read, section)
        kept[section] = after.model_copy(update={key: getattr(before, key) for key in keys})
        changed += [f"{section}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
    return read.model_copy(update=kept), changed


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        raise ConfigError(
            f"{file}: cannot read the configuration: {exc.strerror}; name a readable file with --config or PGHERALD_CONFIG"
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        # tomllib says "Invalid value" of text without quotes, the commonest mistake.
        remedy = '; text needs quotes: from = "…"' if str(exc).startswith("Invalid value") else ""
        raise ConfigError(f"{file}: {exc}{remedy}") from exc
