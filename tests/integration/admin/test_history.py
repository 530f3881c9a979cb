"""A row's events, or the reason why it has none."""

from typing import Any

import pytest

from listener.admin.history import RowHistory, as_written, read_history
from listener.config.rules import default_rules
from listener.errors import SchemaError
from tests.support.database import Database

[(NAME, RULE)] = default_rules().items()


def history(database: Database, key: Any) -> RowHistory:
    conn = database.connect()
    return read_history(conn, conn, NAME, RULE, str(key))


def test_an_event_is_found_by_the_key_as_a_person_writes_it(database: Database) -> None:
    plan = database.add_plan("Café", "jane@example.org")
    database.verify(plan)
    found = history(database, f"00{plan}")
    assert (found.exists, found.why, found.paused_at) == (True, None, None)
    [event] = found.events
    assert (event["state"], [entry["what"] for entry in event["history"]]) == ("available", ["captured"])
    conn = database.connect()
    assert as_written(conn, NAME, RULE, f"00{plan}") == as_written(conn, NAME, RULE, str(plan)) == str(plan)
    assert as_written(conn, NAME, RULE, "0099") == "99"
    assert as_written(conn, NAME, RULE, "no number") == "no number"


@pytest.mark.parametrize(
    "change", ["ALTER TABLE public.dateplan RENAME status TO state", "DROP TABLE public.dateplan CASCADE"]
)
def test_events_are_shown_of_a_table_that_cannot_be_read_any_more(database: Database, change: Any) -> None:
    plan = database.add_plan("Café", "jane@example.org")
    database.verify(plan)
    database.execute(change)
    [event] = history(database, plan).events
    assert event["state"] == "available"
    with pytest.raises(SchemaError, match="does not exist"):
        history(database, plan + 1)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SELECT", "status is 'PE', not 'VE'"),
        ("DELETE FROM public.dateplan", "there is no such row in public.dateplan"),
        ("SELECT pgherald.unwatch('dateplan_verified')", "the rule is not watched in this database"),
        (
            "SET session_replication_role = replica; UPDATE public.dateplan SET status = 'VE'",
            "the row reached the value unseen",
        ),
        (
            "SET session_replication_role = replica; UPDATE public.dateplan SET status = 'VE'; "
            "INSERT INTO pgherald.handled (rule, key, why) SELECT 'dateplan_verified', id::text, 'purged' FROM public.dateplan",
            "the row's events were purged",
        ),
    ],
)
def test_why_a_row_has_no_event(database: Database, statement: Any, why: str) -> None:
    plan = database.add_plan("Café", "jane@example.org")
    database.connect().execute(statement)
    found = history(database, plan)
    assert (found.events, found.exists) == ([], "DELETE" not in statement)
    assert found.why is not None
    assert found.why.startswith(why)
