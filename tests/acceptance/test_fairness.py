"""No rule's backlog holds up another: by the order in which emails arrive, and not by time."""

from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.several_rules import add_backlog, configure, count_by_rule, rules_of

BACKLOG = 100_000
# Events of the backlog that may be claimed after the quiet rule's event was captured and before it is claimed: those of a
# claim that had begun and of one beside it. A claim takes up to 500 events, or at 20 a second those of half a second.
ONE_CLAIM = 500
ONE_CLAIM_AT_20 = 10


def overtaking(database: Database, key: int) -> int:
    """Count the events of the backlog that were claimed while this event of the quiet rule was there to be claimed."""
    return int(
        database.value(
            """SELECT count(*) FROM pgherald.outbox AS big, pgherald.outbox AS quiet
                WHERE big.rule = 'big' AND quiet.rule = 'quiet' AND quiet.key = %s AND big.claimed_at <> quiet.claimed_at
                  AND big.claimed_at BETWEEN quiet.captured_at AND quiet.claimed_at""",
            (str(key),),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "daemons", "most"),
    [
        ({}, 1, 2 * ONE_CLAIM),
        ({"PGHERALD_SMTP_RATE": "20"}, 1, 2 * ONE_CLAIM_AT_20),
        ({"PGHERALD_SMTP_RATE": "20"}, 2, 2 * ONE_CLAIM_AT_20),
    ],
)
def test_a_quiet_rule_beside_a_hundred_thousand_events(
    database: Database, mail: MailServer, pgherald: Pgherald, env: dict[str, str], daemons: int, most: int
) -> None:
    configure(database, pgherald, {"big": 1, "quiet": 1})
    add_backlog(database, "big", BACKLOG)
    with ExitStack() as running:
        for _ in range(daemons):
            running.enter_context(pgherald.daemon(env=env))
        wait_until(lambda: len(mail.messages) >= 30)
        for key in range(1, 6):
            database.execute("INSERT INTO public.quiet VALUES (%s, 'VE')", (key,))
            wait_until(lambda key=key: f"quiet.{key}@example.org" in mail.recipients)
    assert all(overtaking(database, key) <= most for key in range(1, 6))
    assert database.value("SELECT count(*) FROM pgherald.outbox WHERE state = 'available'") > BACKLOG // 2


@pytest.mark.slow
def test_a_quiet_rule_beside_a_paused_backlog(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    configure(database, pgherald, {"big": 1, "quiet": 1})
    add_backlog(database, "big", BACKLOG)
    pgherald("pause", "big", check=True)
    with pgherald.daemon():
        for key in range(1, 6):
            database.execute("INSERT INTO public.quiet VALUES (%s, 'VE')", (key,))
            mail.wait_for(key)
        assert count_by_rule(mail) == {"quiet": 5}
        pgherald("resume", "big", check=True)
        wait_until(lambda: len(mail.messages) >= 500)
        database.execute("INSERT INTO public.quiet VALUES (6, 'VE')")
        wait_until(lambda: "quiet.6@example.org" in mail.recipients)
    assert overtaking(database, 6) <= 2 * ONE_CLAIM


@pytest.mark.parametrize(("daemons", "share"), [(1, 1), repeats(1, 100), repeats(2, 1)])
def test_one_at_a_time_a_quiet_rule_is_next(
    database: Database, mail: MailServer, pgherald: Pgherald, daemons: int, share: int
) -> None:
    """At four a second a claim takes one or two events."""
    configure(database, pgherald, {"big": share, "quiet": 1})
    add_backlog(database, "big", 1000)
    with ExitStack() as running:
        for _ in range(daemons):
            running.enter_context(pgherald.daemon(env={"PGHERALD_SMTP_RATE": "4"}))
        wait_until(lambda: len(mail.messages) >= 3)
        database.execute("INSERT INTO public.quiet VALUES (1, 'VE')")
        wait_until(lambda: "quiet" in rules_of(mail))
    assert overtaking(database, 1) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["40", repeats("4")])
def test_backlogs_shrink_in_proportion_to_the_shares(
    database: Database, mail: MailServer, pgherald: Pgherald, rate: str
) -> None:
    configure(database, pgherald, {"one": 1, "three": 3, "small": 1})
    for rule, number in (("one", 2000), ("three", 2000), ("small", 5)):
        add_backlog(database, rule, number)
    with pgherald.daemon(env={"PGHERALD_SMTP_RATE": rate}):
        wait_until(lambda: len(mail.messages) >= 125)
    assert Counter(rules_of(mail)[:85])["small"] == 5
    # The first lookups may be late, since they plan their query. Their rule then misses its part of one claim.
    later = Counter(rules_of(mail)[45:125])
    assert later["one"] == pytest.approx(20, abs=6)
    assert later["three"] == pytest.approx(60, abs=6)


@pytest.mark.slow
def test_twenty_backlogs_of_different_sizes(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """The largest is a thousand times the smallest, and each gets as much as the others until it is done."""
    sizes = {f"r{number}": 2 ** (number // 2 + 1) for number in range(20)}
    configure(database, pgherald, dict.fromkeys(sizes, 1))
    for rule, size in sizes.items():
        add_backlog(database, rule, size)
    with pgherald.daemon(env={"PGHERALD_SMTP_RATE": "100"}):
        wait_until(lambda: len(mail.messages) >= 180)
    first = Counter(rules_of(mail)[:180])
    # Of six rules all are sent: 2, 2, 4, 4, 8 and 8. The other 152 are divided among fourteen.
    assert [first[f"r{number}"] for number in range(4)] == [2, 2, 4, 4]
    assert all(8 <= first[f"r{number}"] <= 14 for number in range(6, 20)), first
