"""The overview is right, and cheap for any number of waiting or sent events."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from listener.db.pools import OVERVIEW_PLANS, opened, overview_pool
from listener.db.queries import load
from listener.metrics import DELIVERY_BUCKETS
from listener.outbox.stats import EventStats
from listener.status.overview import Overview, read_overview
from tests.support.claimant import RULE
from tests.support.database import Database

BUCKETS = len(DELIVERY_BUCKETS) + 1


def seen(database: Database) -> Overview:
    async def ask() -> Overview:
        pool = overview_pool(database.url)
        async with opened(pool), pool.connection() as conn:
            return await read_overview(conn)

    return asyncio.run(ask())


def put(database: Database, state: str, count: int, rule: str = RULE, settled: str = "NULL") -> None:
    database.execute(
        f"""INSERT INTO pgherald.outbox (rule, key, state, reason, claim, settled_at, scheduled_at)
            SELECT %s, %s || g, %s, CASE WHEN %s = 'failed' THEN 'bad_address' END, 1, {settled}, now() - interval '1 hour' + g * interval '1 s'
              FROM generate_series(1, %s) AS g""",  # type: ignore[arg-type]
        (rule, state, state, state, count),
    )


def test_what_waits_and_why(sandbox: Database) -> None:
    put(sandbox, "available", 3)
    put(sandbox, "in_doubt", 2)
    put(sandbox, "available", 1, rule="gone")
    sandbox.execute("UPDATE pgherald.outbox SET captured_at = now() - interval '5 min' WHERE key = 'available2'")
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() + interval '5 min' WHERE key = 'available3'")
    o = seen(sandbox)
    by_name = {rule.name: rule for rule in o.rules}
    assert [*by_name] == [RULE, "gone"]
    assert (by_name[RULE].available, by_name[RULE].in_doubt) == (3, 2)
    assert 290 < (o.oldest or 0) < 400
    assert (o.available, o.in_doubt, len(o.in_doubt_events), o.failed, o.latest) == (4, 2, 2, [], [])


def test_the_reports_of_each_rule(sandbox: Database) -> None:
    put(sandbox, "available", 1, rule="gone")
    sandbox.execute("UPDATE pgherald.rule SET bounced = 3, complained = 2")
    assert [(rule.bounced, rule.complained) for rule in seen(sandbox).rules] == [(3, 2), (0, 0)]


def test_the_latest_are_found_behind_a_backlog(sandbox: Database) -> None:
    put(sandbox, "sent", 20, settled="now() - interval '1 min' + g * interval '1 s'")
    put(sandbox, "failed", 1, settled="now()")
    put(sandbox, "available", 2000)
    # One that came last was mailed before its turn.
    put(sandbox, "skipped", 0)
    o = seen(sandbox)
    assert [event.key for event in o.latest[:3]] == ["failed1", "sent20", "sent19"]
    assert [event.reason for event in o.failed] == ["bad_address"]


def test_more_than_can_be_counted(sandbox: Database) -> None:
    put(sandbox, "available", 10_050)
    assert seen(sandbox).available == 10_000


@pytest.mark.parametrize("statistics", ["of an empty table", "fresh"])
@pytest.mark.parametrize("query", ["overview_rules", "latest", "failed", "in_doubt"])
def test_no_plan_reads_the_whole_outbox(database: Database, query: str, statistics: str) -> None:
    database.execute("ALTER TABLE pgherald.outbox SET (autovacuum_enabled = off)")
    database.execute("VACUUM ANALYZE pgherald.outbox")
    put(database, "sent", 20_000, settled="now()")
    put(database, "available", 20_000)
    if statistics == "fresh":
        database.execute("ANALYZE pgherald.outbox")
    conn = database.connect()
    conn.execute(OVERVIEW_PLANS)
    plan = "\n".join(line for (line,) in conn.execute("EXPLAIN " + load("overview")[query], {"most": 12}))  # type: ignore[arg-type]
    assert not re.search(r"Seq Scan on outbox|Bitmap", plan), plan
    assert "using outbox_" in plan


def test_minutes_are_added_up(sandbox: Database) -> None:
    sandbox.execute("TRUNCATE pgherald.event_stats")
    fast, slow = [0] * BUCKETS, [0] * BUCKETS
    fast[1], slow[-1] = 9, 1
    for delivery, ago in ((fast, 2), (slow, 2), (fast, 5), (fast, 90)):
        sandbox.execute(
            "INSERT INTO pgherald.event_stats VALUES (date_trunc('minute', now()) - make_interval(mins => %s), %s, %s, 1, 2, %s)",
            (ago, f"r{delivery[1]}", sum(delivery), delivery),
        )
    o = seen(sandbox)
    assert len(o.minutes) == 60
    assert o.minutes[-1].at == o.now.astimezone(UTC).replace(second=0, microsecond=0)
    assert [m.at - o.minutes[0].at for m in o.minutes] == [timedelta(minutes=i) for i in range(60)]
    assert sum(m.sent for m in o.minutes) == 19
    two, five = o.minutes[-3], o.minutes[-6]
    assert (two.sent, two.skipped, two.failed) == (10, 2, 4)
    assert two.median is not None
    assert 0.005 < two.median < 0.01
    assert (two.slow or 0) > DELIVERY_BUCKETS[-1]
    assert five.slow is not None
    assert five.slow < 0.01
    assert o.minutes[-2].median is None


def test_tallies_of_several_daemons_add_up(sandbox: Database) -> None:
    sandbox.execute("TRUNCATE pgherald.event_stats")
    sandbox.execute("INSERT INTO pgherald.event_stats VALUES (now() - interval '25 h', 'old', 1, 0, 0, '{}')")
    one = EventStats("a", 1, 2, 3, (1, *[0] * (BUCKETS - 1)))
    query = load("stats")["add_stats"]
    for tallies in ([one], [one, EventStats("b", 5, 0, 0, (0,) * BUCKETS)], [one - one]):
        sandbox.execute(
            query,
            {
                "rules": [t.rule for t in tallies],
                "sent": [t.sent for t in tallies],
                "skipped": [t.skipped for t in tallies],
                "failed": [t.failed for t in tallies],
                "delivery": ["{" + ",".join(map(str, t.delivery)) + "}" for t in tallies],
            },
        )
    rows = sandbox.execute(
        "SELECT rule, sum(sent), sum(skipped), sum(failed), sum(delivery[1]) FROM pgherald.event_stats GROUP BY rule ORDER BY rule"
    )
    assert rows == [("a", 2, 4, 6, 2), ("b", 5, 0, 0, 0)]
    assert datetime.now(UTC) - sandbox.value("SELECT min(minute) FROM pgherald.event_stats") < timedelta(minutes=5)
