"""A rule is paused and resumed, for all daemons at once."""

import json

from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


def states(database: Database) -> list[str]:
    return [event["state"] for event in database.events()]


def test_events_of_a_paused_rule_wait_and_then_go(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [database.add_plan("Café", f"{name}@example.org") for name in ("before", "during", "held")]
    # Nobody looks by himself: a resume rings.
    rung = {"PGHERALD_DELIVERY_POLL": "60s"}
    with pgherald.daemon(env=rung) as one, pgherald.daemon(env=rung) as other:
        database.verify(plans[0])
        mail.wait_for(1)
        assert f"{RULE}: paused at " in pgherald("pause", RULE, check=True).stdout
        since = database.value("SELECT paused_at FROM pgherald.rule")
        pgherald("pause", RULE, check=True)
        assert database.value("SELECT paused_at FROM pgherald.rule") == since
        # Each would take it within milliseconds, and takes none while it is asked for all that is told about it.
        database.verify(*plans[1:])
        assert json.loads(pgherald("status", "--json", check=True).stdout)["paused"] == {RULE: since.isoformat()}
        assert f"{RULE}: paused since" in pgherald("status", check=True).stdout
        assert f"pgherald resume {RULE}" in pgherald("explain", RULE, plans[1], check=True).stdout
        assert json.loads(pgherald("explain", RULE, plans[1], "--json").stdout)["paused_at"] == since.isoformat()
        assert "paused_at" not in json.loads(pgherald("explain", RULE, plans[0], "--json").stdout)
        once = pgherald("run", "--once", check=True)
        assert "2 events of a paused rule not sent" in once.stderr
        assert "later retry" not in once.stderr
        assert sorted(states(database)) == ["available", "available", "sent"]
        assert pgherald("resume", RULE, check=True).stdout == f"{RULE}: resumed\n"
        mail.wait_for(3)
        for daemon in (one, other):
            assert daemon.stop() == 0
    wait_until(lambda: states(database) == ["sent"] * 3)
    assert json.loads(pgherald("status", "--json").stdout)["paused"] == {}


def test_another_rule_goes_on(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.execute("INSERT INTO pgherald.rule (rule, \"table\", table_name, key, \"column\", becomes, paused_at) VALUES ('other', 'public.plan', 'public.plan', '{id}', 'place', '{x}', now())")  # fmt: skip
    database.execute("INSERT INTO pgherald.outbox (rule, key) VALUES ('other', '1')")
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once", check=True)
    assert mail.recipients == ["a@example.org"]


def test_what_cannot_be_paused(database: Database, pgherald: Pgherald) -> None:
    for command in ("pause", "resume"):
        assert pgherald(command, "nothing").returncode == 2
        database.execute("DELETE FROM pgherald.rule")
        done = pgherald(command, RULE)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "is not watched" in done.stderr
