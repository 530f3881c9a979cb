"""pg_partman maintains the watched table's partitions as its owner, who has no right on the schema pgherald."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from listener.demo.cluster import Cluster
from tests.support.command import Pgherald
from tests.support.database import OPTIONS, Database
from tests.support.mail import MailServer

# The Debian package is for this release.
BINARIES = Path("/usr/lib/postgresql/15/bin")
RULE = """
[rules.ticket]
table = "app.ticket"
becomes = "VE"
template = "dateplan_verified"
lookup = \"\"\"
  SELECT id AS key, status AS current, email, true AS consent, 'Café' AS place
    FROM app.ticket WHERE id = ANY (%(keys)s::bigint[])
\"\"\"
"""
SETUP = """
    CREATE ROLE keeper LOGIN PASSWORD 'keeper'; GRANT CREATE, TEMPORARY ON DATABASE postgres TO keeper;
    CREATE SCHEMA app AUTHORIZATION keeper;
    CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
    GRANT ALL ON SCHEMA partman TO keeper; GRANT ALL ON ALL TABLES IN SCHEMA partman TO keeper;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA partman TO keeper; GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA partman TO keeper;
    SET ROLE keeper;
    CREATE TABLE app.ticket (id bigint, day timestamptz NOT NULL, status text, email text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    RESET ROLE;
"""
PARENT = "SELECT partman.create_parent('app.ticket', 'day', 'native', 'daily', p_premake := 2, p_jobmon := false)"
MAINTAIN = """
    UPDATE partman.part_config SET premake = 6, infinite_time_partitions = true WHERE parent_table = 'app.ticket';
    SELECT partman.run_maintenance('app.ticket', p_jobmon := false)
"""
IN_DEFAULT = "SELECT count(*) FROM app.ticket_default"
FAR = "date_trunc('day', now()) + interval '40 days'"

Session = psycopg.Connection[Any]


@pytest.fixture
def partman() -> Iterator[Database]:
    assert (BINARIES.parents[1] / "15/lib/pg_partman_bgw.so").exists(), (
        "pg_partman is missing: apt-get install postgresql-15-partman"
    )
    with Cluster(BINARIES, OPTIONS) as cluster:
        database = Database(cluster.dsn())
        database.execute(SETUP)
        yield database
        database.close()


@pytest.fixture
def watched(partman: Database, pgherald: Pgherald) -> Database:
    (pgherald.folder / "pgherald.toml").write_text(RULE, encoding="utf-8")
    pgherald.settings |= {
        "PGHERALD_DATABASE_URL": partman.url,
        "PGHERALD_CONFIG": str(pgherald.folder / "pgherald.toml"),
    }
    pgherald("install", check=True)
    return partman


@pytest.fixture
def keeper(watched: Database) -> Iterator[Session]:
    with psycopg.connect(watched.url, user="keeper", password="keeper", autocommit=True) as conn:
        yield conn


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_its_owner_lets_partman_make_and_fill_partitions(
    watched: Database, keeper: Session, mail: MailServer, pgherald: Pgherald
) -> None:
    keeper.execute(PARENT)
    keeper.execute(MAINTAIN)
    # It makes partitions for six days, or for seven across the end of a month. The sixth may begin during this test.
    keeper.execute(
        "INSERT INTO app.ticket SELECT n, now() + n * interval '1 day', 'PE', format('a%s@example.org', n)"
        " FROM generate_series(1, 5) AS n"
    )
    assert watched.value(IN_DEFAULT) == 0
    keeper.execute(f"INSERT INTO app.ticket VALUES (6, {FAR}, 'PE', 'a6@example.org')")
    assert watched.value(IN_DEFAULT) == 1
    keeper.execute("UPDATE app.ticket SET status = 'VE'")
    pgherald("run", "--once", check=True)
    assert sorted(mail.recipients) == [f"a{n}@example.org" for n in range(1, 7)]

    # The rows of the default partition move to one of their own: by DELETE and INSERT, so they would count as new.
    with keeper.transaction():
        keeper.execute("ALTER TABLE app.ticket DISABLE TRIGGER USER")
        keeper.execute("SELECT partman.partition_data_time('app.ticket')")
        keeper.execute("ALTER TABLE app.ticket ENABLE TRIGGER USER")
    assert watched.value(IN_DEFAULT) == 0
    assert len(watched.events()) == 6
    keeper.execute("UPDATE app.ticket SET status = 'PE' WHERE id = 6")
    keeper.execute("UPDATE app.ticket SET status = 'VE' WHERE id = 6")
    pgherald("run", "--once", check=True)
    assert mail.recipients[6:] == ["a6@example.org"]
    states = {check["check"]: check["state"] for check in json.loads(pgherald("doctor", "--json").stdout)}
    assert states["capture ticket"] == "ok"
