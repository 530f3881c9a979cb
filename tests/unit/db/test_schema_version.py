"""Which versions of the schema this pgherald uses, and what it says of the others."""

import pytest

from listener.db.schema_version import VERSION, SchemaVersion
from listener.errors import SchemaError


@pytest.mark.parametrize("version", [SchemaVersion(VERSION, VERSION), SchemaVersion(VERSION + 1, VERSION)])
def test_this_version_and_the_next_that_allows_it_are_used(version: SchemaVersion) -> None:
    assert version.problem is None
    assert version.require_usable() is version
    assert version.is_newer == (version.number > VERSION)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (SchemaVersion(VERSION - 1, VERSION - 1), "run `pgherald install`"),
        (SchemaVersion(VERSION + 1, VERSION + 1), "update this pgherald"),
        (SchemaVersion(VERSION + 2, VERSION), "update this pgherald"),
    ],
)
def test_another_version_is_refused_with_a_remedy(version: SchemaVersion, remedy: str) -> None:
    with pytest.raises(SchemaError, match=f"schema pgherald: version {version.number} is installed.*; {remedy}"):
        version.require_usable()
