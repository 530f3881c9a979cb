"""The figures of `pgherald status`."""

from listener.admin.status import STATES, read_status
from tests.support.database import Database

RULE = "dateplan_verified"


def test_every_rule_has_every_state(sandbox: Database) -> None:
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key, state, claim) VALUES (%s, '1', 'in_doubt', 1)", (RULE,))
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, generate_series(2, 4)", (RULE,))
    sandbox.execute("UPDATE pgherald.rule SET bounced = 2, complained = 1")
    status = read_status(sandbox.connect(), ["empty"])
    assert status.rules == {
        "empty": dict.fromkeys(STATES, 0),
        RULE: {**dict.fromkeys(STATES, 0), "available": 3, "in_doubt": 1},
    }
    assert status.reports == {
        "empty": {"bounced": 0, "complained": 0},
        RULE: {"bounced": 2, "complained": 1},
    }
    assert (status.in_doubt, status.outbox["rows"]) == (1, 4)
    assert status.oldest_due_age_s is not None
    assert (status.workers, status.paused, status.suspended, status.asleep, status.foreign_locks) == (
        [],
        {},
        {},
        False,
        [],
    )


def test_only_an_event_that_a_daemon_should_send_is_due(sandbox: Database) -> None:
    sandbox.execute(
        "INSERT INTO pgherald.outbox (rule, key, scheduled_at) VALUES (%s, '1', now() - interval '1 min'), "
        "('other', '2', now() - interval '5 s'), ('other', '3', now() + interval '1 h'), ('other', '4', '-infinity')",
        (RULE,),
    )

    def due() -> float | None:
        return read_status(sandbox.connect(), []).oldest_due_age_s

    assert 60 <= (due() or 0) < 100
    sandbox.execute("UPDATE pgherald.rule SET paused_at = now()")
    assert 5 <= (due() or 0) < 45
    sandbox.execute(
        "INSERT INTO pgherald.worker (name, version, lease, suspended_rules, suspended_since, suspended_reasons) "
        "VALUES ('a', '1', '1 min', '{other}', ARRAY[now()], '{no column}')"
    )
    assert due() is None
    sandbox.execute("UPDATE pgherald.worker SET seen_at = now() - interval '1 h'")
    assert due() is not None


def test_how_long_a_worker_has_had_its_first_event(sandbox: Database) -> None:
    sandbox.execute(
        "INSERT INTO pgherald.worker (name, version, lease) VALUES ('a', '1', '1 min'), ('idle', '1', '1 min')"
    )
    sandbox.execute(
        "INSERT INTO pgherald.outbox (rule, key, state, claim, claimed_by, claimed_at) "
        "SELECT %s, key, state, 1, worker.id, now() - since "
        "  FROM pgherald.worker, (VALUES ('1', 'claimed', interval '1 s'), ('2', 'transmitting', '70 s')) "
        "       AS event (key, state, since) "
        " WHERE worker.name = 'a'",
        (RULE,),
    )
    busy, idle = read_status(sandbox.connect(), []).workers
    assert (busy["in_flight"], idle["in_flight"], idle["in_flight_for"]) == (2, 0, None)
    assert 70 <= busy["in_flight_for"] < 110
