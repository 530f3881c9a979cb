"""The model of the outbox: what Django's own commands do with it, and what it reads."""

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.django_project import ConnectDjango
from tests.support.database import Database, Databases


@pytest.fixture
def database(databases: Databases, django_migrated: str, connect_django: ConnectDjango) -> Iterator[Database]:
    from django.db import connections

    with databases.fresh(django_migrated) as database:
        connect_django(database.url)
        database.execute(
            "INSERT INTO pgherald.outbox (rule, key, recipient) VALUES ('dateplan_verified', '7', 'jane@example.org')"
        )
        yield database
        connections.close_all()


def test_it_has_every_column_but_those_in_transit(database: Database) -> None:
    from listener.django.models import Event

    columns = {name for (name,) in database.execute("SELECT attname::text FROM pg_attribute WHERE attrelid = 'pgherald.outbox'::regclass AND attnum > 0")}  # fmt: skip
    shown = {field.column for field in Event._meta.fields}
    assert shown < columns
    assert columns - shown == {
        "recipient", "message", "captured_xid", "claim", "claimed_by", "claimed_at", "snapshot", "traceparent",
    }  # fmt: skip
    event = Event.objects.get()
    assert (str(event), event.key, event.state, event.history) == ("event 1", "7", "available", [])
    event.refresh_from_db()


def test_its_states_are_those_of_the_outbox(database: Database) -> None:
    from listener.django.models import Event

    known = database.value("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'outbox_state_known'")
    assert {state for state in Event.State.values if f"'{state}'" in known} == set(Event.State.values)
    assert known.count("::text") == len(Event.State.values)


def test_other_commands_leave_events_alone(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A dump also for a role that may read nothing of pgherald."""
    from django.core.management import call_command
    from django.db import connection

    database.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO pg_monitor")
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE pg_monitor")
    call_command("dumpdata")
    assert {row["model"].partition(".")[0] for row in json.loads(capsys.readouterr().out)} == {"auth", "contenttypes"}
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
    # This would create the table of a managed model.
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    assert len(database.events()) == 1
