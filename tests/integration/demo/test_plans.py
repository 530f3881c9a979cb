"""The demo's application: which rows it creates, and that its changes are captured once."""

import asyncio

from listener.demo.plans import Tally, prepare, verify_all
from tests.support.database import Database


def test_each_reason_occurs_and_each_change_is_captured_once(bare_database: Database) -> None:
    tally = Tally()
    bare_database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    prepare(bare_database.url, tally, 24)
    expected = [plan.expected for plan in tally.plans.values()]
    assert {reason: expected.count(reason) for reason in expected} == {
        "email": 20, "no_consent": 2, "no_recipient": 1, "incomplete": 1,
    }  # fmt: skip
    assert len(tally.by_address) == 23, "one plan has no address"
    asyncio.run(verify_all(bare_database.url, tally))
    rows = bare_database.execute("SELECT key FROM pgherald.outbox ORDER BY key::int")
    assert [int(key) for (key,) in rows] == sorted(tally.plans)
    assert sum(plan.committed is not None for plan in tally.plans.values()) == 16
