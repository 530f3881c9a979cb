"""Each way in which a row can reach the value gives one event, per row and per statement. Nothing else does."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.database import Database

WATCH = "SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => %s)"


@pytest.fixture(params=["row", "statement"])
def plans(sandbox: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """1 and 2 are pending, 3 is verified, 4 has no status; none of them has an event."""
    sandbox.execute(WATCH, (request.param,))
    sandbox.execute("INSERT INTO public.dateplan (id, status) VALUES (1, 'PE'), (2, 'PE'), (3, 'VE'), (4, NULL)")
    sandbox.execute("DELETE FROM pgherald.outbox")
    yield sandbox
    sandbox.execute(WATCH, ("row",))


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


BEFORE = """
    CREATE FUNCTION app.decide() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.status := '{}'; RETURN NEW; END $$;
    CREATE TRIGGER aa BEFORE INSERT OR UPDATE ON public.dateplan FOR EACH ROW EXECUTE FUNCTION app.decide();
"""
UPSERT = "INSERT INTO public.dateplan (id, status) VALUES ({}) ON CONFLICT (id) DO {}"
MERGE = """
    MERGE INTO public.dateplan AS d USING (VALUES (2), (3), (9)) AS s (id) ON d.id = s.id
     WHEN MATCHED THEN UPDATE SET status = 'VE' WHEN NOT MATCHED THEN INSERT (id, status) VALUES (s.id, 'VE')
