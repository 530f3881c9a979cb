"""Options and types of values that several commands share."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from listener.config import settings as config
from listener.config.fields import parse_duration
from listener.config.keys import parse_key
from listener.config.rules import Rule
from listener.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

# For a command that takes a row's key as its argument: -5 is a key and not an option.
NEGATIVE_KEYS = {"ignore_unknown_options": True}
# A slower backfill would take days. A faster one is not limited by a rate.
MIN_RATE, MAX_RATE = 0.1, 1e6

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    hidden=True,
    help="The same as --config before the command.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def config_option(function: F) -> F:
    """Let the command take `--config` after its name too."""
    return _CONFIG(function)


def json_option(function: F) -> F:
    """Let the command take `--json`."""
    return _JSON(function)


def load_settings(
    config_file: Path | None, overrides: Mapping[str, Mapping[str, Any]] | None = None, *, rules: bool = True
) -> Settings:
    """Return the settings from the file that either `--config` names, else from the default file.

    Without `rules`, those of the file are not read.
    """
    return config.load(config_file or click.get_current_context().find_root().obj, overrides, rules=rules)


def get_rule(loaded: Settings, name: str) -> Rule:
    """Return the rule of this name.

    Raises:
        click.BadParameter: there is none. The message lists the rules.
    """
    if name not in loaded.rules:
        raise click.BadParameter(
            f"rule {name!r} is not configured; choose one of: {', '.join(loaded.rules)}", param_hint="RULE"
        )
    return loaded.rules[name]


def require_each(rule: Rule | None, person: str | None, key: str | None) -> None:
    """Refuse --person without a row, or for a rule that does not know persons."""
    if person is None:
        return
    if rule is None or key is None:
        raise click.UsageError("--person requires a rule and the key of a row")
    if not rule.each:
        raise click.UsageError("--person requires a rule with `each`; leave it out")


def stored_key(rule: Rule, text: str, *, hint: str = "KEY") -> str:
    """Return the outbox's form of a key as the user wrote it. `hint` names the argument or option in the error.

    Raises:
        click.BadParameter: the key has another number of values than the rule's key has columns.
    """
    try:
        return parse_key(rule, text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=hint) from exc


class _Duration(click.ParamType[float]):
    """A duration such as ``12h``, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(str(parse_duration(value)))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _Moment(click.ParamType[datetime]):
    """A date or a time in ISO 8601. Without an offset it is in UTC, as all times that the commands print."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a time; write 2026-11-22, 2026-11-22T17:44 or 2026-11-22T17:44:45+01:00", param, ctx
            )
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class _Rate(click.ParamType[float]):
    """A number per second: ``50`` or ``50/s``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(str(value).removesuffix("/s"))
        except ValueError:
            rate = 0.0
        if not MIN_RATE <= rate <= MAX_RATE:
            self.fail(f"{value!r} is not a rate; write 50 or 50/s, at least {MIN_RATE:g}", param, ctx)
        return rate


DURATION = _Duration()
MOMENT = _Moment()
RATE = _Rate()


def quantity(number: int, noun: str) -> str:
    """Return ``1 event`` or ``2 events``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
