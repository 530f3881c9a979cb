"""purge and forget: events are deleted, and their rows stay handled."""

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


def test_only_old_settled_events_are_purged(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [database.add_plan("Café", f"{name}@example.org") for name in ("old", "new", "waiting")]
    database.verify(*plans[:2])
    pgherald("run", "--once", check=True)
    database.verify(plans[2])
    database.execute("UPDATE pgherald.outbox SET settled_at = now() - interval '2 h' WHERE key = %s", (str(plans[0]),))
    assert pgherald("purge", "--older-than", "1h", check=True).stdout == "1 event purged\n"
    assert [(event["key"], event["state"]) for event in database.events()] == [
        (str(plans[1]), "sent"),
        (str(plans[2]), "available"),
    ]
    assert pgherald("backfill", RULE, "--dry-run", check=True).stdout == "0 rows would be captured\n"


@pytest.mark.slow
def test_an_event_in_flight_is_not_forgotten(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    sent, claimed = (database.add_plan("Café", f"{name}@example.org") for name in ("sent", "claimed"))
    database.verify(sent)
    pgherald("run", "--once", check=True)
    assert pgherald("forget", RULE, sent, check=True).stdout == "1 event forgotten\n"
    database.verify(claimed)
    database.execute(
        "UPDATE pgherald.outbox SET state = 'claimed', claim = 1, claimed_by = 1 WHERE key = %s",
        (str(claimed),),
    )
    done = pgherald("forget", RULE, claimed)
    assert (done.returncode, done.stdout) == (1, "0 events forgotten\n")
    assert "1 event in flight and not deleted" in done.stderr
    assert len(database.events()) == 1
