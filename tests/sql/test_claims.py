"""Claiming: every event once, each rule its share, with a plan that stays; and which other event's mail covers it."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener.db.pools import PINNED_PLANS, opened, outbox_pool
from listener.outbox.repeats import QUERIES as REPEAT_QUERIES
from tests.support.claimant import QUERIES, RULE, Claimant
from tests.support.database import Database
from tests.support.inbox import add_changes, changes

Register = Callable[..., Claimant]
REPEATS = REPEAT_QUERIES["repeats"]


def capture(database: Database, count: int, rule: str = RULE) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, generate_series(1, %s)::text", (rule, count))


def keys(events: list[dict[str, Any]]) -> list[str]:
    return [event["key"] for event in events]


def test_what_a_claim_gives_and_writes(sandbox: Database, claimant: Register) -> None:
    capture(sandbox, 2)
    worker = claimant("host:1")
    first, second = worker.claim()
    assert first["claim"] == second["claim"] > 0
    assert (first["attempt"], first["in_doubt_count"], first["has_stored_message"], first["superseded_by"]) == (
        0,
        0,
        False,
        None,
    )
    assert 0 <= first["age"] < 60
    for event in sandbox.events():
        assert (event["state"], event["claimed_by"], event["claim"]) == ("claimed", worker.id, first["claim"])
        assert event["claimed_at"] is not None
        [entry] = event["history"]
        assert (entry["what"], entry["detail"]) == ("claimed", "host:1")
    capture(sandbox, 1)
    [third] = worker.claim()
    assert third["claim"] > first["claim"]


@pytest.mark.parametrize("add", [capture, add_changes], ids=["in the outbox", "in the inbox"])
def test_two_sessions_claim_disjoint_events_without_waiting(
    sandbox: Database, claimant: Register, add: Callable[[Database, int], None]
) -> None:
    add(sandbox, 6)
    one, other = claimant(), claimant()
    other.conn.execute("SET lock_timeout = '1s'")
    with one.conn.transaction():
        mine = one.claim(3)
        theirs = other.claim()
    assert (keys(mine), keys(theirs)) == (["1", "2", "3"], ["4", "5", "6"])
    assert one.claim() == other.claim() == []
    assert changes(sandbox) == 0


def test_a_claim_rolled_back_leaves_the_events_to_others(sandbox: Database, claimant: Register) -> None:
    capture(sandbox, 1)
    one, other = claimant(), claimant()
    with one.conn.transaction(force_rollback=True):
        assert keys(one.claim()) == ["1"]
    assert keys(other.claim()) == ["1"]


def test_only_what_is_due_and_asked_for(sandbox: Database, claimant: Register) -> None:
    capture(sandbox, 4)
    capture(sandbox, 2, rule="held")
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() + interval '1 hour' WHERE key = '1'")
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() - interval '1 hour' WHERE key = '4'")
    worker = claimant()
    assert worker.claim(rules=[]) == worker.claim(0) == []
    assert keys(worker.claim(1)) == ["4"]
    assert keys(worker.claim(1)) == ["2"]
    assert keys(worker.claim()) == ["3"]
    assert [(event["rule"], event["key"]) for event in worker.claim(rules=[RULE, "held"])] == [("held", "2")]


def claimed(worker: Claimant, limit: int, shares: dict[str, int], **starts: float) -> Counter[str]:
    """How many events of each rule a claim takes."""
    times = [starts.get(rule, 0.0) for rule in shares]
    return Counter(
        event["rule"] for event in worker.claim(limit, list(shares), shares=list(shares.values()), starts=times)
    )


def test_the_oldest_of_each_rule_have_their_turn_first(sandbox: Database, claimant: Register) -> None:
    """Whichever rule is asked for first. Of those that have their turn together, the oldest comes first."""
    for number, rule in enumerate(["b", "a", "a", "b", "c", "a", "b", "b"]):
        sandbox.execute(
            "INSERT INTO pgherald.outbox (rule, key, scheduled_at) VALUES (%s, %s, now() + make_interval(secs => %s))",
            (rule, str(number), number - 100),
        )
    worker = claimant()
    assert keys(worker.claim(2, ["c", "b", "a"])) == ["0", "1"]
    assert keys(worker.claim(3, ["a", "b", "c"])) == ["2", "3", "4"]
    assert keys(worker.claim(3, ["a", "b"])) == ["5", "6", "7"]


@pytest.mark.parametrize(
    ("waiting", "limit", "shares", "expected"),
    [
        ({"a": 300, "b": 1}, 100, {"a": 1, "b": 1}, {"a": 99, "b": 1}),
        ({"a": 300, "b": 300}, 100, {"a": 1, "b": 1}, {"a": 50, "b": 50}),
        ({"a": 300, "b": 300}, 100, {"a": 3, "b": 1}, {"a": 75, "b": 25}),
        ({"a": 300, "b": 300, "c": 20}, 100, {"a": 1, "b": 1, "c": 1}, {"a": 40, "b": 40, "c": 20}),
        ({"a": 300, "b": 300, "c": 20}, 100, {"a": 100, "b": 1, "c": 1}, {"a": 98, "b": 1, "c": 1}),
        ({"a": 5, "b": 5}, 100, {"a": 1, "b": 1}, {"a": 5, "b": 5}),
        # What is left is divided among the rules that have more: their shares are 2 and 1.
        ({"a": 400, "b": 400, **{f"r{n}": 1 for n in range(40)}}, 202,
         {"a": 2, "b": 1, **{f"r{n}": 1 for n in range(40)}}, {"a": 108, "b": 54, **{f"r{n}": 1 for n in range(40)}}),
    ],
)  # fmt: skip
def test_each_rule_has_its_share(
    sandbox: Database,
    claimant: Register,
    waiting: dict[str, int],
    limit: int,
    shares: dict[str, int],
    expected: dict[str, int],
) -> None:
    for rule, count in waiting.items():
        capture(sandbox, count, rule)
    assert claimed(claimant(), limit, shares) == pytest.approx(expected, abs=1)


def test_a_rule_that_had_its_turn_waits_for_the_next(sandbox: Database, claimant: Register) -> None:
    for rule in ("a", "b"):
        capture(sandbox, 10, rule)
    worker = claimant()
    assert claimed(worker, 1, {"a": 1, "b": 1}, a=1.0) == {"b": 1}
    assert claimed(worker, 1, {"a": 1, "b": 1}, b=1.0) == {"a": 1}
    assert claimed(worker, 4, {"a": 1, "b": 1}, b=1.5) == {"a": 3, "b": 1}
    # Alone it does not wait.
    assert claimed(worker, 3, {"a": 1}, a=1.0) == {"a": 3}


def test_a_claim_is_full_while_enough_is_due(sandbox: Database, claimant: Register) -> None:
    """One rule of many has the backlog."""
    rules = [f"rule{number}" for number in range(50)]
    for rule in rules:
        capture(sandbox, 1, rule)
    capture(sandbox, 2000, RULE)
    worker = claimant()
    assert claimed(worker, 500, dict.fromkeys([*rules, RULE], 1)) == {RULE: 450, **dict.fromkeys(rules, 1)}


def test_a_claim_of_many_rules_reads_no_backlog(database: Database) -> None:
    """However many events wait, it looks at no more than a few times those that it takes."""
    conn = database.connect()
    conn.execute(PINNED_PLANS)
    rules = [f"rule{number}" for number in range(100)]
    for rule in rules:
        capture(database, 200, rule)
    database.execute("VACUUM ANALYZE pgherald.outbox")
    prepared_claim(conn)
    claim = sql.SQL(
        "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE claim (1, 1, 'x', {}, {}, {}, NULL, NULL, 500, 0, '(0,0)')"
    ).format(rules, [1] * 100, [0.0] * 100)
    with conn.transaction(force_rollback=True):
        [(plan,)] = conn.execute(claim).fetchall()
    read = [
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(plan[0]["Plan"])
        if node.get("Index Name") == "outbox_available_idx"
    ]
    assert len(read) == 3
    # The first of each; twice the claim, and one more of each; the claim.
    assert sorted(read) == pytest.approx([100, 500, 1100], abs=2)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def test_of_many_rules_each_has_its_turn_and_nothing_is_left(sandbox: Database, claimant: Register) -> None:
    """A claim looks at the first events of each rule only, so that it costs the same for any number of rules."""
    rules = [f"rule{number}" for number in range(100)]
    for rule in rules:
        capture(sandbox, 20, rule)
    worker, sizes = claimant(), []
    while events := worker.claim(50, rules):
        sizes.append(len(events))
    assert sizes == [50] * 40


def test_two_sessions_claim_disjoint_events_of_several_rules(sandbox: Database, claimant: Register) -> None:
    for rule in ("a", "b"):
        capture(sandbox, 10, rule)
    one, other = claimant(), claimant()
    other.conn.execute("SET lock_timeout = '1s'")
    with one.conn.transaction():
        mine = one.claim(5, ["a", "b"])
        theirs = other.claim(5, ["a", "b"])
    assert len(mine) == len(theirs) == 5
    assert not {event["id"] for event in mine} & {event["id"] for event in theirs}


def test_a_window_leaves_out_older_events(sandbox: Database, claimant: Register) -> None:
    capture(sandbox, 2)
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() - interval '1 minute' WHERE key = '1'")
    worker = claimant()
    assert keys(worker.claim(window=30)) == ["2"]
    assert keys(worker.claim(window=90)) == ["1"]


@pytest.mark.parametrize("state", ["paused", "unknown"])
def test_a_claim_reads_no_event_of_another_rule(database: Database, state: str) -> None:
    """Walking past 300,000 of them, a claim took 45 ms and read 6,900 blocks."""
    conn = database.connect()
    conn.execute(PINNED_PLANS)
    claim = prepared_claim(conn)
    capture(database, 20_000, rule=RULE if state == "paused" else "unknown")
    if state == "paused":
        database.execute("UPDATE pgherald.rule SET paused_at = now()")
    explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(claim)
    [(plan,)] = conn.execute(explain).fetchall()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 50


def test_an_uncommitted_event_is_not_claimed_and_not_passed_over_for_good(
    sandbox: Database, claimant: Register
) -> None:
    """Its number is smaller than those that were claimed before it."""
    worker, application = claimant(), sandbox.connect()
    with application.transaction():
        application.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, 'early')", (RULE,))
        capture(sandbox, 1)
        assert keys(worker.claim()) == ["1"]
    assert keys(worker.claim()) == ["early"]


SETTLED = {"sent": None, "skipped": "no_consent", "failed": "bad_address"}


@pytest.mark.parametrize("state", ["claimed", "transmitting", "sent", "skipped", "failed", "in_doubt", "available"])
def test_covered_by_what_is_on_its_way_or_sent_and_was_claimed_after_the_change(
    sandbox: Database, claimant: Register, state: str
) -> None:
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
    sandbox.verify(plan)
    one, other = claimant(), claimant()
    [first] = one.claim(1)
    bring(one, first, state)
    assert {event["id"]: event["superseded_by"] for event in other.claim()}[first["id"] + 1] == (
        state if state in ("claimed", "transmitting", "sent") else None
    )


def test_covered_whatever_other_transaction_is_open(sandbox: Database, claimant: Register) -> None:
    """One that began before the changes and goes on for hours has nothing to do with them."""
    long = sandbox.connect()
    with long.transaction():
        long.execute("SELECT pg_current_xact_id()")
        plan = sandbox.add_plan("Café", "jane@example.org")
        sandbox.verify(plan)
        sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
        sandbox.verify(plan)
        worker = claimant()
        worker.settle(worker.claim(1)[0], "sent")
        [second] = worker.claim()
    assert second["superseded_by"] == "sent"


def bring(worker: Claimant, event: Any, state: str) -> None:
    if state == "transmitting":
        assert worker.mark(event)
    elif state == "in_doubt":
        assert worker.mark(event)
        assert worker.settle(event, state, delay=60)
    elif state != "claimed":
        assert worker.settle(event, state, reason=SETTLED.get(state))


def test_not_covered_by_what_was_claimed_before_the_change(sandbox: Database, claimant: Register) -> None:
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker = claimant()
    [first] = worker.claim()
    sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
    sandbox.verify(plan)
    assert worker.settle(first, "sent")
    [second] = worker.claim()
    assert second["superseded_by"] is None


def test_not_covered_by_what_was_claimed_while_the_change_was_uncommitted(
    sandbox: Database, claimant: Register
) -> None:
    """Captured before that claim by the clock and by number, but its lookup could not see it."""
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker, application = claimant(), sandbox.connect()
    with application.transaction():
        application.execute("UPDATE public.dateplan SET status = 'PE'")
        application.execute("UPDATE public.dateplan SET status = 'VE'")
        sandbox.execute("SELECT pg_current_xact_id()")  # a later transaction that is over
        [first] = worker.claim()
    assert worker.settle(first, "sent")
    [second] = worker.claim()
    assert second["superseded_by"] is None


def test_not_covered_by_a_second_sending(sandbox: Database, claimant: Register) -> None:
    """It repeats the bytes of the first sending, which was before the change."""
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker = claimant()
    [first] = worker.claim()
    worker.mark(first)
    worker.settle(first, "in_doubt", delay=0)
    sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
    sandbox.verify(plan)
    assert worker.resend() == 1
    [again] = worker.claim(1)
    assert (again["id"], again["has_stored_message"]) == (first["id"], True)
    assert worker.stored(again) == ("jane@example.org", b"bytes")
    assert worker.settle(again, "sent")
    [second] = worker.claim()
    assert second["superseded_by"] is None


def test_a_paused_rule_is_left_out(sandbox: Database, claimant: Register) -> None:
    capture(sandbox, 3)
    capture(sandbox, 1, rule="held")
    worker = claimant()
    assert len(worker.claim(1)) == 1
    sandbox.execute("UPDATE pgherald.rule SET paused_at = now()")
    assert [event["rule"] for event in worker.claim(rules=[RULE, "held"])] == ["held"]
    sandbox.execute("UPDATE pgherald.rule SET paused_at = NULL")
    assert len(worker.claim()) == 2


@pytest.mark.parametrize(
    "change", ["key = 'x'", "rule = 'x'", "claimed_at = captured_at - interval '1 day'", "captured_xid = '9999999999'"]
)
def test_not_covered_by_another_row_nor_by_what_a_restored_dump_says(
    sandbox: Database, claimant: Register, change: str
) -> None:
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
    sandbox.verify(plan)
    worker = claimant()
    worker.settle(worker.claim(1)[0], "sent")
    which = "state = 'available'" if "xid" in change else "state = 'sent'"
    sandbox.execute(f"UPDATE pgherald.outbox SET {change} WHERE {which}")
    [second] = worker.claim()
    assert second["superseded_by"] is None


PARAMETERS = {
    "worker": "bigint",
    "number": "bigint",
    "name": "text",
    "rules": "text[]",
    "shares": "integer[]",
    "starts": "float8[]",
    "window": "float8",
    "only": "bigint",
    "limit": "bigint",
    "batch": "bigint",
    "start": "tid",
}


def prepared_claim(conn: psycopg.Connection[Any]) -> sql.Composable:
    """How to call the daemon's claim, prepared in this session, for 500 events."""
    text = QUERIES["claim"]
    for number, name in enumerate(PARAMETERS, 1):
        text = re.sub(rf"%\({name}\)s", f"${number}", text)
    conn.execute(f"PREPARE claim ({', '.join(PARAMETERS.values())}) AS {text}")
    return sql.SQL("EXECUTE claim (1, 1, 'x', ARRAY[{}], '{{1}}', '{{0}}', NULL, NULL, 500, 0, '(0,0)')").format(RULE)


