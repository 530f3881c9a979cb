"""Fewer connections than configured, if the server allows fewer; and one more after a while."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from listener.smtp import connection_limit as module
from listener.smtp.connection_limit import ConnectionLimit


class Users:
    """Tasks that use a connection until `release`."""

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit
        self._over: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.using = self.most = 0

    async def add(self, number: int) -> None:
        for _ in range(number):
            self._over.append(asyncio.Event())
            self._tasks.append(asyncio.create_task(self._use(self._over[-1])))
        await settle()

    async def release(self, number: int) -> None:
        for _ in range(number):
            self._over.pop(0).set()
        await settle()

    async def cancel_last(self) -> None:
        self._tasks.pop().cancel()
        await settle()

    async def _use(self, over: asyncio.Event) -> None:
        async with self._limit:
            self.using += 1
            self.most = max(self.most, self.using)
            await over.wait()
            self.using -= 1


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_no_more_are_used_than_configured() -> None:
    users = Users(ConnectionLimit(3))
    await users.add(5)
    assert users.using == 3
    await users.release(2)
    assert (users.using, users.most) == (3, 3)
    await users.release(3)
    assert users.using == 0


async def test_a_refusal_leaves_as_many_as_the_others() -> None:
    limit = ConnectionLimit(8)
    users = Users(limit)
    await users.add(2)
    async with limit:
        assert limit.lower("too many")
        assert limit.now == 2
    await users.add(3)
    assert users.using == 2
    await users.release(1)
    assert users.using == 2
    limit.close()


async def test_several_refusals_at_once_leave_those_that_were_accepted() -> None:
    limit = ConnectionLimit(8)
    async with AsyncExitStack() as accepted:
        for _ in range(2):
            await accepted.enter_async_context(limit)
        async with AsyncExitStack() as refused:
            for _ in range(6):
                await refused.enter_async_context(limit)
            for _ in range(6):
                assert limit.lower("too many")
        assert limit.now == 2
    limit.close()


async def test_the_only_connection_cannot_be_given_up() -> None:
    limit = ConnectionLimit(8)
    async with limit:
        assert not limit.lower("too many")
    assert limit.now == 8


async def test_it_is_raised_by_one_after_a_while_up_to_the_configured_number(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = ConnectionLimit(4)
    users = Users(limit)
    await users.add(1)
    async with limit:
        limit.lower("too many")
    await users.add(5)
    assert users.using == 1
    assert limit._timer is not None
    assert limit._timer.when() - asyncio.get_running_loop().time() == pytest.approx(module._RAISE_INTERVAL_S, abs=5)
    for expected in (2, 3, 4):
        limit._timer.cancel()
        limit._raise()
        await settle()
        assert users.using == expected
    assert limit._timer is None
    await users.release(6)


async def test_one_that_is_cancelled_while_it_waits_passes_its_turn_on() -> None:
    limit = ConnectionLimit(1)
    users = Users(limit)
    await users.add(3)
    await users.cancel_last()
    await users.release(1)
    assert users.using == 1
    await users.release(1)
    assert users.using == 0
