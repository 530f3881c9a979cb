"""The presence lock: held means alive, and a stranger who holds its number is noticed."""

import asyncio

import pytest

from listener.notify.presence import PresenceLock
from tests.support.clock import jumping


class Server:
    """Answers each question with `answer`, and notes the lock's number."""

    def __init__(self, answer: bool | None) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def ask(self, query: str) -> bool | None:
        self.asked.append(query)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "changed", "held", "taken", "asked_again"),
    [(True, True, True, False, 0), (False, True, False, True, 0), (None, False, False, False, 1)],
    ids=["granted", "another session has it", "no answer"],
)
@jumping
async def test_the_answer_decides(
    answer: bool | None, changed: bool, held: bool, taken: bool, asked_again: int
) -> None:
    """Without an answer nothing is known, and the lock is asked for again."""
    server = Server(answer)
    lock = PresenceLock(server.ask)
    lock.assign(7)
    assert await lock.acquire() is changed
    assert (lock.held, lock.taken) == (held, taken)
    await lock.acquire()
    assert server.asked == ["SELECT pg_try_advisory_lock(726355, 7)"] * (1 + asked_again)


@jumping
async def test_without_a_number_nothing_is_locked() -> None:
    server = Server(True)
    assert not await PresenceLock(server.ask).acquire()
    assert server.asked == []


@jumping
async def test_an_answer_about_an_earlier_number_counts_for_nothing() -> None:
    """The row names the new number. A worker that believed it held that lock would be taken for dead."""
    server = Server(True)
    lock = PresenceLock(server.ask)
    lock.assign(7)
    ask = server.ask

    async def assign_meanwhile(query: str) -> bool | None:
        lock.assign(8)
        return await ask(query)

    lock._ask = assign_meanwhile
    assert not await lock.acquire()
    assert not lock.held
    lock._ask = ask
    assert await lock.acquire()
    assert server.asked[-1].endswith("8)")


@jumping
async def test_after_the_session_is_lost_the_lock_is_acquired_again() -> None:
    server = Server(True)
    lock = PresenceLock(server.ask)
    lock.assign(7)
    await lock.acquire()
    lock.lost()
    assert not lock.held
    assert await lock.acquire()
    assert lock.held


@jumping
async def test_a_refusal_is_suspicious_for_a_few_seconds() -> None:
    """The worker gets another number at once. The lock watch needs two looks, a second apart, to see the holder."""
    lock = PresenceLock(Server(False).ask)
    lock.assign(7)
    assert not lock.was_just_taken
    await lock.acquire()
    lock.assign(8)
    await asyncio.sleep(3)
    assert lock.was_just_taken
    await asyncio.sleep(3)
    assert not lock.was_just_taken