@pytest.mark.parametrize("statistics", ["none", "of an empty table", "fresh"])
@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_the_claims_plan_stays_when_the_table_grows(database: Database, statistics: str, mode: str) -> None:
    """Without the pins, a plan made while the table was empty took 22 s a claim."""
    conn = database.connect()
    conn.execute(PINNED_PLANS)
    conn.execute("SELECT set_config('plan_cache_mode', %s, false)", (mode,))
    database.execute("ALTER TABLE pgherald.outbox SET (autovacuum_enabled = off)")
    if statistics == "of an empty table":
        database.execute("VACUUM ANALYZE pgherald.outbox")
    claim = prepared_claim(conn)
    for _ in range(7):
        assert [row[0] for row in conn.execute(claim)] == [None]
    capture(database, 20_000)
    database.execute("INSERT INTO pgherald.outbox (rule, key, state, settled_at) SELECT %s, g, 'sent', now() FROM generate_series(1, 2000) AS g", (RULE,))  # fmt: skip
    if statistics == "fresh":
        database.execute("ANALYZE pgherald.outbox")
    plan = "\n".join(line for (line,) in conn.execute(sql.SQL("EXPLAIN {}").format(claim)))
    scans = re.findall(r"using outbox_available_idx .*\n +Index Cond: \(.*\)", plan)
    assert len(scans) == 3
    assert all("rule = " in scan and "scheduled_at >= " in scan for scan in scans), plan
    assert "using outbox_pkey" in plan
    assert re.search(r"InitPlan [\s\S]*using rule_pkey", plan), plan
    assert re.search(r"using outbox_key_idx .*\n +Index Cond: \(key = (event|claimed).key\)", plan), plan
    assert not re.search("Seq Scan|Bitmap|Hash Join|Merge", plan), plan
    # The first events of each rule are sorted, and nothing else.
    assert plan.count("Sort  (") == 1, plan
    conn.execute("SET statement_timeout = '5s'")
    for _ in range(3):
        assert len(conn.execute(claim).fetchall()) == 500


