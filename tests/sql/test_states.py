"""Every kind of rule against every way to write: exactly the rows that come into the state have an event."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.support import repeats
from tests.support.database import Database

Row = dict[str, Any]

TYPES = """
    CREATE TYPE app.kind AS ENUM ('PE', 'VE', 'DE');
    CREATE DOMAIN app.code AS varchar(9) CHECK (VALUE <> 'no');
"""
TABLE = """
    CREATE TABLE app.plans (id int NOT NULL, region text NOT NULL DEFAULT 'north', status {type}, total numeric DEFAULT 1,
                            eta date, up text GENERATED ALWAYS AS (CASE WHEN total >= 100 THEN 'big' END) STORED,
                            parent int, PRIMARY KEY (id{more})){partition};
    CREATE TABLE app.source (id int PRIMARY KEY, status {type});
    CREATE TABLE app.parents (id int PRIMARY KEY, status text);
"""
PARTITIONS = """
    CREATE TABLE app.north PARTITION OF app.plans FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.plans FOR VALUES IN ('south');
"""
CODE = """
    CREATE FUNCTION app.promote(first int) RETURNS void LANGUAGE sql AS
        $$ UPDATE app.plans SET status = 'VE' WHERE id >= first $$;
    CREATE FUNCTION app.overrule() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.parent = 77 THEN NEW.status := 'VE'; NEW.total := 500; END IF; RETURN NEW; END $$;
    CREATE TRIGGER overrule BEFORE INSERT OR UPDATE ON app.plans FOR EACH ROW EXECUTE FUNCTION app.overrule();
    CREATE FUNCTION app.spread() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE app.plans SET status = 'VE', total = 100 WHERE parent = NEW.id; RETURN NULL; END $$;
    CREATE TRIGGER spread AFTER UPDATE ON app.parents FOR EACH ROW EXECUTE FUNCTION app.spread();
"""
ROWS = """
    TRUNCATE app.plans, app.source, app.parents;
    INSERT INTO app.parents VALUES (1, 'a');
    INSERT INTO app.source VALUES (1, 'VE'), (2, 'VE'), (4, 'PE'), (11, 'VE'), (12, 'DE');
    INSERT INTO app.plans (id, region, status, total, eta, parent) VALUES
        (1, 'north', 'PE', 100, '2026-01-01', 1), (2, 'north', 'VE', 100, '2026-01-01', 1), (3, 'south', NULL, 200, NULL, NULL),
        (4, 'south', 'VE', 200, NULL, 1), (5, 'north', 'DE', 300, '2026-01-01', NULL), (6, 'north', 'VE', 1, NULL, NULL),
        (7, 'south', 'PE', 50, NULL, 1), (8, 'north', 'DE', NULL, NULL, NULL);
    DELETE FROM pgherald.inbox;
    DELETE FROM pgherald.outbox;
