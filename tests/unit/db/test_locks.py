"""The numbers of the advisory locks are the same in SQL and in Python."""

import re

from listener.db import locks
from listener.db.locks import AdvisoryLock
from listener.resources import resource

IN_SQL = ["triggers.sql", "roles.sql", "uninstall.sql", *(f"queries/{n}.sql" for n in ("admin", "doctor", "worker"))]
SPACES = {locks.GATE.space, locks.PRESENCE_SPACE, locks.BACKFILL_SPACE}


def text(name: str) -> str:
    return resource(f"sql/{name}").read_text(encoding="utf-8")


def test_triggers_sql_lists_every_lock() -> None:
    listed = re.findall(r"(?m)^--   \((\d+), ([\w.()]+)\) ", text("triggers.sql"))
    assert listed == [
        *((str(lock.space), str(lock.number)) for lock in (locks.GATE, locks.LEADER, locks.INSTALLER)),
        (str(locks.PRESENCE_SPACE), "worker.lock"),
        (str(locks.BACKFILL_SPACE), "hashtext(rule)"),
    ]


def test_sql_uses_no_other_lock() -> None:
    for name in IN_SQL:
        used = re.findall(r"(?:advisory\w*\(|classid = |CASE held.classid\s+WHEN )(\d+)", text(name))
        assert used, name
        assert {int(space) for space in used} <= SPACES, name


def test_a_lock_is_the_argument_list_of_its_function() -> None:
    assert f"SELECT pg_advisory_lock({AdvisoryLock(1, 2)})" == "SELECT pg_advisory_lock(1, 2)"
    assert locks.INSTALLER._asdict() == {"space": 726354, "number": 3}
