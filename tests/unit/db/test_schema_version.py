"""Which schema versions this pgherald can use, as a table."""

import re

import pytest

from listener.db.schema_version import VERSION, SchemaVersion
from listener.errors import SchemaError
from listener.resources import resource


@pytest.mark.parametrize(
    ("number", "usable_from", "refused_for"),
    [
        (VERSION - 1, VERSION - 1, "run `pgherald install`"),
        (VERSION, VERSION, None),
        (VERSION, VERSION - 1, None),
        (VERSION + 1, VERSION - 1, None),
        (VERSION + 1, VERSION, None),
        (VERSION + 1, VERSION + 1, f"made for version {VERSION + 1} or later can use"),
        (VERSION + 2, VERSION, f"can use only versions {VERSION} and {VERSION + 1}"),
        (VERSION + 2, VERSION + 2, f"can use only versions {VERSION} and {VERSION + 1}"),
    ],
)
def test_own_version_and_the_next_one_if_the_database_says_so(
    number: int, usable_from: int, refused_for: str | None
) -> None:
    version = SchemaVersion(number, usable_from)
    if refused_for is None:
        assert version.problem is None
        assert version.require_usable() is version
    else:
        with pytest.raises(SchemaError, match=re.escape(refused_for)) as caught:
            version.require_usable()
        assert str(caught.value).startswith(f"schema pgherald: version {number} is installed, ")


def test_a_newer_version_is_named_with_our_own() -> None:
    assert str(SchemaVersion(VERSION, VERSION)) == f"version {VERSION}"
    shown = str(SchemaVersion(VERSION + 1, VERSION))
    assert f"version {VERSION + 1}, newer than version {VERSION}" in shown


def test_the_file_and_the_code_have_one_version() -> None:
    """The rehearsal makes the next release by changing both, and a release that changes only one would not start."""
    text = resource("sql/triggers.sql").read_text(encoding="utf-8")
    constants = dict(re.findall(r"^ +(this_version|usable_from) +CONSTANT pg_catalog\.int4 := (\d+);$", text, re.M))
    assert int(constants["this_version"]) == VERSION
    # One version back at most: no daemon accepts a schema that is two versions ahead.
    assert VERSION - 1 <= int(constants["usable_from"]) <= VERSION
