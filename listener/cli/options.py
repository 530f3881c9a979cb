"""Options that several commands share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from listener import config
from listener.config import Settings
from listener.rules import Rule

F = TypeVar("F", bound=Callable[..., Any])

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