@pytest.mark.parametrize("events", [0, 1, 20_000])
@pytest.mark.parametrize(
    "query",
    [
        "record",
        "settle",
        "mark",
        "find_settled",
        "release_lost_claims",
        "rescue",
        "resend",
        "due",
        "unclaim",
        "claim_unreadable",
        "stored",
    ],
)
def test_no_plan_reads_what_is_settled(database: Database, query: str, events: int) -> None:
    """Planned while nothing was claimed yet, a write read the whole index of what had left `available`."""
    conn = database.connect()
    conn.execute(PINNED_PLANS)
    capture(database, events)
    database.execute("VACUUM ANALYZE pgherald.outbox")
    text, names = QUERIES[query], dict.fromkeys(re.findall(r"%\((\w+)\)", QUERIES[query]))
    for number, name in enumerate(names, 1):
        text = re.sub(rf"%\({name}\)[sb]", f"${number}", text)
    conn.execute(f"PREPARE query AS {text}")
    given = f" ({', '.join(['NULL'] * len(names))})" if names else ""
    plan = "\n".join(line for (line,) in conn.execute(f"EXPLAIN EXECUTE query{given}"))
    assert "outbox" in plan
    assert not re.search("Seq Scan|Sort|Bitmap|Hash|Merge|outbox_key_idx", plan), plan
    assert not re.search(r"using outbox_pkey (?!.*\n +Index Cond: \(id = ANY)", plan), plan


