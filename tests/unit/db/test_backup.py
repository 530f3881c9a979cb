"""Owners that cannot dump the database, in words and statements."""

from listener.db.backup import described

READ = "GRANT USAGE ON SCHEMA pgherald TO pgherald_backup"


def test_none() -> None:
    assert described([]) is None


def test_the_role_exists_and_reads() -> None:
    blocked = described([("app", True, True)])
    assert blocked is not None
    assert blocked.remedy == "GRANT pgherald_backup TO app; see docs/dba.md, Backup"


def test_the_role_exists_without_rights_in_this_database() -> None:
    blocked = described([("app", True, False)])
    assert blocked is not None
    assert blocked.remedy.startswith(READ)
    assert "SEQUENCES" in blocked.remedy


def test_the_role_is_missing_and_two_owners_need_it() -> None:
    blocked = described([("app", False, False), ('"Web"', False, False)])
    assert blocked is not None
    assert blocked.seen.startswith('pg_dump and vacuumdb fail as app, "Web",')
    assert blocked.remedy.startswith(f"CREATE ROLE pgherald_backup; {READ}")
    assert blocked.remedy.endswith('GRANT pgherald_backup TO app, "Web"; see docs/dba.md, Backup')
