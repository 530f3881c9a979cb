"""Options that several commands share."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from listener.config import settings as config
from listener.config.fields import parse_duration
from listener.config.rules import Rule
from listener.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

# Of a command whose argument is a row's key: -5 is one, and no option.
KEYED = {"ignore_unknown_options": True}

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    hidden=True,
    help="As before the command.",
)


def configured(function: F) -> F:
    """`--config` after the command too."""
    return _CONFIG(function)


def settings(config_file: Path | None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    return config.load(config_file or click.get_current_context().find_root().obj, overrides)


def the_rule(loaded: Settings, name: str) -> Rule:
    """The rule of this name, or a usage error that lists the names there are."""
    if name not in loaded.rules:
        raise click.BadParameter(f"there is no rule {name!r}; there are: {', '.join(loaded.rules)}", param_hint="RULE")
    return loaded.rules[name]


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(str(parse_duration(value)))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _Moment(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time; write 2026-11-22, 2026-11-22T17:44 or 2026-11-22T17:44:45+01:00", param, ctx
            )


class _Rate(click.ParamType[float]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(str(value).removesuffix("/s"))
        except ValueError:
            rate = 0.0
        if not 0.1 <= rate <= 1e6:
            self.fail(f"{value!r} is no rate; write 50 or 50/s, 0.1 at least", param, ctx)
        return rate


DURATION = _Duration()
MOMENT = _Moment()
RATE = _Rate()


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