@pytest.mark.parametrize("events", [0, 1, 20_000])
def test_to_ask_for_repeats_reads_the_events_of_one_row(database: Database, events: int) -> None:
    """A rule with again_after asks at each batch. Settled events are millions."""
    conn = database.connect()
    conn.execute(PINNED_PLANS)
    database.execute(
        "INSERT INTO pgherald.outbox (rule, key, state, settled_at) SELECT %s, g, 'sent', now() FROM generate_series(1, %s) AS g",
        (RULE, events),
    )
    database.execute("VACUUM ANALYZE pgherald.outbox")
    ids = database.execute("SELECT id FROM pgherald.outbox ORDER BY id LIMIT 500")
    conn.execute("PREPARE query AS " + re.sub(r"%\(ids\)s", "$1", re.sub(r"%\(again_after\)s", "$2", REPEATS)))  # type: ignore[arg-type]
    given = ", ".join(str(number) for (number,) in ids)
    asked = f"EXPLAIN EXECUTE query (ARRAY[{given}]::bigint[], 604800)"
    plan = "\n".join(line for (line,) in conn.execute(asked))
    assert re.search(r"using outbox_key_idx .*\n +Index Cond: \(key = own.key\)", plan), plan
    assert re.search(r"using outbox_pkey on outbox own.*\n +Index Cond: \(id = ANY", plan), plan
    assert not re.search("Seq Scan|Sort|Bitmap|Hash Join|Merge", plan), plan


def test_the_daemons_sessions_are_pinned_and_prepare_at_once(database: Database) -> None:
    """The pool sets the options that the test above sets by hand."""

    async def settings() -> tuple[Any, ...]:
        pool = outbox_pool(database.url)
        async with opened(pool), pool.connection() as conn:
            cursor = await conn.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in pinned))
            return (conn.prepare_threshold, *(await cursor.fetchone() or ()))

    pinned = re.findall(r"SET (\w+) = off", PINNED_PLANS)
    assert len(pinned) >= 5
    assert asyncio.run(settings()) == (0, *["off"] * len(pinned))
