"""The application's database changes under a running daemon: each rule that is no longer captured is named everywhere."""

import time
from typing import LiteralString

import pytest
from psycopg import sql

from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.web import ANY_PORT, Client

# From the change to the log, the metrics and the readiness probe.
TOLD_WITHIN_S = 15.0
_BREAK: dict[str, LiteralString] = {
    "swapped": "ALTER TABLE public.swapped RENAME TO old; CREATE TABLE public.swapped (LIKE old INCLUDING ALL)",
    "disabled": "ALTER TABLE public.disabled DISABLE TRIGGER USER",
    "no_trigger": "DROP TRIGGER pgherald_no_trigger_update ON public.no_trigger",
    "no_column": "ALTER TABLE public.no_column DROP COLUMN status CASCADE",
    "no_table": "DROP TABLE public.no_table",
    "no_rule": "DELETE FROM pgherald.rule WHERE rule = 'no_rule'",
    "no_right": "ALTER FUNCTION pgherald.capture_no_right() OWNER TO pg_monitor",
}
_RULE = """
[rules.{0}]
table = "public.{0}"
becomes = "VE"
template = "dateplan_verified"
lookup = "SELECT NULL::bigint AS key, 'VE' AS current, '' AS email, true AS consent, '' AS place WHERE NULL = ANY (%(keys)s)"
"""


@pytest.mark.slow
def test_every_rule_that_is_no_longer_captured_is_told_in_time(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    rules = [*_BREAK, "sound"]
    for rule in rules:
        name = sql.Identifier(rule)
        database.execute(sql.SQL("CREATE TABLE public.{} (id bigint PRIMARY KEY, status text)").format(name))
        database.execute("SELECT pgherald.watch(%s, %s::regclass)", (rule, f"public.{rule}"))
    config = pgherald.folder / "pgherald.toml"
    config.write_text("".join(_RULE.format(rule) for rule in rules))
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        wait_until(lambda: client.get("/readyz").status == 200)
        assert gauges(client) == dict.fromkeys(rules, 1.0)
        for statement in _BREAK.values():
            database.execute(statement)
        broken_at = time.monotonic()
        stopped = {rule: daemon.wait_event("capture_stopped", rule=rule) for rule in _BREAK}
        told_after = time.monotonic() - broken_at
        print(f"all told {told_after:.1f} s after the change")
        assert told_after < TOLD_WITHIN_S
        assert {event["level"] for event in stopped.values()} == {"error"}
        assert all(f"rule {rule}" in event["reason"] for rule, event in stopped.items())
        assert gauges(client) == {**dict.fromkeys(_BREAK, 0.0), "sound": 1.0}
        ready = client.get("/readyz")
        assert ready.status == 503
        assert [rule for rule in rules if f"rule {rule}" in ready.json()["parts"]["schema"]["detail"]] == list(_BREAK)
        database.execute("ALTER TABLE public.disabled ENABLE TRIGGER USER")
        daemon.wait_event("capture_resumed", rule="disabled")
        assert gauges(client)["disabled"] == 1.0
        counts = [event["rule"] for event in daemon.events if event["event"] == "capture_stopped"]
        assert sorted(counts) == sorted(_BREAK), "each is logged once"


def gauges(client: Client) -> dict[str, float]:
    prefix, end = 'pgherald_capturing{rule="', '"}'
    return {
        name.removeprefix(prefix).removesuffix(end): value
        for name, value in client.metrics().items()
        if name.startswith(prefix)
    }
