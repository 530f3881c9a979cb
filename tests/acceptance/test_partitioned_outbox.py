"""An outbox in partitions, as docs/scaling.md makes one: everything works on it, and dropping an old one is a purge."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.programs import Programs
from tests.support import wait_until
from tests.support.command import PROGRAM, Pgherald
from tests.support.database import STORY, Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
_DOCUMENT = (Path(__file__).parents[2] / "docs/scaling.md").read_text().split("## An outbox in partitions")[1]
# In the document's order: partitions.sql, the commands, another partition, the end of the first.
FIRST, COMMANDS, NEXT, DROP = [
    re.sub("^    ", "", block, flags=re.MULTILINE) for block in re.findall(r"(?:^(?:    .*)?\n)+", _DOCUMENT, re.MULTILINE) if block.strip()
]  # fmt: skip


class Partitioned:
    def __init__(self, database: Database, programs: Programs, folder: Path) -> None:
        self.database = database
        self._programs = programs
        self._script = folder / "script.sql"

    def psql(self, text: str) -> subprocess.CompletedProcess[str]:
        self._script.write_text(text)
        return self._programs.psql(self.database, "-q", "-v", "ON_ERROR_STOP=1", "-f", self._script)

    def held(self) -> dict[str, int]:
        """How many events each partition holds."""
        found = self.database.execute("SELECT tableoid::regclass::text, count(*) FROM pgherald.outbox GROUP BY 1")
        return {name.removeprefix("pgherald."): number for name, number in found}

    def skip_to(self, number: int) -> None:
        self.database.execute("SELECT setval('pgherald.outbox_id_seq', %s)", (number,))


@pytest.fixture
def partitioned(
    bare_database: Database, pgherald: Pgherald, programs: Programs, tmp_path: Path
) -> Partitioned:  # fmt: skip
    bare_database.execute(STORY)
    (tmp_path / "partitions.sql").write_text(FIRST)
    path = f"{programs.psql_program.parent}:{PROGRAM.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", COMMANDS], env={**pgherald._environment({}), "PATH": path}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return Partitioned(bare_database, programs, tmp_path)


def test_everything_works_on_it(partitioned: Partitioned, mail: MailServer, pgherald: Pgherald) -> None:
    database = partitioned.database
    plans = [database.add_plan("Café", f"u{number}@example.org") for number in range(30)]
    assert partitioned.psql(NEXT).returncode == 0
    with pgherald.daemon():
        for start, third in ((1, plans[:10]), (15_000_000, plans[10:20]), (99_000_000, plans[20:])):
            partitioned.skip_to(start)
            database.verify(*third)
        mail.wait_for(30)
    assert partitioned.held() == {"outbox_1": 10, "outbox_2": 10, "outbox_rest": 10}
    assert len(set(mail.recipients)) == 30
    pgherald("doctor", check=True)
    assert re.search(r"^outbox: \d+ kB, 30 rows", pgherald("status", check=True).stdout, re.MULTILINE)
    # As after an upgrade.
    pgherald("install", check=True)
    assert pgherald("backfill", RULE, check=True).stdout == "0 rows captured\n"
    assert "30 events" in pgherald("purge", "--older-than", "0s", check=True).stdout


def count_twice(database: Database) -> None:
    """Make the server's own estimate of live rows 20, of 10 events.

    ANALYZE stores what it counted, and then the session reports the rows that it had inserted before: they are added. A
    session reports once a second at most, so it depends on the machine's speed; a block that commits within reports later.
    """
    database.execute(
        """DO $$ BEGIN
               INSERT INTO pgherald.outbox (rule, key) SELECT 'dateplan_verified', generate_series(1, 10);
               COMMIT;
               EXECUTE 'ANALYZE pgherald.outbox';
           END $$"""
    )
    database.execute("SELECT pg_stat_force_next_flush()")
    estimate = database.value(
        "SELECT sum(n_live_tup) FROM pg_stat_user_tables WHERE schemaname = 'pgherald' AND relname ~ '^outbox'"
    )
    assert estimate == 20


def test_status_counts_rows_although_the_servers_estimate_is_wrong(
    partitioned: Partitioned, pgherald: Pgherald
) -> None:
    count_twice(partitioned.database)
    assert re.search(r"^outbox: \d+ kB, 10 rows", pgherald("status", check=True).stdout, re.MULTILINE)
    assert json.loads(pgherald("status", "--json", check=True).stdout)["outbox"]["rows"] == 10


def test_so_it_does_without_partitions(database: Database, pgherald: Pgherald) -> None:
    count_twice(database)
    assert re.search(r"^outbox: \d+ kB, 10 rows", pgherald("status", check=True).stdout, re.MULTILINE)


@pytest.mark.slow
def test_what_was_dropped_stays_handled(partitioned: Partitioned, mail: MailServer, pgherald: Pgherald) -> None:
    database = partitioned.database
    plan = database.add_plan("Café", "john@example.org")
    with pgherald.daemon() as daemon:
        database.verify(plan)
        daemon.wait_event("event_sent")
        wait_until(lambda: database.value("SELECT state = 'sent' FROM pgherald.outbox"))
        assert partitioned.psql(NEXT).returncode == 0
        assert (dropped := partitioned.psql(DROP)).returncode == 0, dropped.stderr
        assert partitioned.held() == {}
        assert pgherald("backfill", RULE, check=True).stdout == "0 rows captured\n"
        # And what comes later is news.
        partitioned.skip_to(15_000_000)
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
        database.verify(plan)
        mail.wait_for(2)


@pytest.mark.parametrize("state", ["available", "claimed", "transmitting", "in_doubt"])
def test_what_is_not_settled_is_not_dropped(partitioned: Partitioned, state: str) -> None:
    database = partitioned.database
    database.verify(database.add_plan("Café", "john@example.org"))
    database.execute("UPDATE pgherald.outbox SET state = %s, claim = 1, claimed_by = 1", (state,))
    refused = partitioned.psql(DROP)
    assert refused.returncode == 3
    assert "not settled" in refused.stderr
    assert partitioned.held() == {"outbox_1": 1}


def test_an_event_beyond_the_last_partition_does_not_fail_the_application(partitioned: Partitioned) -> None:
    partitioned.skip_to(10_000_000)
    database = partitioned.database
    database.verify(database.add_plan("Café", "john@example.org"))
    assert partitioned.held() == {"outbox_rest": 1}
