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
    assert status.oldest_available_age_s is not None
    assert (status.workers, status.paused, status.asleep, status.foreign_locks) == ([], {}, False, [])
