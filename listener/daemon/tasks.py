"""The daemon's background tasks."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from listener.errors import PgheraldError
from listener.logs import log

T = TypeVar("T")


class Tasks:
    """Run background tasks until the daemon stops.

    `stopping` is set when the daemon is to end, by a signal or by a task that failed. `error` is why a task failed.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.error: PgheraldError | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a background task.

        An uncaught exception stops the daemon: with one task dead it would deliver nothing, silently.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel(self) -> None:
        """Cancel every task, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def raise_error(self) -> None:
        """Raise what a task failed with, if one did."""
        if self.error is not None:
            raise self.error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            if not isinstance(exc, PgheraldError):
                log.critical("crashed", task=task.get_name(), exc_info=exc)
                exc = PgheraldError(f"an internal error ended the daemon: {exc!r}; please report it")
            self.error = exc
            self.stopping.set()
