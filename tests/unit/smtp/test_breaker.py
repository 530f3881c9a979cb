"""The breaker, on a clock that jumps instead of waiting."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import structlog

from listener import retry
from listener.smtp.breaker import Breaker
from listener.smtp.replies import Scope
from tests.support.clock import JumpingLoop

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        yield runner.run


def now() -> float:
    return asyncio.get_running_loop().time()


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed(Scope.server, "gone")


def test_an_operator_ends_a_pause(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        breaker.retry_now()
        assert not breaker.is_open
        breaker.pause(900.0, "535 no", Scope.configuration)
        began = now()
        waiting = asyncio.create_task(breaker.wait())
        await asyncio.sleep(1)
        assert not waiting.done()
        breaker.retry_now()
        await waiting
        assert now() - began < 2
        assert breaker.is_probing
        breaker.succeeded()
        assert breaker.reason is None

    run(story())


def test_opens_after_five_failures_in_a_row(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 4)
        breaker.succeeded()
        fail(breaker, 4)
        assert not breaker.is_open
        assert breaker.reason is None
        await breaker.wait()
        assert now() == 0
        assert not breaker.is_probing
        fail(breaker, 1)
        assert breaker.is_open
        assert breaker.reason == "gone"

    run(story())


def test_a_fault_in_the_configuration_opens_at_once(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        with structlog.testing.capture_logs() as logs:
            breaker.failed(Scope.configuration, "535 no")
        assert breaker.is_open
        assert [(entry["event"], entry["log_level"], entry["reason"]) for entry in logs] == [
            ("breaker_open", "error", "535 no")
        ]

    run(story())


def test_the_pause_grows_to_fifteen_seconds_and_starts_anew_after_a_success(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 5)
        pauses = []
        for _ in range(7):
            start = now()
            await breaker.wait()
            pauses.append(now() - start)
            assert not breaker.is_open
            assert breaker.is_probing
            fail(breaker, 1)
        assert pauses == pytest.approx([1, 2, 4, 8, 15, 15, 15])
        await breaker.wait()
        breaker.succeeded()
        assert not breaker.is_open
        assert not breaker.is_probing
        assert breaker.reason is None
        fail(breaker, 4)
        assert not breaker.is_open
        fail(breaker, 1)
        start = now()
        await breaker.wait()
        assert now() - start == pytest.approx(1)

    run(story())


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_pause_is_jittered_and_never_longer_than_fifteen_seconds(
    run: Run, monkeypatch: pytest.MonkeyPatch, jitter: float
) -> None:
    async def story() -> None:
        monkeypatch.setattr(retry.random, "uniform", lambda low, high: low + jitter * (high - low))
        breaker = Breaker()
        fail(breaker, 5)
        for exponent in range(9):
            start = now()
            await breaker.wait()
            longest = min(15, 2**exponent)
            assert longest / 2 <= now() - start <= longest + 1e-6
            assert now() - start == pytest.approx(longest * (0.5 + jitter / 2))
            fail(breaker, 1)

    run(story())


def test_failures_that_were_under_way_do_not_lengthen_the_pause(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 13)
        await breaker.wait()
        assert now() == pytest.approx(1)

    run(story())


def test_a_probe_that_fails_closes_nothing_whatever_had_opened_it(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        breaker.failed(Scope.configuration, "535 no")
        await breaker.wait()
        fail(breaker, 1)
        assert breaker.is_open

    run(story())


def test_one_probe_at_a_time(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 5)
        through: list[float] = []

        async def attempt() -> None:
            await breaker.wait()
            through.append(now())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(attempt())
            await asyncio.sleep(3)
            assert through == pytest.approx([1])
            fail(breaker, 1)
            await asyncio.sleep(1)
            assert len(through) == 1
            await asyncio.sleep(3)
            assert through == pytest.approx([1, 5])
            breaker.succeeded()
            await asyncio.sleep(0.1)
            assert through == pytest.approx([1, 5, 7])

    run(story())


def test_a_probe_of_which_nothing_is_heard_does_not_keep_the_others_for_ever(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 5)
        await breaker.wait()
        await breaker.wait()
        assert now() == pytest.approx(1 + 15)
        assert breaker.is_probing

    run(story())


def test_a_late_success_closes_it(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 5)
        waiting = asyncio.create_task(breaker.wait())
        await asyncio.sleep(0.5)
        breaker.succeeded()
        await waiting
        assert now() == pytest.approx(0.5)
        assert not breaker.is_probing

    run(story())


def test_a_pause_the_server_asked_for_is_kept_whatever_happens_meanwhile(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        breaker.pause(600, "454 quota")
        breaker.pause(5, "454 rate")
        assert breaker.is_open
        breaker.succeeded()
        fail(breaker, 7)
        assert breaker.is_open
        await breaker.wait()
        assert now() == pytest.approx(600)
        assert breaker.is_probing
        breaker.succeeded()
        assert not breaker.is_open
        assert breaker.reason is None

    run(story())


def test_a_pause_asked_for_by_the_probe(run: Run) -> None:
    async def story() -> None:
        breaker = Breaker()
        fail(breaker, 5)
        await breaker.wait()
        breaker.pause(5, "454 rate")
        assert not breaker.is_probing
        await breaker.wait()
        assert now() == pytest.approx(1 + 5)

    run(story())


def test_its_clock_can_be_given() -> None:
    time = 100.0
    breaker = Breaker(clock=lambda: time)
    fail(breaker, 5)
    assert breaker.is_open
