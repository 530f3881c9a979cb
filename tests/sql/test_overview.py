"""The overview is right, and cheap for any number of waiting or sent events."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql

from listener.db.pools import OVERVIEW_PLANS, opened, overview_pool
from listener.db.queries import load
from listener.metrics import DELIVERY_BUCKETS
from listener.outbox.stats import EventStats
from listener.status.overview import MAX_COUNTED, Overview, read_overview
from tests.support.claimant import RULE
from tests.support.database import Database
from tests.support.inbox import add_changes, changes

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
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() - interval '5 min' WHERE key = 'available2'")
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() + interval '5 min' WHERE key <> 'available2'")
    o = seen(sandbox)
    by_name = {rule.name: rule for rule in o.rules}
    assert [*by_name] == [RULE, "gone"]
    assert (by_name[RULE].available, by_name[RULE].in_doubt) == (3, 2)
    assert 290 < o.behind_s < 400
    assert by_name[RULE].due == "5 min ago"
    assert -300 < (by_name["gone"].due_for or 0) < -200
    assert (by_name["gone"].behind_s, by_name["gone"].due) == (0, "in 5 min")
    assert (o.available, o.in_doubt, len(o.in_doubt_events), o.failed, o.latest) == (4, 2, 2, [], [])


def test_changes_in_the_inbox_wait_too(sandbox: Database) -> None:
    put(sandbox, "available", 3)
    add_changes(sandbox, 2)
    add_changes(sandbox, 1, rule="gone")
    sandbox.execute("UPDATE pgherald.inbox SET captured_at = now() - interval '2 hours' WHERE key = '1'")
    o = seen(sandbox)
    assert {rule.name: rule.available for rule in o.rules} == {RULE: 5, "gone": 1}
    assert {rule.due for rule in o.rules} == {"2 h ago"}
    assert 7200 <= o.behind_s < 7300
    assert changes(sandbox) == 3


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


def test_each_rule_is_counted_for_itself(sandbox: Database) -> None:
    """A backlog of one rule, even of a paused one, hides no event of another."""
    put(sandbox, "available", 10_050, rule="a")
    put(sandbox, "available", 399, rule="b")
    put(sandbox, "available", 7)
    sandbox.execute("UPDATE pgherald.rule SET paused_at = now()")
    o = seen(sandbox)
    assert {rule.name: rule.available for rule in o.rules} == {"a": MAX_COUNTED, "b": 399, RULE: 7}
    assert [rule.behind_s > 3000 for rule in o.rules] == [True, True, False]
    assert (o.available, o.is_counted) == (10_406, False)


def test_counting_reads_the_index_alone(database: Database) -> None:
    """A page for each of 10,000 events would be read once a second while somebody looks."""
    database.execute("ALTER TABLE pgherald.outbox SET (autovacuum_enabled = off)")
    put(database, "available", 20_000, rule="a")
    put(database, "available", 399, rule="b")
    database.execute("VACUUM ANALYZE pgherald.outbox")
    conn = database.connect()
    conn.execute(OVERVIEW_PLANS)
    query = "EXPLAIN (ANALYZE, BUFFERS) " + load("overview")["overview_rules"]
    plan = [line for (line,) in conn.execute(query)]  # type: ignore[arg-type]
    found = re.search(r"shared hit=(\d+)(?: read=(\d+))?", "\n".join(plan))
    assert found is not None
    assert sum(int(number or 0) for number in found.groups()) < 250, "\n".join(plan)


def test_a_suspended_rule_has_its_reason(sandbox: Database) -> None:
    sandbox.execute(
        "INSERT INTO pgherald.worker (name, version, lease, suspended_rules, suspended_since, suspended_reasons) "
        "VALUES ('late', '1', '1 min', %s, ARRAY[now()], '{no table}'), "
        "('early', '1', '1 min', %s, ARRAY[now() - interval '1 h'], '{no column}'), "
        "('dead', '1', '-1 min', '{gone}', ARRAY[now()], '{x}')",
        ([RULE], [RULE]),
    )
    put(sandbox, "available", 1)
    put(sandbox, "available", 1, rule="gone")
    o = seen(sandbox)
    assert [(rule.name, rule.suspended_reason, rule.suspended_at is not None) for rule in o.rules] == [
        (RULE, "no column", True),
        ("gone", None, False),
    ]
    assert (o.rules[0].behind_s, o.rules[1].behind_s > 0) == (0, True)


def test_the_last_failures_are_shown_first(sandbox: Database) -> None:
    """An event that was captured long ago may fail last."""
    put(sandbox, "failed", 30, settled="now() - g * interval '1 min'")
    assert [event.key for event in seen(sandbox).failed] == [f"failed{i}" for i in range(1, 13)]


def test_events_in_doubt_have_the_time_of_their_hand_over(sandbox: Database) -> None:
    put(sandbox, "in_doubt", 15)
    marked = "jsonb_build_object('what', 'transmitting', 'at', {})"
    sandbox.execute(
        sql.SQL(
            "UPDATE pgherald.outbox SET scheduled_at = NULL, captured_at = now() - interval '1 day', "
            "claimed_at = date_trunc('day', now()) + id * interval '1 s', "
            'history = jsonb_build_array({}, {}, \'{{"what": "in_doubt"}}\'::jsonb) WHERE id > 1'
        ).format(
            sql.SQL(marked.format("'yesterday'")),
            sql.SQL(marked.format("CASE key WHEN 'in_doubt14' THEN 'nonsense' ELSE '2026-11-22T19:44:10+02:00' END")),
        )
    )
    found = seen(sandbox).in_doubt_events
    # Those that wait for a person come before one that is sent again, and the last one first.
    assert [event.key for event in found] == [f"in_doubt{i}" for i in range(15, 3, -1)]
    assert found[0].at == datetime(2026, 11, 22, 17, 44, 10, tzinfo=UTC)
    assert found[1].at == sandbox.value("SELECT claimed_at FROM pgherald.outbox WHERE key = 'in_doubt14'")


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
