"""The destination that `run --once` names when it cannot be reached."""

from typing import Any

import pytest

from listener.cli.run import _where
from listener.config.settings import Settings


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"smtp": {"url": "smtp://ana:secret@relay.example:2525"}}, "relay.example:2525, [smtp] url"),
        ({"mail": {"transport": "file", "directory": "/var/tmp/mail"}}, "/var/tmp/mail, [mail] directory"),
    ],
)
def test_the_place_and_the_key_that_sets_it(settings: dict[str, Any], where: str) -> None:
    assert _where(Settings.model_validate(settings)) == where
