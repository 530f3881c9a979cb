"""The system check: silent on what Watch made, a warning with a remedy for each fault, and never an error."""

from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import pytest

from tests.fixtures.django_project import ConnectDjango
from tests.support.database import Database, Databases

RULE = "dateplan_verified"


@pytest.fixture
def database(databases: Databases, django_migrated: str, connect_django: ConnectDjango) -> Iterator[Database]:
    from django.db import connections

    with databases.fresh(django_migrated) as database:
        connect_django(database.url)
        yield database
        connections.close_all()


@pytest.fixture
def check() -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        from listener.django.checks import check_rules

        return check_rules(databases=["default"])

    return run


def test_all_is_well(database: Database, check: Callable[[], list[Any]]) -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("fault", "expected", "said", "remedy"),
    [
        ("DROP SCHEMA pgherald CASCADE", ["W001"], "schema pgherald is missing", "Run `pgherald install`, then"),
        (
            "ALTER TABLE dates_dateplan DISABLE TRIGGER pgherald_dateplan_verified_update",
            ["W002"], "on dates_dateplan are missing or disabled", "pgherald backfill dateplan_verified --dry-run",
        ),
        (
            "ALTER TABLE dates_dateplan RENAME TO old; CREATE TABLE dates_dateplan (LIKE old INCLUDING ALL)",
            ["W002"], "on dates_dateplan are missing", "pgherald install",
        ),
        ("SELECT pgherald.unwatch('dateplan_verified')", ["W002"], "are missing", "pgherald install"),
        (
            "ALTER FUNCTION pgherald.capture_dateplan_verified() OWNER TO pg_monitor",
            ["W003"], "has lost a right", "GRANT USAGE ON SCHEMA pgherald TO pg_monitor",
        ),
        (
            "SELECT pgherald.rewatch('dateplan_verified', 'dates_dateplan', becomes => '{CA}')",
            ["W004"], "the database watches status = 'CA', and the migrations status = 'VE'", "pgherald rewatch",
        ),
        ("ALTER TABLE dates_dateplan RENAME status TO phase", ["W005"], "no longer has column status", "pgherald rewatch"),
        ("UPDATE pgherald.rule SET snapshot_done = false", ["W006"], "`pgherald backfill` does not run", "pgherald install"),
    ],
)  # fmt: skip
def test_each_fault(
    database: Database,
    check: Callable[[], list[Any]],
    fault: LiteralString,
    expected: list[str],
    said: str,
    remedy: str,
) -> None:
    database.execute(fault)
    found = check()
    assert [message.id.removeprefix("pgherald.") for message in found] == expected
    assert found[0].msg.startswith(f"rule {RULE}: ")
    assert said in found[0].msg
    assert remedy in found[0].hint
    assert not found[0].is_serious(), "an error would keep `migrate` from running"


def test_a_label_instead_of_the_value_is_found(
    database: Database, check: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.apps import apps

    field = apps.get_model("dates.DatePlan")._meta.get_field("status")
    for choices in ([("PE", "Pending"), ("Group", [("VE", "Verified")])], None):
        monkeypatch.setattr(field, "choices", choices)
        assert check() == []
    monkeypatch.setattr(field, "choices", [("PE", "VE"), ("CA", "Cancelled")])
    [warning] = check()
    assert warning.id == "pgherald.W007"
    assert warning.msg == f"rule {RULE}: 'VE' is not among the choices of status: PE, CA."
    assert not warning.is_serious()


def test_a_role_without_rights_sees_the_triggers(database: Database, check: Callable[[], list[Any]]) -> None:
    from django.db import connection, transaction

    database.execute("GRANT SELECT ON django_migrations TO pg_monitor")
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE pg_monitor")
    with transaction.atomic():
        assert check() == []
        # A query that failed would have ended the transaction.
        connection.introspection.table_names()
    database.execute("UPDATE pgherald.rule SET becomes = '{XX}'")
    assert check() == [], "it read a table that it may not read"
    database.execute("DROP TRIGGER pgherald_dateplan_verified_insert ON dates_dateplan")
    assert [message.id for message in check()] == ["pgherald.W002"]


def test_only_applied_migrations_count(database: Database, check: Callable[[], list[Any]]) -> None:
    from django.core.management import call_command

    call_command("migrate", "dates", "0001", verbosity=0)
    database.execute("DROP SCHEMA pgherald CASCADE")
    assert check() == []


def test_a_database_that_does_not_answer_fails_nothing(
    database: Database, check: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection

    connection.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", "a_database_that_is_gone")
    assert check() == []


def test_the_last_operation_of_a_rule_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    from django.db import connection, migrations

    from listener.django.checks import watched_rules
    from listener.django.operations import Unwatch, Watch

    first, second = (Watch(RULE, "DatePlan", field="status", becomes=value) for value in ("VE", "CA"))
    gone = Unwatch("other", "DatePlan", field="status", becomes="VE")
    other = Watch("other", "DatePlan", field="status", becomes="VE")
    kind = import_module("dates.migrations.0002_pgherald").Migration
    nested = migrations.SeparateDatabaseAndState(database_operations=[second, other])
    monkeypatch.setattr(kind, "operations", [first, nested, gone])
    assert watched_rules(connection) == [("dates", second)]
