"""A broken rule is left alone between tries, and stays suspended until one succeeds or nothing is left to try."""

import asyncio
from datetime import UTC, datetime

import structlog

from listener.errors import RuleBroken
from listener.worker.suspensions import RETRY_AFTER_S, Suspensions
from tests.support.clock import jumping

BROKEN = RuleBroken("no column for jane@example.org")


@jumping
async def test_a_rule_is_left_alone_between_tries_and_reported_once_a_try() -> None:
    """Its events stay available. Once the operator has corrected the rule, they are delivered without a restart."""
    suspensions = Suspensions()
    assert suspensions.active(["paid", "other"]) == ["paid", "other"]
    with structlog.testing.capture_logs() as logs:
        suspensions.suspend("paid", BROKEN)
        suspensions.suspend("paid", BROKEN)
        assert suspensions.active(["paid", "other"]) == ["other"]
        await asyncio.sleep(RETRY_AFTER_S - 1)
        assert suspensions.active(["paid"]) == []
        await asyncio.sleep(1)
        assert suspensions.active(["paid"]) == ["paid"]
        suspensions.suspend("paid", BROKEN)
    assert [entry["event"] for entry in logs] == ["rule_suspended"] * 2


@jumping
async def test_it_keeps_its_beginning_and_has_the_last_reason_without_an_address() -> None:
    suspensions = Suspensions()
    suspensions.suspend("paid", BROKEN)
    before = suspensions.current
    first = before["paid"]
    assert abs((datetime.now(UTC) - first.since).total_seconds()) < 60
    assert first.reason.startswith("no column for")
    assert "jane@" not in first.reason
    await asyncio.sleep(RETRY_AFTER_S)
    suspensions.suspend("paid", RuleBroken("no table"))
    assert suspensions.current["paid"].since == first.since
    assert suspensions.current["paid"].reason == "no table"
    # The lease compares it with what it has written.
    assert before == {"paid": first}


@jumping
async def test_it_ends_with_a_try_that_succeeds() -> None:
    suspensions = Suspensions()
    suspensions.suspend("paid", BROKEN)
    with structlog.testing.capture_logs() as logs:
        # This event was looked up before the rule broke.
        suspensions.end("paid")
        assert suspensions.current
        await asyncio.sleep(RETRY_AFTER_S)
        suspensions.end("other")
        suspensions.end("paid")
        suspensions.end("paid")
    assert not suspensions.current
    assert logs == [{"event": "rule_resumed", "rule": "paid", "log_level": "info"}]


@jumping
async def test_it_ends_when_nothing_is_left_to_try() -> None:
    """Another daemon may have the only event for a moment, so one claim without an event ends nothing."""
    suspensions = Suspensions()
    suspensions.suspend("paid", BROKEN)
    await asyncio.sleep(RETRY_AFTER_S)
    suspensions.end_idle({"paid", "other"})
    assert suspensions.current
    await asyncio.sleep(5 * RETRY_AFTER_S)
    suspensions.end_idle({"other"})
    assert suspensions.current
    suspensions.end_idle({"paid"})
    assert not suspensions.current
