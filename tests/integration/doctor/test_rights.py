"""Each remedy for a missing right, followed literally, gives it."""

import re

import pytest
from psycopg import sql

from listener.doctor.result import State
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.doctor import RULE, Examine, as_role

LOOKUP = """
WITH recent AS (SELECT * FROM app.shown)
SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, 'x' AS place
  FROM app.booking AS d JOIN public.users AS u ON u.id = d.user_id LEFT JOIN recent ON recent.id = d.id
 WHERE d.id = ANY (%(keys)s::bigint[])"""
RULE_FILE = """
[rules.dateplan_verified]
table = "app.booking"
key = "id"
column = "status"
becomes = "VE"
template = "dateplan_verified"
bounced = "{change}"
lookup = '''{lookup}'''
"""
CHANGE = "UPDATE app.person SET no_mail = true, why = %(class)s WHERE id = ANY (%(keys)s::bigint[])"


@pytest.mark.parametrize("apart", [False, True], ids=["one login", "a login for lookups"])
def test_a_role_without_rights_gets_them_by_the_remedies(
    database: Database, databases: Databases, pgherald: Pgherald, doctor: Examine, apart: bool
) -> None:
    database.execute(
        """CREATE SCHEMA app;
           CREATE TABLE app.booking (id bigint PRIMARY KEY, user_id bigint, status text);
           CREATE VIEW app.shown AS SELECT id FROM app.booking;
           CREATE TABLE app.person (id bigint PRIMARY KEY, no_mail boolean, why text);
           CREATE INDEX ON app.booking (status);
           INSERT INTO app.booking VALUES (1, 1, 'VE');
           REVOKE USAGE ON SCHEMA public FROM PUBLIC;
           SELECT pgherald.watch('dateplan_verified', 'app.booking')"""
    )
    text = RULE_FILE.format(change=CHANGE, lookup=LOOKUP)
    (pgherald.folder / "pgherald.toml").write_text(text, encoding="utf-8")
    # The cases may run at once, on one server.
    names = [f"{databases.run} herald {kind} of {1 + apart}" for kind in ("daemon", "lookups")[: 1 + apart]]
    for name in names:
        database.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name)))
    urls = {
        key: as_role(database, name)
        for key, name in zip(("PGHERALD_DATABASE_URL", "PGHERALD_DATABASE_LOOKUP_URL"), names, strict=False)
    }
    try:
        for _ in range(5):
            findings = doctor(**urls)
            wanted = {name: each for name, each in findings.items() if each.state is not State.ok}
            remedies = [each.remedy for each in wanted.values()]
            statements = [
                found for text in remedies for found in re.findall(r"GRANT [^;]+", text.partition("; or run")[0])
            ]
            roles = [found for text in remedies for found in re.findall(r'install --grant-to "([^"]+)"', text)]
            if not statements and not roles:
                break
            for statement in statements:
                database.execute(sql.SQL(statement))  # type: ignore[arg-type]
            for role in set(roles):
                pgherald("install", "--grant-to", role, check=True)
        assert {name: each.seen for name, each in wanted.items() if name != "daemon"} == {}
        assert findings[f"bounced {RULE}"].state is State.ok
        may_change = "SELECT has_column_privilege(%s, 'app.person', 'id', 'UPDATE')"
        assert database.value(may_change, (names[-1],)) is False, "no more than the statement needs"
    finally:
        for name in names:
            database.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            database.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
