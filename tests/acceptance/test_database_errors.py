"""A database that is unreachable or has no pgherald in it: one line, with the remedy."""

import pytest

from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.configuration import refuses
from tests.support.database import Database


def test_without_install(bare_database: Database, pgherald: Pgherald) -> None:
    for command in (["run", "--once"], ["run"], ["status"]):
        refuses(pgherald, *command, says=("pgherald install",))


@pytest.mark.parametrize(
    "command",
    [["run", "--once"], repeats(["status"]), ["install"], ["explain", "dateplan_verified", "1"]],
    ids=" ".join,
)
def test_no_database(pgherald: Pgherald, command: list[str]) -> None:
    says = (
        "Connection refused",
        "check that the server is running and that [database] url (PGHERALD_DATABASE_URL) is right",
    )
    refuses(pgherald, *command, says=says, PGHERALD_DATABASE_URL="postgresql://127.0.0.1:1/x")
    status = 78 if command[0] == "run" else 1
    refuses(pgherald, *command, says=("[database] url",), status=status, PGHERALD_DATABASE_URL="mysql://x")
