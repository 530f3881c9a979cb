"""The rate that daemons share: what it grants, on a clock that is put back in the database instead of waited for."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
import structlog

from listener.db.pool import Pool
from listener.db.pools import outbox_pool
from listener.errors import SchemaError
from listener.outbox.rate_limit import RateLimiter, Slots
from tests.support.database import Database

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = outbox_pool(database.url)
    yield pool
    await pool.close()


def row(database: Database) -> tuple[float | None, float]:
    """The rate, and in how many seconds the next slot is."""
    ((rate, wait),) = database.execute(
        "SELECT rate, extract(epoch FROM next_at - clock_timestamp())::float8 FROM pgherald.rate_limit"
    )
    return rate, wait


def let_pass(database: Database, seconds: float) -> None:
    database.execute(
        "UPDATE pgherald.rate_limit SET next_at = next_at - make_interval(secs => %(s)s), "
        "throttled_at = throttled_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


async def test_without_a_limit_the_database_is_asked_once(database: Database, pool: Pool) -> None:
    rate_limiter = RateLimiter(pool)
    assert rate_limiter.is_limited(None)
    assert await rate_limiter.reserve(500, None) == Slots(500)
    assert not rate_limiter.is_limited(None)
    database.execute("DELETE FROM pgherald.rate_limit")
    assert await rate_limiter.reserve(500, None) == Slots(500)
    with pytest.raises(SchemaError, match="pgherald install"):
        await RateLimiter(pool).reserve(1, None)


async def test_two_share_one_rate(database: Database, pool: Pool) -> None:
    one, other = RateLimiter(pool), RateLimiter(pool)
    first, second = await one.reserve(4, 20.0), await other.reserve(500, 20.0)
    assert (first.number, first.interval) == (4, 0.05)
    assert first.wait == pytest.approx(0, abs=0.02)
    # What begins within half a second, after the other's.
    assert 0 < second.wait <= 0.2
    assert second.number == pytest.approx((0.5 - second.wait) * 20, abs=1)
    database.execute("UPDATE pgherald.rate_limit SET next_at = now() + interval '10 s'")
    third = await one.reserve(4, 20.0)
    assert third.number == 0
    assert 0.5 < third.wait <= 10
    let_pass(database, 10)
    assert (await one.reserve(4, 20.0)).number == 4


async def test_the_slots_of_a_second_are_no_more_than_the_rate(pool: Pool) -> None:
    """From many tasks, as they come."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.0
    granted: list[float] = []

    async def take(rate_limiter: RateLimiter) -> None:
        while (now := loop.time()) < until:
            slots = await rate_limiter.reserve(3, 100.0)
            granted.extend(now + slots.wait + i * slots.interval for i in range(slots.number))
            await rate_limiter.refund(slots, slots.number)
            await asyncio.sleep(0 if slots.number else min(slots.wait, 0.05))

    await asyncio.gather(*(take(RateLimiter(pool)) for _ in range(3)))
    # A second, and the half that is looked ahead.
    assert 50 <= len(granted) <= 155


async def test_a_slow_rate_gives_one_at_a_time(database: Database, pool: Pool) -> None:
    rate_limiter = RateLimiter(pool)
    assert (await rate_limiter.reserve(16, 0.5)).number == 1
    assert 0.5 < (await rate_limiter.reserve(16, 0.5)).wait <= 2
    # Configured anew, it need not sit out what was reserved by the old rate.
    database.execute("UPDATE pgherald.rate_limit SET next_at = now() + interval '1 day'")
    assert (await rate_limiter.reserve(16, 10.0)).wait < 2


async def test_what_was_not_needed_is_given_back(database: Database, pool: Pool) -> None:
    rate_limiter = RateLimiter(pool)
    slots = await rate_limiter.reserve(5, 10.0)
    await rate_limiter.refund(slots, 1)
    assert row(database)[1] < 0.2


async def test_a_throttled_daemon_halves_what_all_sent_and_time_raises_it_again(database: Database, pool: Pool) -> None:
    database.execute("INSERT INTO pgherald.worker (name, version, lease) VALUES ('a', '', '10 s'), ('b', '', '10 s')")
    rate_limiter, other = RateLimiter(pool), RateLimiter(pool)
    await rate_limiter.reserve(1, None)
    await other.reserve(1, None)
    for _ in range(40):
        rate_limiter.sent()
    with structlog.testing.capture_logs() as logs:
        await rate_limiter.throttled("454 slower", None)
        # What else was on its way.
        await rate_limiter.throttled("454 slower", None)
        await other.throttled("454 slower", None)
    assert [(entry["event"], entry["per_second"], entry["was"]) for entry in logs] == [("rate_lowered", 40, 80)]
    assert row(database) == (40, pytest.approx(1, abs=0.5))
    assert rate_limiter.is_limited(None)
    assert other.is_limited(None)
    assert (await other.reserve(1, None)).number == 0
    for seconds, rate in [(5, 60), (5, 80), (10, 120)]:
        let_pass(database, seconds)
        assert 1 / (await other.reserve(1, None)).interval == pytest.approx(rate, rel=0.1)
    # The configured rate stays the upper limit.
    assert 1 / (await RateLimiter(pool).reserve(1, 50.0)).interval == pytest.approx(50)
    await RateLimiter(pool).throttled("454 slower", None)
    assert row(database)[0] == pytest.approx(60, rel=0.1)
    let_pass(database, 300)
    with structlog.testing.capture_logs() as logs:
        assert await rate_limiter.reserve(7, None) == Slots(7)
    assert [entry["event"] for entry in logs] == ["rate_limit_lifted"]
    assert not rate_limiter.is_limited(None)


async def test_it_never_stops_altogether(database: Database, pool: Pool) -> None:
    rate_limiter = RateLimiter(pool)
    for _ in range(16):
        rate_limiter._lowered_at = -math.inf
        await rate_limiter.throttled("454 slower", None)
        let_pass(database, 3)
    assert row(database)[0] == pytest.approx(0.1)


async def test_a_database_that_is_away_lowers_nothing_and_breaks_nothing(pool: Pool) -> None:
    rate_limiter = RateLimiter(outbox_pool("postgresql://127.0.0.1:1/none"))
    await rate_limiter.throttled("454 slower", None)
    assert rate_limiter.is_limited(None)


async def test_who_is_throttled_may_have_sent_nothing_and_others_all(database: Database, pool: Pool) -> None:
    await RateLimiter(pool).throttled("454 slower", None)
    assert row(database)[0] == pytest.approx(5)
