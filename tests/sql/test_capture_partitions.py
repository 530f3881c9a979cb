"""Partitioned tables: a row that moves with the value gives no event, and one that gets the value gives one."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support import PATIENCE, wait_until
from tests.support.database import Database

# By region, and one region by year: the key has to hold both. `id` is what a row keeps when it moves.
PLANS = """
    CREATE TABLE app.plans (id int, region text, year int, status text, note text, PRIMARY KEY (id, region, year))
        PARTITION BY LIST (region);
    CREATE TABLE app.north PARTITION OF app.plans FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.plans FOR VALUES IN ('south') PARTITION BY LIST (year);
    CREATE TABLE app.south_1 PARTITION OF app.south FOR VALUES IN (1);
    CREATE TABLE app.south_2 PARTITION OF app.south FOR VALUES IN (2);
    SELECT pgherald.watch('plans', 'app.plans', '{id,region,year}');
    INSERT INTO app.plans VALUES (1, 'north', 1, 'PE'), (2, 'north', 1, 'VE'), (3, 'south', 1, 'PE'), (4, 'south', 1, 'VE'),
                                 (5, 'north', 1, NULL);
    DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox;
"""

# Partitioned by the very column that is watched, which the key then does not hold.
BY_STATUS = """
    CREATE TABLE app.plans (id int NOT NULL, status text) PARTITION BY LIST (status);
    CREATE TABLE app.verified PARTITION OF app.plans FOR VALUES IN ('VE');
    CREATE TABLE app.others PARTITION OF app.plans DEFAULT;
    SELECT pgherald.watch('plans', 'app.plans');
    INSERT INTO app.plans VALUES (1, 'PE'), (2, 'VE'), (3, NULL);
    DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox;
"""


def captured(database: Database, rule: str = "plans") -> list[str]:
    return sorted(event["key"] for event in database.events() if event["rule"] == rule)


MERGE = """
    MERGE INTO app.plans AS p USING (VALUES (1, 'VE'), (2, 'VE'), (4, 'PE'), (8, 'VE')) AS s (id, status) ON p.id = s.id
     WHEN MATCHED THEN UPDATE SET status = s.status, region = 'south', year = 2
     WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'south', 2, s.status)
