"""Many events at once: one email per row, and a bound on how many are being transmitted."""

import time
from collections import Counter

import psycopg
import pytest

from tests.support import wait_until
from tests.support.backlog import RULE, add_plans, reasons, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import wait


def test_two_events_of_a_row_far_apart_in_a_backlog_give_one_mail(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 120)
    database.verify(*plans)
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plans[0],))
    database.verify(plans[0])
    assert pgherald("run", "--once", env={"PGHERALD_SMTP_CONNECTIONS": "1"}).returncode == 0
    wait_until(lambda: pgherald("run", "--once").returncode == 0 and not states(database)["available"])
    assert Counter(mail.recipients).most_common(1)[0][1] == 1
    assert len(mail.recipients) == 120
    assert reasons(database).count(("skipped", "superseded")) == 1


def test_no_more_are_transmitting_than_twice_the_connections(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", wait(0.05))
    database.verify(*add_plans(database, 60))
    most = 0
    with pgherald.daemon(env={"PGHERALD_SMTP_CONNECTIONS": "2"}), psycopg.connect(database.url, autocommit=True) as eye:
        while len(mail.messages) < 60:
            row = eye.execute("SELECT count(*) FROM pgherald.outbox WHERE state = 'transmitting'").fetchone()
            assert row is not None
            most = max(most, row[0])
    assert 0 < most <= 4


@pytest.mark.slow
def test_ten_thousand_in_one_statement_while_nobody_listens(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 10_000)
    database.execute("UPDATE public.dateplan SET status = 'VE' WHERE id BETWEEN %s AND %s", (plans[0], plans[-1]))
    with pgherald.daemon():
        wait_until(lambda: len(mail.messages) >= 10_000, 100)
        wait_until(lambda: states(database) == {"sent": 10_000})
    assert len(set(mail.recipients)) == len(mail.recipients) == 10_000


@pytest.mark.slow
def test_a_transaction_that_commits_late_is_found_beside_an_old_snapshot(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The snapshot keeps the dead entries of delivered events, so the daemon reads only the recent end of the index."""
    plans = add_plans(database, 4)
    old, late = database.connect(), database.connect()
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgherald.outbox")
    database.execute(
        """INSERT INTO pgherald.outbox (rule, key, scheduled_at)
           SELECT %s, n::text, now() - interval '1 day' FROM generate_series(1000001, 1200000) AS n""",
        (RULE,),
    )
    database.execute(
        """UPDATE pgherald.outbox SET state = 'skipped', scheduled_at = NULL, settled_at = now(), reason = 'row_gone'
            WHERE key::bigint > 1000000"""
    )
    with pgherald.daemon(env={"PGHERALD_DELIVERY_POLL": "60s"}):
        database.verify(plans[0])
        mail.wait_for(1)
        late.execute("BEGIN")
        late.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plans[1],))
        # Longer than a claim's margin. Other events go out meanwhile.
        end = time.monotonic() + 8
        sent = 1
        while time.monotonic() < end:
            plan = add_plans(database, 1)[0]
            database.verify(plan)
            sent += 1
            mail.wait_for(sent)
        late.execute("COMMIT")
        mail.wait_for(sent + 1)
        old.execute("ROLLBACK")
