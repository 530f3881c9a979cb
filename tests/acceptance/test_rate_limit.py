"""Two daemons together keep to the rate of the server and of the operator, and no event fails for it."""

from collections.abc import Iterator

import pytest

from tests.support import wait_until
from tests.support.backlog import add_plans, states, times_each, wait_sent
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer


@pytest.fixture
def slow_mail() -> Iterator[MailServer]:
    with MailServer(most_per_second=40) as mail:
        yield mail


def longest_wait(database: Database) -> float:
    """From the last claim, and so the question for consent, to the mark, in seconds."""
    ((seconds,),) = database.execute("""
        SELECT max(extract(epoch FROM (m ->> 'at')::timestamptz - claimed_at))::float8
          FROM pgherald.outbox, jsonb_array_elements(history) AS m WHERE m ->> 'what' = 'transmitting'""")
    return seconds


def most_in_a_second(mail: MailServer) -> int:
    times = [message.at for message in mail.messages]
    return max(sum(start <= at < start + 1 for at in times) for start in times)


@pytest.mark.slow
def test_two_daemons_find_the_rate_of_a_server_that_throttles(
    database: Database, slow_mail: MailServer, pgherald: Pgherald
) -> None:
    env = {"PGHERALD_SMTP_URL": slow_mail.url}
    plans = add_plans(database, 200)
    with pgherald.daemon(env=env) as one, pgherald.daemon(env=env) as other:
        database.verify(*plans)
        wait_sent(database, 200)
        took = slow_mail.messages[-1].at - slow_mail.messages[0].at
        lowered = [event for daemon in (one, other) for event in daemon.events if event["event"] == "rate_lowered"]
    assert times_each([slow_mail]) == {1: 200}
    assert database.execute("SELECT DISTINCT attempt FROM pgherald.outbox") == [(1,)]
    print(f"{200 / took:.0f} a second at a server that takes 40, throttled {slow_mail.smtpd.throttled} times")
    assert 200 / took > 10
    # Once for each time that it was found, not for each reply.
    assert 1 <= len(lowered) <= 5
    assert slow_mail.smtpd.throttled < 100


def test_a_configured_rate_holds_for_all_daemons_and_consent_is_asked_within_it(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    env = {"PGHERALD_SMTP_RATE": "10"}
    plans = add_plans(database, 100)
    with pgherald.daemon(env=env), pgherald.daemon(env=env):
        database.verify(*plans)
        wait_until(lambda: len(mail.messages) >= 10)
        database.execute("UPDATE public.users SET email_notifications_enabled = false")
        asked = len(mail.messages)
        wait_until(lambda: set(states(database)) == {"sent", "skipped"})
    sent = states(database)["sent"]
    # Those within the next half second, and what was on its way.
    assert asked <= sent <= asked + 12
    # Two daemons that did not share it would send 20; a machine that stalls lets some come late, and more at once.
    assert most_in_a_second(mail) <= 16
    # Claimed all together, the last would have waited for ten seconds.
    assert longest_wait(database) < 4


@pytest.mark.slow
def test_at_a_slow_rate_nothing_is_claimed_in_vain(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = add_plans(database, 30)
    with pgherald.daemon(env={"PGHERALD_SMTP_RATE": "1"}) as daemon:
        database.verify(*plans)
        wait_until(lambda: len(mail.messages) >= 3)
        assert daemon.stop() == 0
    sent = len(mail.messages)
    assert states(database) == {"sent": sent, "available": 30 - sent}
    assert database.value("SELECT count(*) FROM pgherald.outbox WHERE state = 'available' AND history <> '[]'") <= 1
