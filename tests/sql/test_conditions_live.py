"""Columns of a watched table are added, renamed and dropped while sessions write: no write fails, and no row is missed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import errors, sql

from tests.support import wait_until
from tests.support.database import Database

TABLE: LiteralString = """
    CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text, total int, note text);
    SELECT pgherald.watch('orders', 'app.orders', "when" => 'new.status = ''sent'' AND new.total >= 100',
                          changes => '{{total}}', capture => {capture})
"""
WRITES = "INSERT INTO app.orders (status, total) VALUES ('packed', 100), ('sent', 99), ('sent', 100) RETURNING id"
SENT = "UPDATE app.orders SET status = 'sent' WHERE id = %s"
# Each leaves the table as it was, except for the columns that nobody writes.
MIGRATIONS: list[list[LiteralString]] = [
    ["ALTER TABLE app.orders ADD COLUMN extra int DEFAULT 7", "ALTER TABLE app.orders DROP COLUMN extra"],
    ["ALTER TABLE app.orders RENAME COLUMN note TO remark", "ALTER TABLE app.orders RENAME COLUMN remark TO note"],
    ["BEGIN; ALTER TABLE app.orders RENAME total TO amount; ALTER TABLE app.orders RENAME amount TO total; COMMIT"],
    ["ALTER TABLE app.orders ALTER note TYPE varchar(20)", "ALTER TABLE app.orders ALTER note TYPE text"],
    ["ALTER TABLE app.orders DROP COLUMN note", "ALTER TABLE app.orders ADD COLUMN note text"],
    ["BEGIN; ALTER TABLE app.orders RENAME TO renamed; ALTER TABLE app.renamed RENAME TO orders; COMMIT"],
]  # fmt: skip


class Writer(threading.Thread):
    """A session that inserts rows and sends them, one statement a transaction. `sent` are the keys whose change is news."""

    def __init__(self, database: Database, over: threading.Event) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.failure: Exception | None = None
        self._conn = database.connect()
        self._over = over

    def run(self) -> None:
        try:
            while not self._over.is_set():
                packed, _, sent = (row[0] for row in self._conn.execute(WRITES).fetchall())
                self._conn.execute(SENT, (packed,))
                self.sent += [str(sent), str(packed)]
        except psycopg.Error as exc:
            self.failure = exc
        finally:
            self._conn.close()


@contextmanager
def writing(database: Database, number: int) -> Iterator[list[Writer]]:
    over = threading.Event()
    writers = [Writer(database, over) for _ in range(number)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        over.set()
        for writer in writers:
            writer.join()


def migrate(database: Database, statements: list[LiteralString]) -> None:
    for statement in statements:
        # As migrations do: wait for a lock only for a moment, and try again.
        def locked(statement: LiteralString = statement) -> bool:
            with database.connect(options="-c lock_timeout=200ms") as conn:
                try:
                    conn.execute(sql.SQL(statement))
                except errors.LockNotAvailable:
                    conn.rollback()
                    return False
            return True

        wait_until(locked)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MIGRATIONS)))
@pytest.mark.parametrize("capture", ["row", "statement"])
def test_writers_go_on_while_columns_change(sandbox: Database, capture: str, number: int) -> None:
    sandbox.execute(sql.SQL(TABLE).format(capture=sql.Literal(capture)))
    with writing(sandbox, 3) as writers:
        for _ in range(3):
            before = [len(writer.sent) for writer in writers]
            migrate(sandbox, MIGRATIONS[number])
            wait_until(lambda before=before: all(len(w.sent) > n for w, n in zip(writers, before, strict=True)))
    assert [writer.failure for writer in writers] == [None] * 3
    sent = sorted((key for writer in writers for key in writer.sent), key=int)
    keys = sorted((event["key"] for event in sandbox.events()), key=int)
    assert len(sent) > 9
    assert keys == sent
