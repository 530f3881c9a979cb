"""Read a configuration from text, or the error that it gives."""

from pathlib import Path

import pytest

from listener.config.settings import Settings, load
from listener.errors import ConfigError

RULE = """
    [rules.plan_verified]
    table = "public.plan"
    becomes = "VE"
    template = "plan_verified"
"""
LOOKUP = 'lookup = "SELECT 1 WHERE 1 = ANY (%(keys)s::int[])"\n'


def loaded(text: str) -> Settings:
    """Return the settings of a `pgherald.toml` with this text, in the current folder."""
    Path("pgherald.toml").write_text(text, encoding="utf-8")
    return load()


def refused(text: str = "") -> str:
    """Return the error of a `pgherald.toml` with this text."""
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return str(caught.value)
