"""A background task that fails stops the daemon, and its error is the daemon's."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog

from listener.daemon.tasks import Tasks
from listener.errors import PgheraldError, SchemaError

MISSING = SchemaError("the schema pgherald is missing; run `pgherald install`")


async def fail(error: Exception) -> None:
    raise error


async def wait() -> None:
    await asyncio.Event().wait()


async def test_an_error_with_a_remedy_reaches_the_operator_as_it_is() -> None:
    tasks = Tasks()
    with structlog.testing.capture_logs() as logs:
        tasks.start(fail(MISSING), "worker")
        await asyncio.wait_for(tasks.stopping.wait(), 5)
    assert tasks.error is MISSING
    assert logs == []
    with pytest.raises(SchemaError):
        tasks.raise_error()


async def test_a_crash_stops_the_daemon_and_is_logged_with_its_place() -> None:
    """With one task dead the daemon would deliver nothing, and look healthy."""
    tasks = Tasks()
    with structlog.testing.capture_logs() as logs:
        tasks.start(wait(), "lease")
        tasks.start(fail(ZeroDivisionError("by zero")), "worker")
        await asyncio.wait_for(tasks.stopping.wait(), 5)
    [entry] = logs
    assert (entry["event"], entry["log_level"], entry["task"]) == ("crashed", "critical", "worker")
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    with pytest.raises(PgheraldError, match=r"ZeroDivisionError.*please report it"):
        tasks.raise_error()
    await tasks.cancel()


@pytest.mark.parametrize("work", [wait, lambda: asyncio.sleep(0)], ids=["cancelled", "finished"])
async def test_a_task_that_ends_in_order_stops_nothing(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    tasks = Tasks()
    tasks.start(work(), "stats")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await tasks.cancel()
    tasks.raise_error()
    assert (tasks.stopping.is_set(), tasks.error) == (False, None)


async def test_a_cancelled_task_has_ended_when_cancel_returns() -> None:
    """The pools are closed next. A task that still wrote its last rows would lose them."""
    written: list[str] = []

    async def write_at_the_end() -> None:
        try:
            await wait()
        finally:
            await asyncio.sleep(0.01)
            written.append("last rows")

    tasks = Tasks()
    tasks.start(write_at_the_end(), "stats")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert written == ["last rows"]