"""
WRITES = {
    "INSERT": "INSERT INTO app.plans (id, status, total) VALUES (20, 'VE', 100), (21, 'PE', 100), (22, 'DE', 5), (23, NULL, NULL)",
    "INSERT SELECT": "INSERT INTO app.plans (id, status, total) SELECT id + 30, status, 100 FROM app.source",
    "UPDATE of one": "UPDATE app.plans SET status = 'VE' WHERE id = 1",
    "UPDATE of all": "UPDATE app.plans SET status = 'VE', total = 100",
    "UPDATE of nothing": "UPDATE app.plans SET status = status, eta = eta",
    "UPDATE that leaves": "UPDATE app.plans SET status = 'PE'",
    "UPDATE to another value": "UPDATE app.plans SET status = CASE WHEN status = 'VE' THEN 'DE'::{type} ELSE 'VE'::{type} END",
    "UPDATE of the amount": "UPDATE app.plans SET total = coalesce(total, 0) + 99",
    "UPDATE of the date": "UPDATE app.plans SET eta = '2026-02-02' WHERE id < 6",
    "UPDATE of the date to NULL": "UPDATE app.plans SET eta = NULL",
    "UPDATE FROM": "UPDATE app.plans AS p SET status = s.status FROM app.source AS s WHERE s.id = p.id",
    "upsert": """INSERT INTO app.plans (id, region, status, total) SELECT id, {region}, status, 150 FROM app.source
                 ON CONFLICT (id{more}) DO UPDATE SET status = excluded.status, total = excluded.total""",
    "upsert that does nothing": "INSERT INTO app.plans (id, status) VALUES (1, 'VE'), (40, 'VE') ON CONFLICT DO NOTHING",
    "MERGE": """MERGE INTO app.plans AS p USING app.source AS s ON p.id = s.id
                 WHEN MATCHED THEN UPDATE SET status = s.status, eta = '2026-03-03'
                 WHEN NOT MATCHED THEN INSERT (id, status, total) VALUES (s.id, s.status, 100)""",
    "CTE": """WITH changed AS (UPDATE app.plans SET status = 'VE' WHERE id IN (1, 2) RETURNING id)
              INSERT INTO app.plans (id, status, total) SELECT id + 50, 'VE', 100 FROM changed""",
    "function": "SELECT app.promote(3)",
    "BEFORE trigger": "UPDATE app.plans SET parent = 77",
    "BEFORE trigger on INSERT": "INSERT INTO app.plans (id, status, parent) VALUES (60, 'PE', 77)",
    "trigger of another table": "UPDATE app.parents SET status = 'b'",
    "partition move": "UPDATE app.plans SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END",
    "partition move to the state": "UPDATE app.plans SET region = 'south', status = 'VE', total = 100",
    "partition move with a date": "UPDATE app.plans SET region = 'north', eta = '2026-04-04'",
    "partition move to another value": """UPDATE app.plans SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END,
                                                 status = CASE WHEN status = 'VE' THEN 'DE'::{type} ELSE 'VE'::{type} END""",
}


@dataclass(frozen=True)
class Kind:
    """A kind of rule: the arguments of watch(), its state, `from`, and the type of the column."""

    arguments: str
    state: Callable[[Row], bool]
    left: Callable[[Row], bool] = lambda row: True
    changes: tuple[str, ...] = ()
    several: bool = False
    leaving: bool = False
    type: str = "text"
    statement: bool = False

    def is_news(self, old: Row | None, new: Row) -> bool:
        if not self.state(new):
            return False
        if old is None:
            return not self.leaving
        same = self.state(old) and (not self.several or old["status"] == new["status"])
        return any(old[name] != new[name] for name in self.changes) if same else self.left(old)


def is_ve(row: Row) -> bool:
    return bool(row["status"] == "VE")


def is_settled(row: Row) -> bool:
    return row["status"] in ("VE", "DE")


def is_large(row: Row) -> bool:
    return is_settled(row) and row["total"] is not None and row["total"] >= 100


def was_pe(row: Row) -> bool:
    return bool(row["status"] == "PE")


WHEN = """"when" => 'new.status IN (''VE'', ''DE'') AND new.total >= 100'"""
FROM = """"from" => 'old.status = ''PE'''"""
KINDS = {
    "one value": Kind("becomes => '{VE}'", is_ve),
    "several values": Kind("becomes => '{VE,DE}'", is_settled, several=True),
    "several values, changes": Kind(
        "becomes => '{VE,DE}', changes => '{eta}'", is_settled, changes=("eta",), several=True
    ),
    "when": Kind(WHEN, is_large),
    "when, from": Kind(f"{WHEN}, {FROM}", is_large, was_pe, leaving=True),
    "when, changes": Kind(f"{WHEN}, changes => '{{eta,total}}'", is_large, changes=("eta", "total")),
    "value, from, changes": Kind(
        f"becomes => '{{VE}}', {FROM}, changes => '{{eta}}'", is_ve, was_pe, ("eta",), leaving=True
    ),
    "when on a generated column": Kind(
        """"when" => 'new.up = ''big'' AND new.status = ''VE'''""", lambda row: row["up"] == "big" and is_ve(row)
    ),
    "enum": Kind(f"{WHEN}, {FROM}", is_large, was_pe, leaving=True, type="app.kind"),
    "several of an enum": Kind("becomes => '{VE,DE}'", is_settled, several=True, type="app.kind"),
    "domain": Kind(f"{WHEN}, changes => '{{status,eta}}'", is_large, changes=("status", "eta"), type="app.code"),
    "one value, per statement": Kind("becomes => '{VE}'", is_ve, statement=True),
    "several values, per statement": Kind("becomes => '{VE,DE}'", is_settled, several=True, statement=True),
    "several values, changes, per statement": Kind(
        "becomes => '{VE,DE}', changes => '{eta}'", is_settled, changes=("eta",), several=True, statement=True
    ),
    "when, per statement": Kind(WHEN, is_large, statement=True),
    "when, from, per statement": Kind(f"{WHEN}, {FROM}", is_large, was_pe, leaving=True, statement=True),
    "when, changes, per statement": Kind(
        f"{WHEN}, changes => '{{eta,total}}'", is_large, changes=("eta", "total"), statement=True
    ),
    "when, from, changes, per statement": Kind(
        f"{WHEN}, {FROM}, changes => '{{eta}}'", is_large, was_pe, ("eta",), leaving=True, statement=True
    ),
}


# The other kinds are slow, because each repeats a behaviour of these.
FAST = (
    "several values, changes",
    "when, from",
    "value, from, changes",
    "domain",
    "when, from, changes, per statement",
    "several values, changes, per statement",
)


def rows(database: Database) -> dict[int, Row]:
    found = database.execute("SELECT id, status::text, total, eta, up FROM app.plans")
    return {row[0]: dict(zip(("id", "status", "total", "eta", "up"), row, strict=True)) for row in found}


@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "partitioned"])
@pytest.mark.parametrize("kind", [kind if kind in FAST else repeats(kind) for kind in KINDS])
def test_the_rows_that_come_into_the_state_have_an_event(sandbox: Database, kind: str, partitioned: bool) -> None:
    rule = KINDS[kind]
    if partitioned and rule.statement:
        pytest.skip("capture per statement is refused on a partitioned table")
    texts = {
        "type": rule.type,
        "more": ", region" if partitioned else "",
        "partition": " PARTITION BY LIST (region)" if partitioned else "",
        "region": "CASE WHEN id IN (3, 4, 7) THEN 'south' ELSE 'north' END",
    }
    sandbox.execute(TYPES + TABLE.format_map(texts) + (PARTITIONS if partitioned else "") + CODE)
    capture = ", capture => 'statement'" if rule.statement else ""
    sandbox.execute(f"SELECT pgherald.watch('plans', 'app.plans', {rule.arguments}{capture})")  # type: ignore[arg-type]
    for name, write in WRITES.items():
        sandbox.execute(ROWS)
        before = rows(sandbox)
        sandbox.execute(write.format_map(texts))  # type: ignore[arg-type]
        after = rows(sandbox)
        expected = sorted(str(key) for key, row in after.items() if rule.is_news(before.get(key), row))
        assert sorted(event["key"] for event in sandbox.events()) == expected, name


@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "partitioned"])
@pytest.mark.parametrize("kind", ["when", "when, from", "when, per statement"])
def test_copy_is_an_insert(sandbox: Database, kind: str, partitioned: bool) -> None:
    rule = KINDS[kind]
    if partitioned and rule.statement:
        pytest.skip("capture per statement is refused on a partitioned table")
    more, partition = (", region", " PARTITION BY LIST (region)") if partitioned else ("", "")
    sandbox.execute(TABLE.format(type="text", more=more, partition=partition) + (PARTITIONS if partitioned else ""))
    capture = ", capture => 'statement'" if rule.statement else ""
    sandbox.execute(f"SELECT pgherald.watch('plans', 'app.plans', {rule.arguments}{capture})")  # type: ignore[arg-type]
    load = "COPY app.plans (id, status, total) FROM STDIN"
    with psycopg.connect(sandbox.url) as conn, conn.cursor() as cursor, cursor.copy(load) as copy:
        for row in ((1, "VE", 100), (2, "VE", 1), (3, "PE", 100), (4, None, None)):
            copy.write_row(row)
    assert [event["key"] for event in sandbox.events()] == ([] if rule.leaving else ["1"])


@pytest.mark.parametrize("kind", ["one value", "when", "when, from"])
def test_a_foreign_keys_action_is_a_write(sandbox: Database, kind: str) -> None:
    sandbox.execute(
        """CREATE TABLE app.states (status text PRIMARY KEY); INSERT INTO app.states VALUES ('PE');
           CREATE TABLE app.plans (id int PRIMARY KEY, total int,
                                   status text REFERENCES app.states ON UPDATE CASCADE);
           INSERT INTO app.plans VALUES (1, 100, 'PE'), (2, 1, NULL);"""
    )
    sandbox.execute(f"SELECT pgherald.watch('plans', 'app.plans', {KINDS[kind].arguments})")  # type: ignore[arg-type]
    sandbox.execute("UPDATE app.states SET status = 'VE'")
    assert [event["key"] for event in sandbox.events()] == ["1"]