"""

CASES: dict[str, tuple[str, list[str]]] = {
    "stays, gets the value": ("UPDATE app.plans SET status = 'VE' WHERE id = 1", ["{1,north,1}"]),
    "stays, has the value": ("UPDATE app.plans SET note = 'x'", []),
    "moves, has the value": ("UPDATE app.plans SET region = 'south' WHERE id = 2", []),
    "moves, has another": ("UPDATE app.plans SET region = 'south' WHERE id = 1", []),
    "moves and gets the value": ("UPDATE app.plans SET region = 'south', status = 'VE' WHERE id = 1", ["{1,south,1}"]),
    "moves and gets it after NULL": ("UPDATE app.plans SET region = 'south', status = 'VE' WHERE id = 5", ["{5,south,1}"]),
    "moves and leaves the value": ("UPDATE app.plans SET region = 'south', status = 'PE' WHERE id = 2", []),
    "moves below, has the value": ("UPDATE app.plans SET year = 2 WHERE id = 4", []),
    "moves below, gets the value": ("UPDATE app.plans SET year = 2, status = 'VE' WHERE id = 3", ["{3,south,2}"]),
    "moves up and over, has the value": ("UPDATE app.plans SET region = 'north', year = 2 WHERE id = 4", []),
    "all move, all get the value": (
        "UPDATE app.plans SET status = 'VE', region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END",
        ["{1,south,1}", "{3,north,1}", "{5,south,1}"],
    ),
    "they change places": (
        """UPDATE app.plans SET status = CASE status WHEN 'VE' THEN 'PE' ELSE 'VE' END,
                                region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END""",
        ["{1,south,1}", "{3,north,1}", "{5,south,1}"],
    ),
    "the parent of some, named itself": ("UPDATE app.south SET year = 2", []),
    "a partition, named itself": ("UPDATE app.north SET status = 'VE'", ["{1,north,1}", "{5,north,1}"]),
    "insert": ("INSERT INTO app.plans VALUES (8, 'south', 2, 'VE'), (9, 'south', 2, 'PE')", ["{8,south,2}"]),
    "insert into a partition": ("INSERT INTO app.south_2 VALUES (8, 'south', 2, 'VE')", ["{8,south,2}"]),
    "delete": ("DELETE FROM app.plans", []),
    "merge": (MERGE, ["{1,south,2}", "{8,south,2}"]),
    "upsert that updates": (
        "INSERT INTO app.plans VALUES (1, 'north', 1) ON CONFLICT (id, region, year) DO UPDATE SET status = 'VE'",
        ["{1,north,1}"],
    ),
    "deleted and inserted again": (
        "DELETE FROM app.plans WHERE id = 2; INSERT INTO app.plans VALUES (2, 'north', 1, 'VE')",
        ["{2,north,1}"],
    ),
    "deleted and inserted again elsewhere": (
        "DELETE FROM app.plans WHERE id = 2; INSERT INTO app.plans VALUES (2, 'south', 1, 'VE')",
        ["{2,south,1}"],
    ),
    # All that a function does is one statement to statement_timestamp().
    "deleted and inserted again by a function": (
        "DO $$ BEGIN DELETE FROM app.plans WHERE id = 2; INSERT INTO app.plans VALUES (2, 'south', 1, 'VE'); END $$",
        ["{2,south,1}"],
    ),
    "there and back by a function": (
        """DO $$ BEGIN UPDATE app.plans SET status = 'PE', region = 'south' WHERE id = 2;
                       UPDATE app.plans SET status = 'VE', region = 'north' WHERE id = 2; END $$""",
        ["{2,north,1}"],
    ),
    "moves and stays by a function": (
        """DO $$ BEGIN UPDATE app.plans SET region = 'south' WHERE id = 2;
                       UPDATE app.plans SET region = 'north' WHERE id = 2; END $$""",
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "keys"), CASES.values(), ids=CASES)
def test_rows_move(sandbox: Database, statement: str, keys: list[str]) -> None:
    sandbox.execute(PLANS)
    sandbox.execute(statement)
    assert captured(sandbox) == keys


def test_rows_with_one_number_in_two_partitions(sandbox: Database) -> None:
    """The first moves with the value, the second gets it, next in the same statement: the first's note is not for the second."""
    sandbox.execute(PLANS)
    sandbox.execute("DELETE FROM app.plans")
    sandbox.execute(
        "INSERT INTO app.plans VALUES (7, 'north', 1, 'VE'), (7, 'south', 1, 'PE'); DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox"
    )
    sandbox.execute(
        """UPDATE app.plans SET status = 'VE', region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END,
                                year = CASE region WHEN 'north' THEN 2 ELSE 1 END"""
    )
    assert captured(sandbox) == ["{7,north,1}"]


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("UPDATE app.plans SET status = 'VE' WHERE id = 1", ["1"]),
        ("UPDATE app.plans SET status = 'VE'", ["1", "3"]),
        ("UPDATE app.plans SET status = 'PE'", []),
        ("UPDATE app.plans SET id = id + 10 WHERE id = 2", []),
        ("UPDATE app.plans SET status = CASE WHEN status = 'VE' THEN 'PE' ELSE 'VE' END", ["1", "3"]),
        ("INSERT INTO app.plans VALUES (8, 'VE')", ["8"]),
        ("UPDATE app.plans SET status = 'PE' WHERE id = 2; UPDATE app.plans SET status = 'VE' WHERE id = 2", ["2"]),
    ],
)
def test_the_watched_column_decides_the_partition(sandbox: Database, statement: str, keys: list[str]) -> None:
    sandbox.execute(BY_STATUS)
    sandbox.execute(statement)
    assert captured(sandbox) == keys