"""

ONE_EACH: dict[str, tuple[str, list[str]]] = {
    "update": ("UPDATE public.dateplan SET status = 'VE' WHERE id = 1", ["1"]),
    "from NULL": ("UPDATE public.dateplan SET status = 'VE' WHERE id = 4", ["4"]),
    "insert": ("INSERT INTO public.dateplan (id, status) VALUES (9, 'VE')", ["9"]),
    "insert of many": ("INSERT INTO public.dateplan (id, status) SELECT g, 'VE' FROM generate_series(9, 11) AS g", ["9", "10", "11"]),
    "upsert that inserts": (UPSERT.format("9, 'VE'", "UPDATE SET status = 'XX'"), ["9"]),
    "upsert that updates": (UPSERT.format("1, 'XX'", "UPDATE SET status = 'VE'"), ["1"]),
    "upsert by EXCLUDED": (UPSERT.format("1, 'VE'", "UPDATE SET status = EXCLUDED.status"), ["1"]),
    "in bulk": ("UPDATE public.dateplan SET status = 'VE'", ["1", "2", "4"]),
    "merge": (MERGE, ["2", "9"]),
    "key changed with it": ("UPDATE public.dateplan SET id = 100, status = 'VE' WHERE id = 1", ["100"]),
    "through a view": ("CREATE VIEW app.v AS TABLE public.dateplan; UPDATE app.v SET status = 'VE' WHERE id = 1", ["1"]),
    "by a BEFORE UPDATE trigger": (f"{BEFORE.format('VE')}; UPDATE public.dateplan SET plan_id = 7 WHERE id = 1", ["1"]),
    "by a BEFORE INSERT trigger": (f"{BEFORE.format('VE')}; INSERT INTO public.dateplan (id) VALUES (9)", ["9"]),
    "in a CTE": ("WITH u AS (UPDATE public.dateplan SET status = 'VE' WHERE id = 1 RETURNING id) SELECT FROM u", ["1"]),
    "there and back and there": (
        """DO $$ BEGIN UPDATE public.dateplan SET status = 'PE' WHERE id = 3;
                       UPDATE public.dateplan SET status = 'VE' WHERE id = 3; END $$""",
        ["3"],
    ),
    "deleted and inserted again": (
        "DELETE FROM public.dateplan WHERE id = 3; INSERT INTO public.dateplan (id, status) VALUES (3, 'VE')",
        ["3"],
    ),
}  # fmt: skip

NONE: dict[str, str] = {
    "another value": "UPDATE public.dateplan SET status = 'XX'",
    "the value again": "UPDATE public.dateplan SET status = 'VE' WHERE id = 3",
    "another column": "UPDATE public.dateplan SET plan_id = 7 WHERE id = 3",
    "leaving": "UPDATE public.dateplan SET status = NULL WHERE id = 3",
    "delete": "DELETE FROM public.dateplan",
    "upsert, value again": UPSERT.format("3, 'VE'", "UPDATE SET status = 'VE'"),
    "upsert, nothing done": UPSERT.format("1, 'VE'", "NOTHING"),
    "undone by a BEFORE trigger": f"{BEFORE.format('PE')}; UPDATE public.dateplan SET status = 'VE' WHERE id = 1",
    "case counts": "UPDATE public.dateplan SET status = 've'",
    "length counts": "UPDATE public.dateplan SET status = 'VE '",
}  # fmt: skip


@pytest.mark.parametrize(("statement", "keys"), ONE_EACH.values(), ids=ONE_EACH)
def test_one_event_each(plans: Database, statement: str, keys: list[str]) -> None:
    plans.execute(statement)
    assert sorted(captured(plans)) == sorted(keys)


@pytest.mark.parametrize("statement", NONE.values(), ids=NONE)
def test_no_event(plans: Database, statement: str) -> None:
    plans.execute(statement)
    assert captured(plans) == []


@pytest.mark.parametrize(("plans", "keys"), [("row", []), ("statement", ["100"])], indirect=["plans"])
def test_a_new_key_is_news_to_a_statement(plans: Database, keys: list[str]) -> None:
    """Which sees rows before and rows after, and not which became which."""
    plans.execute("UPDATE public.dateplan SET id = 100 WHERE id = 3")
    assert captured(plans) == keys


def test_a_row_that_comes_back_has_another_event(plans: Database) -> None:
    for status in ("VE", "VE", "PE", "VE", None, "VE"):
        plans.execute("UPDATE public.dateplan SET status = %s WHERE id = 1", (status,))
    assert captured(plans) == ["1", "1", "1"]


def test_copy(plans: Database) -> None:
    with plans.connect() as conn, conn.cursor().copy("COPY public.dateplan (id, status) FROM STDIN") as copy:
        for row in ((10, "VE"), (11, "PE"), (12, "VE")):
            copy.write_row(row)
    assert captured(plans) == ["10", "12"]


def test_a_thousand_in_one_statement(plans: Database) -> None:
    plans.execute("INSERT INTO public.dateplan (id) SELECT generate_series(1001, 2000)")
    plans.execute("UPDATE public.dateplan SET status = 'VE' WHERE id > 1000")
    assert sorted(map(int, captured(plans))) == list(range(1001, 2001))


@pytest.mark.parametrize("per", ["row", "statement"])
def test_by_a_foreign_key_that_cascades(sandbox: Database, per: str) -> None:
    """Two updates of one row in the outer statement, the first of which brings it to the value."""
    sandbox.execute(
        """CREATE TABLE app.statuses (code text PRIMARY KEY);
           CREATE TABLE app.plans (id int PRIMARY KEY, status text REFERENCES app.statuses ON UPDATE CASCADE,
                                   other text REFERENCES app.statuses ON UPDATE CASCADE);
           INSERT INTO app.statuses VALUES ('old'); INSERT INTO app.plans VALUES (1, 'old', 'old')"""
    )
    sandbox.execute("SELECT pgherald.watch('cascade', 'app.plans', capture => %s)", (per,))
    sandbox.execute("UPDATE app.statuses SET code = 'VE'")
    assert captured(sandbox) == ["1"]


def test_a_transaction_rolled_back_leaves_nothing(plans: Database) -> None:
    conn = plans.connect()
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE public.dateplan SET status = 'VE'")
        seen = conn.execute("SELECT count(*) FROM pgherald.inbox").fetchone()
    assert seen == (3,)
    assert captured(plans) == []


def test_a_savepoint_rolled_back_leaves_only_what_was_outside(plans: Database) -> None:
    conn = plans.connect()
    with conn.transaction():
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = 1")
        with conn.transaction(force_rollback=True):
            conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = 2")
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = 4")
    assert captured(plans) == ["1", "4"]


def test_a_failing_statement_leaves_nothing(plans: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        plans.execute("UPDATE public.dateplan SET status = 'VE', plan_id = 1 / (id - 2)")
    assert captured(plans) == []


@pytest.mark.parametrize(
    "change", ["UPDATE public.dateplan SET status = 'VE'", "INSERT INTO public.dateplan (id, status) VALUES (9, 'VE')"]
)
def test_a_replica_does_not_capture(plans: Database, change: str) -> None:
    """A replicated or restored row had its event where it was written. Backfill finds those that had none."""
    conn = plans.connect(options="-c session_replication_role=replica")
    conn.execute(change)
    assert captured(plans) == []


def test_what_an_event_says(plans: Database) -> None:
    conn = plans.connect()
    with conn.transaction():
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = 1")
        now, xid = conn.execute("SELECT now(), pg_current_xact_id()::text").fetchone() or ()
    [event] = plans.events()
    assert event["captured_xid"] == xid
    assert event["captured_at"] > now
    expected = {
        "rule": "dateplan_verified", "key": "1", "state": "available", "attempt": 0, "in_doubt_count": 0, "reason": None,
        "scheduled_at": event["captured_at"], "settled_at": None, "claim": None, "recipient": None, "message": None, "history": [],
    }  # fmt: skip
    assert {name: event[name] for name in expected} == expected


def test_rules_on_one_table_don_t_meet(sandbox: Database) -> None:
    sandbox.execute("CREATE TABLE app.plans (id int PRIMARY KEY, status text)")
    for rule, value in (("accepted", "AC"), ("also_accepted", "AC"), ("denied", "DE")):
        sandbox.execute("SELECT pgherald.watch(%s, 'app.plans', becomes => ARRAY[%s])", (rule, value))
    sandbox.execute("INSERT INTO app.plans VALUES (1, 'AC'), (2, 'DE')")
    sandbox.execute("UPDATE app.plans SET status = 'DE' WHERE id = 1")
    assert sorted((event["rule"], event["key"]) for event in sandbox.events()) == [
        ("accepted", "1"), ("also_accepted", "1"), ("denied", "1"), ("denied", "2"),
    ]  # fmt: skip
