"""The server compares the watched value, by the column's own type and collation: the same at capture and everywhere."""

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.support.database import Database

CASELESS = """CREATE COLLATION app.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
              CREATE TABLE app.plans (id int PRIMARY KEY, status text COLLATE app.caseless)"""
CITEXT = """CREATE EXTENSION citext SCHEMA app; CREATE TABLE app.plans (id int PRIMARY KEY, status app.citext)"""
CITEXT_DOMAIN = """CREATE EXTENSION citext SCHEMA app; CREATE DOMAIN app.status AS app.citext CHECK (length(value) < 9);
                   CREATE TABLE app.plans (id int PRIMARY KEY, status app.status)"""


def make(database: Database, statements: LiteralString) -> None:
    try:
        database.execute(statements)
    except psycopg.errors.FeatureNotSupported as exc:
        pytest.skip(f"this server's build: {exc.diag.message_primary}")


@pytest.fixture(params=[CASELESS, CITEXT, CITEXT_DOMAIN], ids=["nondeterministic", "citext", "domain over citext"])
def caseless(sandbox: Database, request: pytest.FixtureRequest) -> Database:
    """A table whose status is the same in capitals and in small letters."""
    make(sandbox, request.param)
    return sandbox


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


def test_each_spelling_of_the_value_is_the_value(caseless: Database) -> None:
    caseless.execute("SELECT pgherald.watch('plans', 'app.plans')")
    caseless.execute("INSERT INTO app.plans VALUES (1, 'pe'), (2, 've'), (3, 'Ve'), (4, NULL)")
    assert captured(caseless) == ["2", "3"]
    caseless.execute("UPDATE app.plans SET status = 'VE' WHERE id IN (2, 3)")
    assert captured(caseless) == ["2", "3"], "another spelling of the same value is no news"
    caseless.execute("UPDATE app.plans SET status = 'vE' WHERE id IN (1, 4)")
    assert captured(caseless) == ["2", "3", "1", "4"]


def test_each_spelling_counts_as_existing(caseless: Database) -> None:
    caseless.execute("INSERT INTO app.plans VALUES (1, 'pe'), (2, 've'), (3, 'VE')")
    caseless.execute("SELECT pgherald.watch('plans', 'app.plans')")
    caseless.execute("CALL pgherald.snapshot_existing('plans')")
    assert [key for (key,) in caseless.execute("SELECT key FROM pgherald.handled ORDER BY key")] == ["2", "3"]


def test_capture_per_statement_compares_texts_and_is_refused(caseless: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="which has several texts for one value") as caught:
        caseless.execute("SELECT pgherald.watch('plans', 'app.plans', capture => 'statement')")
    assert caught.value.diag.message_hint == "Watch it per row."


def test_keys_of_an_extensions_type_are_all_remembered(sandbox: Database) -> None:
    """Before, the pages were read in one order and continued in another, so that rows were left out."""
    make(sandbox, "CREATE EXTENSION citext SCHEMA app")
    sandbox.execute(
        """CREATE TABLE app.plans (name app.citext, n int, status text, PRIMARY KEY (name, n));
           INSERT INTO app.plans SELECT chr(CASE g % 2 WHEN 0 THEN 65 ELSE 97 END + g / 2) || g, g, 'VE' FROM generate_series(0, 49) AS g;
           SELECT pgherald.watch('plans', 'app.plans', '{name,n}')"""
    )
    while sandbox.value("CALL pgherald.snapshot_existing('plans', 7)"):
        pass
    assert sandbox.value("SELECT count(*) FROM pgherald.handled") == 50
    sandbox.execute("UPDATE app.plans SET status = 'PE'; UPDATE app.plans SET status = 'VE'")
    assert len(captured(sandbox)) == 50


@pytest.mark.parametrize("type_", ["json", "xml", "point", "app.odd"])
def test_a_column_that_cannot_be_compared_is_refused(sandbox: Database, type_: str) -> None:
    sandbox.execute("CREATE DOMAIN app.odd AS json")
    sandbox.execute(
        sql.SQL("CREATE TABLE app.plans (id int PRIMARY KEY, status {})").format(sql.SQL(type_)).as_string(None)  # type: ignore[arg-type]
    )
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        sandbox.execute("SELECT pgherald.watch('plans', 'app.plans')")
    assert caught.value.diag.message_primary == (
        f'rule "plans": column "status" of app.plans is of type {type_}, whose values cannot be compared'
    )


def test_an_enums_value_renamed_stays_watched(sandbox: Database) -> None:
    """The trigger knows the value by its number. `rewatch` with the new name keeps what is remembered."""
    sandbox.execute(
        """CREATE TYPE app.kind AS ENUM ('PE', 'VE'); CREATE TABLE app.plans (id int PRIMARY KEY, status app.kind);
           INSERT INTO app.plans VALUES (1, 'VE'); SELECT pgherald.watch('plans', 'app.plans');"""
    )
    sandbox.execute("CALL pgherald.snapshot_existing('plans')")
    sandbox.execute("UPDATE pgherald.rule SET paused_at = '2026-01-01' WHERE rule = 'plans'")
    session = sandbox.connect()
    session.execute("INSERT INTO app.plans VALUES (2, 'VE')")
    sandbox.execute("ALTER TYPE app.kind RENAME VALUE 'VE' TO 'verified'")
    session.execute("INSERT INTO app.plans VALUES (3, 'verified')")
    sandbox.execute("SELECT pgherald.rewatch('plans', 'app.plans', becomes => '{verified}')")
    session.execute("INSERT INTO app.plans VALUES (4, 'verified')")
    assert captured(sandbox) == ["2", "3", "4"]
    assert sandbox.execute(
        "SELECT becomes[1], paused_at::date::text, snapshot_done FROM pgherald.rule WHERE rule = 'plans'"
    ) == [("verified", "2026-01-01", True)]
    assert sandbox.execute("SELECT key, why FROM pgherald.handled WHERE rule = 'plans'") == [("1", "existing")]