def test_copy(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    with sandbox.connect() as conn, conn.cursor().copy("COPY app.plans (id, region, year, status) FROM STDIN") as copy:
        copy.write_row((8, "south", 2, "VE"))
        copy.write_row((9, "south", 2, "PE"))
    assert captured(sandbox) == ["{8,south,2}"]


def test_a_move_rolled_back_leaves_no_note(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    conn = sandbox.connect()
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            conn.execute("DELETE FROM app.plans WHERE id = 2")
        conn.execute("UPDATE app.plans SET region = 'south' WHERE id = 2")
        conn.execute("DELETE FROM app.plans WHERE id = 2")
        conn.execute("INSERT INTO app.plans VALUES (2, 'north', 1, 'VE')")
    assert captured(sandbox) == ["{2,north,1}"]


def test_a_partition_named_itself_leaves_its_note_to_the_clients_next_statement(sandbox: Database) -> None:
    """No trigger of the whole table's is there at that statement's end to take the note away; but the next statement is another."""
    sandbox.execute(PLANS)
    conn = sandbox.connect()
    with conn.transaction():
        conn.execute("DELETE FROM app.north WHERE id = 2")
        conn.execute("INSERT INTO app.plans VALUES (2, 'south', 1, 'VE')")
    assert captured(sandbox) == ["{2,south,1}"]


MEDDLING = """
    CREATE FUNCTION app.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE app.plans SET note = 'x' WHERE id = 1; RETURN NULL; END $$;
    CREATE TRIGGER {name} AFTER DELETE ON app.plans FOR EACH ROW EXECUTE FUNCTION app.meddle()
"""


@pytest.mark.parametrize("name", ["a_first", "z_last"])
def test_a_trigger_of_the_applications_writes_to_the_table_meanwhile(sandbox: Database, name: str) -> None:
    """Before, the end of that statement took the note of the move away, and a row that only moved had an event."""
    sandbox.execute(PLANS)
    sandbox.execute(MEDDLING.replace("{name}", name))  # type: ignore[arg-type]
    sandbox.execute("UPDATE app.plans SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END")
    assert captured(sandbox) == []


@pytest.mark.parametrize("before", ["", "UPDATE app.plans SET note = 'x';"], ids=["committed", "written before"])
def test_deleted_from_a_partition_and_inserted_again_in_one_message(sandbox: Database, before: str) -> None:
    """One message has one statement_timestamp(). No trigger of the whole table takes the note away."""
    sandbox.execute(PLANS)
    sandbox.execute(
        f"{before} DELETE FROM app.plans WHERE id = 2; INSERT INTO app.plans VALUES (2, 'south', 1, 'VE')"  # type: ignore[arg-type]
    )
    assert captured(sandbox) == ["{2,south,1}"]
    sandbox.execute("DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox")
    sandbox.execute("DELETE FROM app.south_1 WHERE id = 2; INSERT INTO app.plans VALUES (2, 'north', 1, 'VE')")
    assert captured(sandbox) == ["{2,north,1}"]


def test_a_row_written_and_then_moved_in_one_transaction(sandbox: Database) -> None:
    """The number of the deleting command is not in a row that its own transaction wrote."""
    sandbox.execute(PLANS)
    sandbox.execute(
        """UPDATE app.plans SET note = 'x' WHERE id = 2; UPDATE app.plans SET region = 'south' WHERE id = 2;
           UPDATE app.plans SET note = 'y'; UPDATE app.plans SET year = 2 WHERE id = 2"""
    )
    conn = sandbox.connect()
    with conn.transaction(), conn.transaction():
        conn.execute("UPDATE app.plans SET note = 'z'")
        conn.execute("UPDATE app.plans SET region = 'north' WHERE id = 2")
        with conn.transaction():
            conn.execute("UPDATE app.plans SET region = 'south', year = 1 WHERE id = 2")
    assert captured(sandbox) == []


def test_two_rules_on_one_table(sandbox: Database) -> None:
    """A move that leaves one rule's value for the other's is news to the other."""
    sandbox.execute(PLANS)
    sandbox.execute("SELECT pgherald.watch('denied', 'app.plans', '{id,region,year}', becomes => '{DE}')")
    sandbox.execute("UPDATE app.plans SET region = 'south', status = 'DE' WHERE id = 2")
    assert (captured(sandbox), captured(sandbox, "denied")) == ([], ["{2,south,1}"])
    sandbox.execute("UPDATE app.plans SET region = 'north', status = 'VE' WHERE id = 2")
    assert (captured(sandbox), captured(sandbox, "denied")) == (["{2,north,1}"], ["{2,south,1}"])
    sandbox.execute("UPDATE app.plans SET region = 'south' WHERE id = 2")
    assert (captured(sandbox), captured(sandbox, "denied")) == (["{2,north,1}"], ["{2,south,1}"])


def test_a_partition_attached_later(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    sandbox.execute(
        "CREATE TABLE app.west (LIKE app.plans INCLUDING ALL); INSERT INTO app.west VALUES (8, 'west', 1, 'VE')"
    )
    sandbox.execute("ALTER TABLE app.plans ATTACH PARTITION app.west FOR VALUES IN ('west')")
    assert captured(sandbox) == []
    sandbox.execute("UPDATE app.plans SET region = 'west' WHERE id IN (1, 2)")
    assert captured(sandbox) == []
    sandbox.execute("UPDATE app.plans SET status = 'VE' WHERE id = 1; INSERT INTO app.west VALUES (9, 'west', 1, 'VE')")
    assert captured(sandbox) == ["{1,west,1}", "{9,west,1}"]


def test_a_partition_detached_is_watched_no_more(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    sandbox.execute("ALTER TABLE app.plans DETACH PARTITION app.north")
    sandbox.execute("UPDATE app.north SET status = 'VE'")
    assert captured(sandbox) == []


def test_a_new_level_is_known_when_watched_again(sandbox: Database) -> None:
    sandbox.execute(
        """CREATE TABLE app.plans (id int NOT NULL, region text NOT NULL, year int NOT NULL, status text) PARTITION BY LIST (region);
           CREATE TABLE app.north PARTITION OF app.plans FOR VALUES IN ('north');
           SELECT pgherald.watch('plans', 'app.plans', '{id,region,year}');
           CREATE TABLE app.south PARTITION OF app.plans FOR VALUES IN ('south') PARTITION BY LIST (year);
           CREATE TABLE app.south_1 PARTITION OF app.south FOR VALUES IN (1);
           CREATE TABLE app.south_2 PARTITION OF app.south FOR VALUES IN (2);
           SELECT pgherald.watch('plans', 'app.plans', '{id,region,year}');
           INSERT INTO app.plans VALUES (1, 'south', 1, 'VE');
           DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox"""
    )
    sandbox.execute("UPDATE app.plans SET year = 2")
    assert captured(sandbox) == []


def test_unwatch_takes_the_partitions_triggers_too(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    ours = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgherald%%plans%%'"
    assert sandbox.value(ours) == 3 * 5 + 1
    sandbox.execute("SELECT pgherald.unwatch('plans')")
    assert sandbox.value(ours) == 0
    sandbox.execute("UPDATE app.plans SET status = 'VE', region = 'south'")
    assert captured(sandbox) == []


def test_the_triggers_work_whatever_the_search_path(sandbox: Database) -> None:
    sandbox.execute(PLANS)
    conn = sandbox.connect(options="-c search_path=")
    conn.execute("UPDATE app.plans SET region = 'south' WHERE id IN (1, 2)")
    conn.execute("UPDATE app.plans SET status = 'VE' WHERE id = 1")
    assert captured(sandbox) == ["{1,south,1}"]


def test_triggers_are_removed_beside_a_writer_of_several_partitions(sandbox: Database) -> None:
    """DROP TRIGGER locks the partitions first. A writer holds the table's lock and takes the other partitions' later."""
    sandbox.execute(
        """CREATE TABLE app.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
           CREATE TABLE app.north PARTITION OF app.parted FOR VALUES IN ('north');
           CREATE TABLE app.south PARTITION OF app.parted FOR VALUES IN ('south');
           SELECT pgherald.watch('parted', 'app.parted', '{id,region}')"""
    )

    def waits_for_lock(pid: int) -> bool:
        asked = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        return bool(sandbox.value(asked, (pid,)))

    for call, first, second in (
        ("rewatch('parted', 'app.parted', '{id,region}')", "north", "south"),
        ("rewatch('parted', 'app.parted', '{id,region}')", "south", "north"),
        ("unwatch('parted')", "south", "north"),
    ):
        with sandbox.connect() as writer, sandbox.connect() as installer, ThreadPoolExecutor() as pool:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO app.parted VALUES (1, %s, 'VE')", (first,))
            done = pool.submit(installer.execute, f"SELECT pgherald.{call}")
            wait_until(partial(waits_for_lock, installer.info.backend_pid))
            writer.execute("INSERT INTO app.parted VALUES (1, %s, 'VE')", (second,))
            writer.execute("ROLLBACK")
            done.result(PATIENCE)
